"""Looks at a state folder without changing it: are its stores of a format that this version reads?"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

import msgspec

from trimtab.core.errors import Corrupt, Misuse, Unavailable

_SQLITE = b"SQLite format 3\x00"


def check_state(folder: Path) -> str:
    """What the state folder holds, in words.

    Raises:
        Misuse: A store is of a format that this version does not read; the message names its file.
        Corrupt: A store's head is damaged.
        Unavailable: A file cannot be read.
    """
    logs = catalogs = keyed = blobs = 0
    try:
        _check_folder(folder / "format.json")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.name == "data.mdb":
                _check_lmdb(path.parent)
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


def _check_folder(file: Path) -> None:
    """The folder's own format; a folder without one is not begun yet."""
    from trimtab.app.state import FORMAT, StateFormat

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
    from trimtab.store.sqlite_partition import PartitionReader

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


def _check_lmdb(folder: Path) -> None:
    import lmdb

    from trimtab.store.lmdb_environment import FORMAT, FORMAT_KEY

    try:
        environment = lmdb.open(str(folder), readonly=True, create=False, max_dbs=0)
        try:
            with environment.begin() as transaction:
                found = transaction.get(FORMAT_KEY)
        finally:
            environment.close()
    except lmdb.Error as error:
        raise Corrupt(f"{folder}: {error}. Delete the folder: it is a view, and is made again from the log.") from error
    if found is not None and bytes(found) != str(FORMAT).encode():
        version = bytes(found).decode("ascii", "replace")
        raise Misuse(
            f"{folder}: key-value format {version}, this trimtab reads {FORMAT}. Use the trimtab that wrote it."
        )


def _check_blobs(path: Path) -> None:
    from trimtab.store.file_blob import FORMAT

    found = path.read_text("ascii", "replace").strip()
    if found != str(FORMAT):
        raise Misuse(f"{path}: blob format {found!r}, this trimtab reads {FORMAT}. Use the trimtab that wrote it.")
