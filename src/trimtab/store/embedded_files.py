"""The files of stores without a server: names, kinds and formats, for code that reads a state folder directly."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.core.urls import store_url
from trimtab.store.file_blob import check_format
from trimtab.store.lmdb.place import pairs_file

Kind = Literal["catalogue", "log file", "key-value store", "blob store"]

_CATALOG, _BLOBS = "catalog.db", "format"
_LOCKS = (".lock", ".holder")  # suffixes of files
_SQLITE = b"SQLite format 3\x00"
# the place of the application id in the header of an SQLite file; only logs set this id
_APPLICATION = slice(68, 72)


def embedded_urls(folder: Path) -> dict[str, str]:
    """Return the URL of each store in a state folder, by the name of its part ("log", "catalog", ...)."""
    names = ("events", "predictions", "quarantine", "exposures")
    logs = {name: store_url("sqlite", folder / "log" / name) for name in names}
    values = {name: store_url("lmdb", folder / name) for name in ("online", "answers", "learners")}
    catalog, blob = store_url("sqlite", catalog_file(folder)), store_url("file", folder / "blob")
    return {"catalog": catalog, "blob": blob, **logs, **values}


def catalog_file(folder: Path) -> Path:
    """Return the path of the catalogue's file in a state folder."""
    return folder / _CATALOG


def is_of_catalog(name: str) -> bool:
    """Return whether a file name is that of the catalogue's database, or of a file that SQLite keeps for it."""
    return name.startswith(_CATALOG)


def is_of_process(path: Path) -> bool:
    """Return whether a file only says which processes use a store now. Copies of the folder do not need it."""
    return path.suffix in _LOCKS or path.name == "lock.mdb"


def check_file(path: Path, repair: str) -> Kind | None:
    """If a file is the main file of a store, check that trimtab can read it, and return the kind of the store.

    Args:
        path: Any file of a state folder. If it is not the main file of a store, it is not checked; the result is None.
        repair: The advice in the error message if the file is a damaged key-value store.

    Raises:
        Misuse: This version does not read the file's format.
        Corrupt: The file is damaged.
        Unavailable: SQLite or LMDB cannot open the file now.
        OSError: The system cannot read the file.
    """
    if path == pairs_file(path.parent):
        from trimtab.store.lmdb.kv import LmdbKeyValue

        with LmdbKeyValue(path.parent, repair=repair) as values:
            values.check()
        return "key-value store"
    if path.name == _BLOBS:
        check_format(path, path.read_text("ascii", "replace").strip())
        return "blob store"
    with path.open("rb") as file:
        head = file.read(_APPLICATION.stop)
    if not head.startswith(_SQLITE):
        return None
    if any(head[_APPLICATION]):
        from trimtab.store.sqlite.partition import PartitionReader

        PartitionReader(path).close()
        return "log file"
    _check_catalog(path)
    return "catalogue"


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
            return  # a file of another program, or a file that was just created
        raise Unavailable(f"{path}: cannot be read now ({error}). Try again.") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"{path}: {error}. Restore it from a backup.") from error
    if found and found[0] not in KNOWN:
        raise Misuse(
            f"{path}: schema revision {found[0]}, but this trimtab reads {', '.join(KNOWN)}. Use the trimtab that "
            "wrote it."
        )
