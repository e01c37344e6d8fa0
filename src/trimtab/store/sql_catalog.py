"""The catalogue in an SQLite file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from trimtab.core.clock import Clock, SystemClock
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

_CHECKED_PAGES = 1_000  # 4 MB: the structure of smaller databases is checked whenever they are opened, in a few ms
_SYNCHRONOUS = {"durable": "FULL", "relaxed": "NORMAL"}
_BUSY_S = 30.0  # how long a writer waits for others before it fails
_WRITE = "BEGIN IMMEDIATE"
_RECORDS = 'SELECT kind, "key", revision, body, crc FROM record WHERE kind = ?'
_ORDER = ' ORDER BY "key"'
_AT = ' WHERE kind = ? AND "key" = ?'
_LINES = "SELECT journal, sequence, at_us, body, crc FROM journal WHERE journal = ? AND sequence > ? ORDER BY sequence"


class SqlCatalog:
    """A `Catalog` in one SQLite file. Safe to use from many threads and processes; opening it migrates it.

    Each statement uses a connection of its own from a pool, so that readers and one writer work at the same time.

    >>> import tempfile
    >>> with SqlCatalog.sqlite(Path(tempfile.mkdtemp()) / "catalog.db") as catalog:
    ...     catalog.write([Put("alias", "champion", b'"late@7"', expected=0)])
    ...     catalog.get("alias", "champion")
    Record(kind='alias', key='champion', revision=1, body=b'"late@7"')
    """

    def __init__(self, path: Path, *, what: str, clock: Clock | None = None, synchronous: str = "FULL") -> None:
        self.what = what
        self.folder: Path | None = path.parent
        self._path = path
        self._synchronous = synchronous
        self._clock = clock or SystemClock()
        self._lock = WriteLock(path.with_name(f"{path.name}-turn"), wait_s=_BUSY_S)
        self._changes = SqliteChanges(path)
        self._idle: list[sqlite3.Connection] = []
        self._mutex = threading.Lock()  # guards `_idle`
        self._closed = self._forked = False
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        self._file: FileId | None = file_id(str(path))
        guard(self, path)

    @staticmethod
    def sqlite(
        path: Path, *, clock: Clock | None = None, mode: Literal["durable", "relaxed"] = "durable"
    ) -> SqlCatalog:
        """The catalogue in an SQLite file, made when it is not there.

        `durable` syncs each write before it returns; `relaxed` survives kill -9 as well, but may lose the last writes,
        whole ones, in a power failure: for data that can be made again, such as a replay. # D0193
        """
        check_inherited(path)
        check_writable(path.parent)
        try:
            make_folder(path.parent)
            if not path.exists():
                _create_sqlite(path)
            elif path.stat().st_size == 0:
                raise Corrupt(f"{path}: empty, which no catalogue ever is. Restore it from a copy, or delete it.")
        except OSError as error:
            raise Unavailable(
                f"{path}: cannot be made ({error}). Check free space and access, and try again."
            ) from error
        return SqlCatalog(path, what=str(path), clock=clock, synchronous=_SYNCHRONOUS[mode])

    def get(self, kind: str, key: str) -> Record | None:
        """The record, None when there is none.

        Raises:
            Corrupt: It is damaged; the message names it.
        """
        with self._transaction() as connection:
            row = connection.execute(f'{_RECORDS} AND "key" = ?', (kind, key)).fetchone()
        return self._record(row) if row else None

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        """Records of a kind whose key starts with `prefix`, by key."""
        query, values = _RECORDS, [kind]
        if prefix and (above := _above(prefix)) is not None:
            query, values = f'{query} AND "key" >= ? AND "key" < ?', [kind, prefix, above]
        elif prefix:
            query, values = f'{query} AND substr("key", 1, length(?)) = ?', [kind, prefix, prefix]
        with self._transaction() as connection:
            rows = connection.execute(query + _ORDER, values).fetchall()
        return [self._record(row) for row in rows]

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        """All changes or none, durable when it returns.

        Raises:
            Conflict: An `expected` did not hold; the message names the first such change. Nothing was written.
            Unavailable: The disk is full, others held the database for too long, or its file was moved or
                replaced; nothing was written.
        """
        for change in changes:
            _check_names(*((change.journal,) if isinstance(change, Append) else (change.kind, change.key)))
        if not changes:
            return
        if file_id(self.what) != self._file:  # D0169
            raise Unavailable(
                f"{self.what}: it was removed, moved or replaced while this process uses it; nothing was written. Put "
                "it back, or restart this process."
            )
        with self._transaction(_WRITE) as connection:
            for change in changes:
                match change:
                    case Put():
                        self._put(connection, change)
                    case Remove():
                        self._remove(connection, change)
                    case Append():
                        self._append(connection, change)

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        """Up to `limit` lines with sequence > `after`, in order.

        Raises:
            Corrupt: A line is damaged or missing; the message names it.
        """
        with self._transaction() as connection:
            rows = connection.execute(f"{_LINES} LIMIT ?", (name, after, limit)).fetchall()
        for expected, (of, sequence, at_us, body, crc) in enumerate(rows, after + 1):
            if sequence != expected:
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is missing. Restore it from a copy.")
            if crc != row_crc(of, sequence, at_us, body):
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is damaged. Restore it from a copy.")
        return [Entry(*row[:4]) for row in rows]

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease; False while another holder has it and it has not run out."""
        _check_names(lease, holder)
        if not ttl_s > 0:
            raise Misuse(f"catalogue: a lease of {ttl_s} s. Give a time to live above zero.")
        now_us = self._clock.now_us()
        expires_at_us = now_us + int(ttl_s * 1e6)
        with self._transaction(_WRITE) as connection:
            found = self._lease(connection, lease)
            if found is not None and found[0] != holder and found[1] > now_us:
                return False
            row = (lease, holder, expires_at_us, row_crc(lease, holder, expires_at_us))
            connection.execute("INSERT OR REPLACE INTO lease (lease, holder, expires_at_us, crc) VALUES (?,?,?,?)", row)
        return True

    def release(self, lease: str, holder: str) -> None:
        """Release a lease; does nothing if `holder` does not hold it."""
        with self._transaction(_WRITE) as connection:
            connection.execute("DELETE FROM lease WHERE lease = ? AND holder = ?", (lease, holder))

    def check(self) -> int:
        """Verify the database's structure and every row; the number of rows.

        A read verifies the rows it finds. Only this also finds a row that damage has hidden.

        Raises:
            Corrupt: Something is damaged or missing; the message names it.
        """
        with self._transaction("BEGIN") as connection:
            self._check_structure(connection)
            kinds = connection.execute("SELECT DISTINCT kind FROM record").fetchall()
            journals = connection.execute("SELECT journal, count(*) FROM journal GROUP BY journal").fetchall()
            leases = connection.execute("SELECT lease FROM lease").fetchall()
            for (name,) in leases:
                self._lease(connection, name)
        rows = len(leases) + sum(len(self.find(kind)) for (kind,) in kinds)
        return rows + sum(len(self.journal(name, limit=lines)) for name, lines in journals)

    def mark(self) -> tuple[int, int]:
        """A value that stays the same only while no process writes."""
        self._refuse_forked()
        return self._changes.mark()

    def copy_to(self, path: Path) -> None:
        """Write a snapshot of the catalogue, without its leases, to a new SQLite file.

        Raises:
            Unavailable: The disk is full or read-only.
            Corrupt: A row is damaged; the message names it.
        """
        self._refuse_forked()
        try:
            with (
                contextlib.closing(sqlite3.connect(self.what, timeout=_BUSY_S)) as source,
                contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy,
            ):
                source.backup(copy)
                copy.execute("DELETE FROM lease")  # leases belong to the original
        except SQLITE_RAISES as error:
            raise named(error, f"copying {self.what} to {path}") from error

    def close(self) -> None:
        if self._forked:
            return
        unguard(self)
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._changes.close()
        self._lock.close()

    def __enter__(self) -> SqlCatalog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _prepare(self) -> None:
        with self._lock.hold():
            self._prepare_wal()
            with self._transaction("BEGIN") as connection:
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
                if pages < _CHECKED_PAGES:
                    self._check_structure(connection)
                revision = schema.revision_of(connection, self.what)
        if revision != schema.HEAD:
            with self._transaction(_WRITE) as connection:
                if schema.revision_of(connection, self.what) != schema.HEAD:  # no other process was faster
                    schema.migrate(connection)

    def _prepare_wal(self) -> None:
        """Switch to WAL mode once; detect a damaged log, which SQLite would silently cut off. # D57"""
        acknowledged = acknowledged_frames(self._path)
        with self._named(), self._connection() as connection:
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if acknowledged:
                _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                # The last connection of another process may have removed the log meanwhile.
                if frames < acknowledged <= acknowledged_frames(self._path):
                    raise Corrupt(
                        f"{self._path}-wal: damaged: only {frames} of at least {acknowledged} acknowledged frames are "
                        "sound. Changes were lost; restore the catalogue from a copy."
                    )

    @contextlib.contextmanager
    def _transaction(self, begin: str = "") -> Iterator[sqlite3.Connection]:
        """A transaction; without `begin` a single statement. Only `_WRITE` may write."""
        self._refuse_forked()
        lock = self._lock.hold() if begin == _WRITE else contextlib.nullcontext()
        with self._named(), lock, self._connection() as connection:
            if begin:
                connection.execute(begin)
            yield connection
            if connection.in_transaction:
                connection.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for one thread, given back afterwards; closed, and rolled back, after an error."""
        with self._mutex:
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._mutex:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        for pragma in (f"synchronous = {self._synchronous}", "journal_size_limit = 1048576"):
            connection.execute(f"PRAGMA {pragma}").close()
        return connection

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except SQLITE_RAISES as error:
            raise named(error, self.what) from error

    def _put(self, connection: sqlite3.Connection, change: Put) -> None:
        found = self._revision(connection, change) if change.expected is None else change.expected
        crc = row_crc(change.kind, change.key, found + 1, change.body)
        if found:
            done = connection.execute(
                f"UPDATE record SET revision = ?, body = ?, crc = ?{_AT} AND revision = ?",
                (found + 1, change.body, crc, change.kind, change.key, found),
            )
        else:
            done = connection.execute(
                'INSERT INTO record (kind, "key", revision, body, crc) VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING',
                (change.kind, change.key, 1, change.body, crc),
            )
        if done.rowcount != 1:
            self._expect(f"record {change.kind}/{change.key}", "revision", self._revision(connection, change), found)

    def _remove(self, connection: sqlite3.Connection, change: Remove) -> None:
        found = self._revision(connection, change)
        self._expect(f"record {change.kind}/{change.key}", "revision", found, change.expected)
        if found:
            connection.execute(f"DELETE FROM record{_AT}", (change.kind, change.key))

    def _revision(self, connection: sqlite3.Connection, change: Put | Remove) -> int:
        found = connection.execute(f"SELECT revision FROM record{_AT}", (change.kind, change.key)).fetchone()
        return int(found[0]) if found else 0

    def _append(self, connection: sqlite3.Connection, change: Append) -> None:
        (last,) = connection.execute(
            "SELECT max(sequence) FROM journal WHERE journal = ?", (change.journal,)
        ).fetchone()
        following = (last or 0) + 1
        self._expect(f"journal {change.journal}", "next line", following, change.expected)
        row = (change.journal, following, change.at_us, change.body)
        connection.execute(
            "INSERT INTO journal (journal, sequence, at_us, body, crc) VALUES (?,?,?,?,?)", (*row, row_crc(*row))
        )

    def _expect(self, where: str, what: str, found: int, expected: int | None) -> None:
        if expected is not None and expected != found:
            raise Conflict(
                f"{self.what}: {where}: expected {what} {expected}, found {found}. Read it again, then decide."
            )

    def _lease(self, connection: sqlite3.Connection, name: str) -> tuple[str, int] | None:
        """Holder and end of a lease."""
        query = "SELECT lease, holder, expires_at_us, crc FROM lease WHERE lease = ?"
        row = connection.execute(query, (name,)).fetchone()
        if row is not None and row[3] != row_crc(*row[:3]):
            raise Corrupt(f"{self.what}: lease {name!r} is damaged. Restore the catalogue from a copy.")
        return None if row is None else (row[1], row[2])

    def _check_structure(self, connection: sqlite3.Connection) -> None:
        """SQLite's own check of its pages and indexes."""
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise Corrupt(f"{self.what}: damaged ({found}). Restore the catalogue from a copy.")

    def _record(self, row: Any) -> Record:
        kind, key, revision, body, crc = row
        if crc != row_crc(kind, key, revision, body):
            raise Corrupt(f"{self.what}: record {kind}/{key} is damaged. Restore the catalogue from a copy.")
        return Record(kind, key, revision, bytes(body))

    def after_fork(self) -> None:
        """In a forked child: refuse every later call."""
        self._forked = True

    def _refuse_forked(self) -> None:
        if self._forked:
            raise forked(Path(self.what))


def _above(prefix: str) -> str | None:
    """The least text greater than all texts with a prefix; None if no single character gives it.

    >>> _above("day/2024-05")
    'day/2024-06'
    """
    last = prefix[-1]
    return None if last in "\ud7ff\U0010ffff" else prefix[:-1] + chr(ord(last) + 1)  # the next is no character


def _check_names(*names: str) -> None:
    for name in names:
        if not name or "\0" in name:
            raise Misuse(f"catalogue: {name!r} is not a name. Give text that is not empty and has no zero character.")


def _create_sqlite(path: Path) -> None:
    """A migrated, empty catalogue, complete before it gets its name."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        SqlCatalog(new, what=str(path)).close()
        narrow(new)
        publish(new, path)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal", "-turn"):
            Path(f"{new}{suffix}").unlink(missing_ok=True)
