"""Detection of commits that other connections make to an SQLite file, in a few microseconds."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from pathlib import Path

from trimtab.store.sqlite.errors import SQLITE_RAISES, named

_openings = itertools.count()


class SqliteChanges:
    """A connection to one file that never writes. Its `data_version` changes with every commit of other connections.

    Versions of two connections cannot be compared, so a mark also holds the number of its connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opening = 0

    def mark(self) -> tuple[int, int]:
        """Return a value that stays the same only while no connection commits.

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
        """Close the connection. The next mark opens another connection, and differs."""
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):  # nothing was written through this connection
                    connection.close()
