"""Find out in a few microseconds whether another connection has committed to an SQLite file."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
from pathlib import Path

from trimtab.store.sqlite.errors import SQLITE_RAISES, named

_openings = itertools.count()


class SqliteChanges:
    """A connection that never writes. SQLite changes its `data_version` when another connection commits.

    The versions of different connections cannot be compared, so a mark also has the number of its connection.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opening = 0

    def mark(self) -> tuple[int, int]:
        """Return a value that changes whenever another connection commits.

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
        """Close the connection. The next call of `mark` opens a new connection, and returns a new value."""
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection is not None:
                # an error does not matter, because this connection wrote nothing
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
