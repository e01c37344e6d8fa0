"""Checks of a state folder for `trimtab doctor`: formats of its stores, lost artifacts, lost records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import msgspec

from trimtab.core.clock import SystemClock
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.hashing import bytes_hash
from trimtab.store.embedded_files import Kind, catalog_file, check_file, pairs_file
from trimtab.store.sql_catalog import SqlCatalog


def check_state(folder: Path) -> str:
    """What the state folder holds, in words.

    Raises:
        Misuse: A store is of a format that this version does not read; the message names its file.
        Corrupt: A store's head is damaged.
        Unavailable: A file cannot be read.
    """
    from trimtab.app.state.state import REBUILD, RESTORE

    found: Counter[str] = Counter()
    try:
        _check_folder(folder / "format.json")
        for path in sorted(folder.rglob("*")):
            if not (path.is_file() or path == pairs_file(path.parent)):
                continue
            kind = check_file(path, REBUILD if path.parent == folder / "online" else RESTORE)
            found.update([kind] if kind else [])
    except OSError as error:
        raise Unavailable(f"{error.filename}: {error.strerror}. Give this user access to the state folder.") from error
    return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name in get_args(Kind) if (n := found[name])) or "empty"


def lost_champions(folder: Path) -> tuple[int, list[tuple[str, str]]]:
    """How many versions are in service, and of each whose artifact is lost which file, and how, and what to do."""
    from trimtab.registry.loading import repair_lost
    from trimtab.store.file_blob import blob_file

    catalog = catalog_file(folder)
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


class _Move(msgspec.Struct, frozen=True):
    """What is looked at of an `AliasMove`."""

    version: str


class _Champion(msgspec.Struct, frozen=True):
    """What is looked at of a `Version`."""

    model: str
    number: int
    artifact: str
    imported: _ImportedFile | None = None


def _champions(catalog: Path) -> list[_Champion]:
    with SqlCatalog.sqlite(catalog) as records:
        moves = [record.body for record in records.find("alias") if record.key.endswith("/champion")]
        addresses = [move.version for body in moves if (move := msgspec.json.decode(body, type=_Move | None))]
        versions = [record for address in addresses if (record := records.get("version", address))]
    try:
        return [msgspec.json.decode(version.body, type=_Champion) for version in versions]
    except msgspec.MsgspecError as error:
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
