"""The catalogue in an SQL database, which is an SQLite file today. # D0219"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from trimtab.core.clock import Clock, SystemClock
from trimtab.core.closing import Closing
from trimtab.core.errors import Conflict, Corrupt, Misuse, Unavailable
from trimtab.core.hashing import row_crc
from trimtab.store import catalog_schema as schema
from trimtab.store.durable_files import check_writable, make_folder, narrow, publish
from trimtab.store.forks import check_inherited, forked, guard, unguard
from trimtab.store.ports import Append, Entry, Put, Record, Remove
from trimtab.store.sqlite.changes import SqliteChanges
from trimtab.store.sqlite.errors import SQLITE_RAISES, named
from trimtab.store.sqlite.partition_file import FileId, file_id
from trimtab.store.sqlite.wal import acknowledged_frames
from trimtab.store.sqlite.write_lock import WriteLock

_CHECKED_PAGES = 1_000  # 4 MB; smaller databases are checked at each opening, which takes a few ms
_THREADS = 64  # this many threads may use a catalogue at once; further threads wait
_IDLE = 5  # this many connections are kept open between uses
# with fewer checkpoints (each of which syncs twice), a page that was written often is copied only once
_RELAXED = ("synchronous = NORMAL", "wal_autocheckpoint = 8000", "journal_size_limit = 67108864")
_PRAGMAS = {"durable": ("synchronous = FULL", "journal_size_limit = 1048576"), "relaxed": _RELAXED}
_BUSY_S = 30.0  # how long a writer waits for other writers before it fails
_BEGIN, _BEGIN_WRITING = "BEGIN", "BEGIN IMMEDIATE"
_GET = "SELECT kind, key, revision, body, crc FROM record WHERE kind = ? AND key = ?"
_FIND = "SELECT kind, key, revision, body, crc FROM record WHERE kind = ?"
_REVISION = "SELECT revision FROM record WHERE kind = ? AND key = ?"
_INSERT = "INSERT INTO record VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_UPDATE = "UPDATE record SET revision = ?, body = ?, crc = ? WHERE kind = ? AND key = ? AND revision = ?"
_LINES = "SELECT * FROM journal WHERE journal = ? AND sequence > ? ORDER BY sequence LIMIT ?"


class SqlCatalog(Closing):
    """A `Catalog` in one database, for many threads and processes. Opening an older catalogue migrates it.

    >>> import tempfile
    >>> with SqlCatalog.sqlite(Path(tempfile.mkdtemp()) / "catalog.db") as catalog:
    ...     catalog.write([Put("alias", "champion", b'"late@7"', expected=0)])
    ...     catalog.get("alias", "champion")
    Record(kind='alias', key='champion', revision=1, body=b'"late@7"')
    """

    def __init__(self, path: Path, *, pragmas: Sequence[str], clock: Clock | None = None) -> None:
        self.what = str(path)
        self.folder = path.parent
        self._clock = clock or SystemClock()
        self._pragmas = pragmas
        self._idle: list[sqlite3.Connection] = []
        self._free = threading.BoundedSemaphore(_THREADS)
        self._lock = WriteLock(path.with_name(f"{path.name}-turn"), wait_s=_BUSY_S)
        self._forked = self._closed = False
        self._changes = SqliteChanges(path)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        self._file: FileId | None = file_id(self.what)
        guard(self, path)

    @staticmethod
    def sqlite(
        path: Path, *, clock: Clock | None = None, mode: Literal["durable", "relaxed"] = "durable"
    ) -> SqlCatalog:
        """Open the catalogue in an SQLite file. A file that does not exist is created.

        In mode `durable`, each write is synced before it returns. In mode `relaxed`, all writes survive kill -9, but a
        power failure may lose the last ones (each as a whole). `relaxed` is for data that can be computed again, such
        as those of a replay. # D0190
        """
        check_inherited(path)
        check_writable(path.parent)
        try:
            make_folder(path.parent)
            if not path.exists():
                _create_sqlite(path)
            elif path.stat().st_size == 0:
                raise Corrupt(
                    f"{path}: the file is empty, so it is not a catalogue. Restore it from a copy, or delete it."
                )
        except OSError as error:
            raise Unavailable(
                f"{path}: cannot be made ({error}). Check free space and access, and try again."
            ) from error
        return SqlCatalog(path, pragmas=_PRAGMAS[mode], clock=clock)

    def get(self, kind: str, key: str) -> Record | None:
        """Return a record, or None if it does not exist.

        Raises:
            Corrupt: The record is damaged. The message names it.
        """
        with self._connection() as connection:
            row = connection.execute(_GET, (kind, key)).fetchall()
        return self._record(row[0]) if row else None

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        """Return the records of a kind whose keys start with `prefix`, in the order of their keys."""
        above, condition = _above(prefix) if prefix else None, ""
        values: tuple[str | int, ...] = (kind,)
        if above is not None:
            # this bound keeps SQLite from scanning later keys
            condition, values = " AND key >= ? AND key < ?", (kind, prefix, above)
        elif prefix:
            condition, values = " AND key >= ? AND substr(key, 1, ?) = ?", (kind, prefix, len(prefix), prefix)
        with self._connection() as connection:
            rows = connection.execute(f"{_FIND}{condition} ORDER BY key", values).fetchall()
        return [self._record(row) for row in rows]

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        """Make all changes or none. When this returns, the changes are as safe as the mode says; see `sqlite`.

        Raises:
            Conflict: An `expected` is not met. The message names the first such change. Nothing was written.
            Unavailable: The disk is full, other processes wrote for too long, or the file was moved or replaced.
                Nothing was written.
        """
        for change in changes:
            _check_names(*((change.journal,) if isinstance(change, Append) else (change.kind, change.key)))
        if not changes:
            return
        if file_id(self.what) != self._file:  # the file was moved or replaced # D0169
            raise Unavailable(
                f"{self.what}: the file was removed, moved or replaced while this process was using it; nothing was "
                "written. Put it back, or restart this process."
            )
        with self._transaction(_BEGIN_WRITING) as connection:
            for change in changes:
                match change:
                    case Put():
                        self._put(connection, change)
                    case Remove():
                        self._remove(connection, change)
                    case Append():
                        self._append(connection, change)

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        """Return up to `limit` lines of a journal with a sequence number above `after`, in order.

        Raises:
            Corrupt: A line is damaged or missing. The message names it.
        """
        with self._connection() as connection:
            rows = connection.execute(_LINES, (name, after, limit)).fetchall()
        found = []
        for expected, (journal, sequence, at_us, body, crc) in enumerate(rows, after + 1):
            if sequence != expected:
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is missing. Restore it from a copy.")
            if crc != row_crc(journal, sequence, at_us, body):
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is damaged. Restore it from a copy.")
            found.append(Entry(journal, sequence, at_us, bytes(body)))
        return found

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease. Return False if another holder has the lease and it has not expired."""
        _check_names(lease, holder)
        if not ttl_s > 0:
            raise Misuse(f"catalogue: found a lease of {ttl_s} s. Give a time to live above zero.")
        now_us = self._clock.now_us()
        expires_at_us = now_us + int(ttl_s * 1e6)
        values = lease, holder, expires_at_us, row_crc(lease, holder, expires_at_us)
        with self._transaction(_BEGIN_WRITING) as connection:
            row = self._lease(connection, lease)
            if row is not None and row[1] != holder and row[2] > now_us:
                return False
            connection.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?)", values)
        return True

    def release(self, lease: str, holder: str) -> None:
        """Release a lease. Do nothing if `holder` does not have the lease."""
        with self._transaction(_BEGIN_WRITING) as connection:
            connection.execute("DELETE FROM lease WHERE lease = ? AND holder = ?", (lease, holder))

    def check(self) -> int:
        """Check the structure of the database and every row. Return the number of rows.

        Reads check just the rows that they find. `check` also notices rows that damage has hidden.

        Raises:
            Corrupt: A row or a page is damaged or missing. The message names it.
        """
        with self._transaction(_BEGIN) as connection:
            self._check_structure(connection)
            kinds = [kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM record")]
            journals = connection.execute("SELECT journal, count(*) FROM journal GROUP BY journal").fetchall()
            leases = [lease for (lease,) in connection.execute("SELECT lease FROM lease")]
            for name in leases:
                self._lease(connection, name)
        rows = len(leases) + sum(len(self.find(kind)) for kind in kinds)
        for name, lines in journals:
            rows += len(self.journal(name, limit=lines))
        return rows

    def mark(self) -> tuple[int, int] | None:
        """Return a value that changes whenever a process writes."""
        self._refuse_forked()
        return self._changes.mark()

    def vacuum(self) -> None:
        """Rewrite the database without the bytes of replaced and removed records.

        Raises:
            Unavailable: Another process is reading the database, or the disk is full. Call this again later.
        """
        with self._lock.hold(), self._connection() as connection:
            connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable(f"{self.what}: another process is reading it, so old bytes stay in it. Try again later.")

    def copy_to(self, path: Path) -> None:
        """Write a snapshot of the catalogue to a new SQLite file. Leases are left out, and rows are not checked.

        Raises:
            Unavailable: The disk is full or read-only.
            Corrupt: SQLite cannot read the file.
        """
        self._refuse_forked()
        try:
            with (
                contextlib.closing(sqlite3.connect(self.what, timeout=_BUSY_S)) as source,
                contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy,
            ):
                source.backup(copy)
                copy.execute("DELETE FROM lease")  # leases are only valid in the original catalogue
        except SQLITE_RAISES as error:
            raise named(error, f"copying {self.what} to {path}") from error

    def close(self) -> None:
        if self._forked:
            return
        unguard(self)
        self._changes.close()
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        self._lock.close()

    def _prepare(self) -> None:
        with self._lock.hold():
            self._prepare_wal(Path(self.what))
            with self._transaction(_BEGIN) as connection:
                if connection.execute("PRAGMA page_count").fetchone()[0] < _CHECKED_PAGES:
                    self._check_structure(connection)
                revision = schema.revision_of(connection, self.what)
        if revision != schema.HEAD:
            with self._transaction(_BEGIN_WRITING) as connection:
                # another process may have migrated the database meanwhile
                schema.migrate(connection, schema.revision_of(connection, self.what))

    def _prepare_wal(self, path: Path) -> None:
        """Switch the file to WAL mode, and raise an error if its write-ahead log is damaged.

        SQLite would silently ignore the rest of a damaged log. # D57
        """
        acknowledged = acknowledged_frames(path)
        with self._connection() as connection:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if acknowledged:
                _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                # if the last connection of another process has removed the log meanwhile, no frames are missing
                if frames < acknowledged <= acknowledged_frames(path):
                    raise Corrupt(
                        f"{path}-wal: damaged: only {frames} of at least {acknowledged} acknowledged frames are sound. "
                        "Changes were lost; restore the catalogue from a copy."
                    )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection. Each statement on it is a transaction of its own, unless the caller begins one."""
        self._refuse_forked()
        if not self._free.acquire(timeout=_BUSY_S):
            raise Unavailable(f"{self.what}: all {_THREADS} connections are in use. Try again.")
        connection, sound = None, False
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connected()
            sound = True
            yield connection
        except SQLITE_RAISES as error:
            sound = False
            raise named(error, self.what) from error
        finally:
            if sound and connection is not None and len(self._idle) < _IDLE and not self._closed:
                self._idle.append(connection)
            elif connection is not None:
                connection.close()
            self._free.release()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.what, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            for pragma in self._pragmas:
                connection.execute(f"PRAGMA {pragma}").close()
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        self._refuse_forked()
        with self._lock.hold() if begin == _BEGIN_WRITING else contextlib.nullcontext(), self._connection() as one:
            one.execute(begin)
            try:
                yield one
            except BaseException:
                one.rollback()
                raise
            one.commit()

    def _put(self, connection: sqlite3.Connection, change: Put) -> None:
        found = change.expected
        if found is None:
            found = self._revision(connection, change)
        kind, key, body = change.kind, change.key, change.body
        crc = row_crc(kind, key, found + 1, body)
        if found:
            done = connection.execute(_UPDATE, (found + 1, body, crc, kind, key, found))
        else:
            done = connection.execute(_INSERT, (kind, key, 1, body, crc))
        if done.rowcount != 1:
            self._expect(f"record {change.kind}/{change.key}", "revision", self._revision(connection, change), found)

    def _remove(self, connection: sqlite3.Connection, change: Remove) -> None:
        if change.expected is not None:
            found = self._revision(connection, change)
            self._expect(f"record {change.kind}/{change.key}", "revision", found, change.expected)
        connection.execute("DELETE FROM record WHERE kind = ? AND key = ?", (change.kind, change.key))

    def _revision(self, connection: sqlite3.Connection, change: Put | Remove) -> int:
        found = connection.execute(_REVISION, (change.kind, change.key)).fetchone()
        return int(found[0]) if found else 0

    def _append(self, connection: sqlite3.Connection, change: Append) -> None:
        (last,) = connection.execute(
            "SELECT max(sequence) FROM journal WHERE journal = ?", (change.journal,)
        ).fetchone()
        following = (last or 0) + 1
        self._expect(f"journal {change.journal}", "next line", following, change.expected)
        values = change.journal, following, change.at_us, change.body
        connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", (*values, row_crc(*values)))

    def _expect(self, where: str, what: str, found: int, expected: int | None) -> None:
        if expected is not None and expected != found:
            raise Conflict(
                f"{self.what}: {where}: expected {what} {expected}, found {found}. Read it again before you decide."
            )

    def _lease(self, connection: sqlite3.Connection, name: str) -> Any:
        row = connection.execute("SELECT * FROM lease WHERE lease = ?", (name,)).fetchone()
        if row is not None and row[-1] != row_crc(*row[:-1]):
            raise Corrupt(f"{self.what}: lease {name!r} is damaged. Restore the catalogue from a copy.")
        return row

    def _check_structure(self, connection: sqlite3.Connection) -> None:
        """Run SQLite's own check of pages and indexes."""
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise Corrupt(f"{self.what}: damaged ({found}). Restore the catalogue from a copy.")

    def _record(self, row: Any) -> Record:
        kind, key, revision, body, crc = row
        if crc != row_crc(kind, key, revision, body):
            raise Corrupt(f"{self.what}: record {kind}/{key} is damaged. Restore the catalogue from a copy.")
        return Record(kind, key, revision, bytes(body))

    def after_fork(self) -> None:
        """Make every later call fail. This is called in a forked child."""
        self._forked = True

    def _refuse_forked(self) -> None:
        if self._forked:
            raise forked(Path(self.what))


def _above(prefix: str) -> str | None:
    """Return the smallest text above all texts that start with `prefix`.

    Return None if the last character of the prefix is followed by a code point that is no character.

    >>> _above("day/2024-05")
    'day/2024-06'
    """
    last = prefix[-1]
    # the code points after these two are not characters
    return None if last in "\ud7ff\U0010ffff" else prefix[:-1] + chr(ord(last) + 1)


def _check_names(*names: str) -> None:
    for name in names:
        if not name or "\0" in name:
            raise Misuse(f"catalogue: {name!r} is not a name. Give text that is not empty and has no zero character.")


def _create_sqlite(path: Path) -> None:
    """Make an empty catalogue of the newest schema. It is complete before it gets its name."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as made:
            made.execute("PRAGMA synchronous = FULL")
            made.execute("PRAGMA journal_mode = WAL").fetchone()
            for statement in ("BEGIN IMMEDIATE", *schema.TABLES, "COMMIT"):
                made.execute(statement)
        narrow(new)
        publish(new, path)
    except SQLITE_RAISES as error:
        raise named(error, str(path)) from error
    finally:
        for leftover in (new, Path(f"{new}-wal"), Path(f"{new}-shm")):
            leftover.unlink(missing_ok=True)
