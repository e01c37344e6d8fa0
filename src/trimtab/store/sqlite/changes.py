"""Whether anybody committed to an SQLite file since one last looked, in some microseconds."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from pathlib import Path

from trimtab.store.sqlite.errors import SQLITE_RAISES, named

_openings = itertools.count()


class SqliteChanges:
    """Watches one file by a connection that never writes: its `data_version` changes with every commit of others.

    Versions of two connections say nothing about each other, so a mark also says which connection it is of.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opening = 0

    def mark(self) -> tuple[int, int]:
        """Something that is the same as before only if nobody committed in between.

        Raises:
            Unavailable: The file cannot be read now.
        """
        try:
            with self._mutex:
                if self._connection is None:
                    self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
                    self._opening = next(_openings)
                (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            return self._opening, version
        except SQLITE_RAISES as error:
            raise named(error, str(self._path)) from error

    def close(self) -> None:
        """Let go of the connection; the next mark opens another, and is a new one."""
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):  # nothing was written through it
                    connection.close()
