"""An SQLite file in WAL mode, opened to be read where nothing can be written beside it. # D43"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

import msgspec

from trimtab.core.errors import Unavailable
from trimtab.store.durable_files import unwritable

_NOT_BESIDE = (  # what SQLite says when it cannot make or map its -shm file
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)


class Stamp(msgspec.Struct, frozen=True):
    """How a database file looks from outside: another one after a read means that somebody changed it meanwhile."""

    file: int  # inode
    size_bytes: int
    changed_ns: int
    wal_bytes: int  # 0 without one
    shared: bool  # whether a -shm file is there: whoever writes has one

    @staticmethod
    def of(path: Path) -> Stamp:
        """How `path` looks now.

        Raises:
            Unavailable: It is gone, or cannot be looked at.
        """
        try:
            found = os.stat(path)
        except OSError as error:
            raise Unavailable(f"{path}: cannot be read ({error}). Check that it is there, and access.") from error
        try:
            wal_bytes = os.stat(f"{path}-wal").st_size
        except FileNotFoundError:
            wal_bytes = 0
        return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, wal_bytes, os.path.exists(f"{path}-shm"))


def open_reading(path: Path) -> tuple[sqlite3.Connection, Stamp | None]:
    """A connection that reads `path`, and None; where its -shm file cannot be made, the file's stamp instead.

    Then the connection takes no locks and sees no change. What was read by it counts if the stamp is the same
    afterwards.

    Raises:
        sqlite3.Error: SQLite's own words for everything else.
        Unavailable: The write-ahead log is needed, and cannot be read without a file beside it.
    """
    still = Stamp.of(path)
    if not still.wal_bytes and not still.shared and unwritable(path.parent):
        return _connected(path, "immutable=1"), still
    connection = _connected(path, "mode=ro")
    try:
        connection.execute("PRAGMA user_version").fetchone()  # only now are the files beside it opened
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in _NOT_BESIDE:
            raise
        still = Stamp.of(path)
        if still.wal_bytes:
            raise Unavailable(
                f"{path}: {still.wal_bytes:,} bytes of its -wal file are not in it yet, and to read them SQLite has "
                f"to make a -shm file beside it, which it cannot here ({error}). Open the project once where it can "
                "be written (`trimtab status`), or copy its folder to such a place and read the copy."
            ) from error
        return _connected(path, "immutable=1"), still
    except BaseException:
        connection.close()
        raise
    return connection, None


def _connected(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, isolation_level=None, check_same_thread=False)
