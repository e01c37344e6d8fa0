"""Looks at a state folder without changing it: are its stores of a format that this version reads?"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

import msgspec

from trimtab.core.clock import SystemClock
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.hashing import bytes_hash, row_crc

_SQLITE = b"SQLite format 3\x00"


def check_state(folder: Path) -> str:
    """What the state folder holds, in words.

    Raises:
        Misuse: A store is of a format that this version does not read; the message names its file.
        Corrupt: A store's head is damaged.
        Unavailable: A file cannot be read.
    """
    from trimtab.app.state.state import REBUILD, RESTORE

    logs = catalogs = keyed = blobs = 0
    try:
        _check_folder(folder / "format.json")
        for path in sorted(
            path for path in folder.rglob("*") if path.is_file() or (path.name == "data.mdb" and path.exists())
        ):
            if path.name == "data.mdb":
                _check_lmdb(path.parent, mend=REBUILD if path.parent == folder / "online" else RESTORE)
                keyed += 1
            elif path.name == "format":
                _check_blobs(path)
                blobs += 1
            elif _starts_with(path, _SQLITE):
                if _application(path):
                    _check_log(path)
                    logs += 1
                else:
                    _check_catalog(path)
                    catalogs += 1
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}. Give this user access to the state folder.") from error
    counts = {"catalogue": catalogs, "log file": logs, "key-value store": keyed, "blob store": blobs}
    return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items() if n) or "empty"


def lost_champions(folder: Path) -> tuple[int, list[tuple[str, str]]]:
    """How many versions are in service, and of each whose artifact is lost which file, and how, and what to do."""
    from trimtab.registry.loading import repair_lost
    from trimtab.store.file_blob import blob_file

    catalog = folder / "catalog.db"
    if not catalog.exists():
        return 0, []
    champions, lost = _champions(catalog), list[tuple[str, str]]()
    for version in champions:
        digest = version.artifact
        path = folder / "blob" / digest
        try:
            path = blob_file(folder / "blob", digest)
            damaged = "does not match its hash" if bytes_hash(path.read_bytes()) != digest else ""
        except FileNotFoundError:
            damaged = "is missing"
        except OSError as error:
            damaged = f"cannot be read: {error.strerror}"
        if damaged:
            mend = repair_lost(version.model, imported=None if version.imported is None else version.imported.file)
            lost.append((f"the artifact of {version.model}@{version.number} {damaged}: {path}", mend))
    return len(champions), lost


def check_logs(folder: Path) -> list[tuple[str, str]]:
    """Of each partition that lacks records which were read, or has some that a clock ahead stamped: what, and what to
    do."""
    from trimtab.app.features.clock_ahead import REPAIR, stamped_ahead
    from trimtab.app.state.lost_records import RECOVER, lost_records
    from trimtab.app.state.state import State

    if not (folder / "format.json").exists():
        return []
    clock = SystemClock()
    state = State(folder, clock=clock)
    try:
        found = [(str(lost), RECOVER) for lost in lost_records(state, tables=True)]
        return found + [(str(ahead), REPAIR) for ahead in stamped_ahead(state, clock.now_us())]
    finally:
        state.close()


class _ImportedFile(msgspec.Struct, frozen=True):
    """What is looked at of an `Imported`."""

    file: str


class _Champion(msgspec.Struct, frozen=True):
    """What is looked at of a `Version`."""

    model: str
    number: int
    artifact: str
    imported: _ImportedFile | None = None


def _champions(catalog: Path) -> list[_Champion]:
    query = (
        'SELECT version."key", version.revision, version.body, version.crc FROM record AS move, record AS version '
        "WHERE move.kind = 'alias' AND move.\"key\" LIKE '%/champion' AND version.kind = 'version' "
        "AND move.body != CAST('null' AS BLOB) AND version.\"key\" = json_extract(CAST(move.body AS TEXT), '$.version')"
    )
    try:
        connection = sqlite3.connect(f"file:{quote(str(catalog))}?mode=ro", uri=True)
        try:
            rows = connection.execute(query).fetchall()
        finally:
            connection.close()
        for key, revision, body, crc in rows:
            if crc != row_crc("version", key, revision, body):
                raise Corrupt(f"{catalog}: record version/{key} is damaged. Restore it from a backup.")
        return [msgspec.json.decode(body, type=_Champion) for _, _, body, _ in rows]
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []  # just made
        raise Unavailable(f"{catalog}: cannot be read now ({error}). Try again.") from error
    except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
        raise Corrupt(f"{catalog}: {error}. Restore it from a backup.") from error


def _check_folder(file: Path) -> None:
    """The folder's own format; a folder without one is not begun yet."""
    from trimtab.app.state.state import FORMAT, StateFormat

    if not file.exists():
        return
    try:
        found = msgspec.json.decode(file.read_bytes(), type=StateFormat).format
    except msgspec.MsgspecError as error:
        raise Corrupt(f"{file}: cannot be read ({error}). Restore it; this trimtab writes format {FORMAT}.") from error
    if found > FORMAT:
        raise Misuse(f"{file}: state of format {found}, this trimtab reads up to {FORMAT}. Install a newer trimtab.")


def _starts_with(path: Path, head: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(head)) == head


def _application(path: Path) -> int:
    """The application id in an SQLite file's header; 0: none was set."""
    with path.open("rb") as stream:
        return int.from_bytes(stream.read(100)[68:72], "big")


def _check_log(path: Path) -> None:
    from trimtab.store.sqlite.partition import PartitionReader

    PartitionReader(path).close()


def _check_catalog(path: Path) -> None:
    from trimtab.store.catalog_schema import KNOWN

    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            found = [str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")]
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return  # some other program's, or just made
        raise Unavailable(f"{path}: cannot be read now ({error}). Try again.") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"{path}: {error}. Restore it from a backup.") from error
    if found and found[0] not in KNOWN:
        raise Misuse(
            f"{path}: schema revision {found[0]}, this trimtab knows {', '.join(KNOWN)}. Use the trimtab that wrote it."
        )


def _check_lmdb(folder: Path, *, mend: str) -> None:
    """Read one whole key-value store, every value against its checksum."""
    from trimtab.store.lmdb.kv import LmdbKeyValue

    with LmdbKeyValue(folder, mend=mend) as values:
        values.check()


def _check_blobs(path: Path) -> None:
    from trimtab.store.file_blob import check_format

    check_format(path, path.read_text("ascii", "replace").strip())
