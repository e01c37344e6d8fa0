"""The catalogue over SQLAlchemy Core: SQLite embedded, written so that PostgreSQL can follow."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry

from trimtab.core.clock import Clock, SystemClock
from trimtab.core.errors import Conflict, Corrupt, Misuse, Unavailable
from trimtab.store import catalog_schema as schema
from trimtab.store.durable_files import publish
from trimtab.store.ports import Append, Entry, Put, Record, Remove
from trimtab.store.sqlite_errors import named
from trimtab.store.sqlite_partition import leak

_CHECKED_PAGES = 1_000  # up to 4 MB a database's structure is checked whenever it is opened, in a few ms
_THREADS = 64  # that may use a catalogue at once; more have to wait
_BUSY_S = 30.0  # how long a writer waits for others before it is told to try again


class SqlCatalog:
    """A `Catalog` in one database. Safe to use from many threads and processes; opening it migrates it.

    >>> import tempfile
    >>> with SqlCatalog.sqlite(Path(tempfile.mkdtemp()) / "catalog.db") as catalog:
    ...     catalog.write([Put("alias", "champion", b'"late@7"', expected=0)])
    ...     catalog.get("alias", "champion")
    Record(kind='alias', key='champion', revision=1, body=b'"late@7"')
    """

    def __init__(self, engine: sa.Engine, *, what: str, clock: Clock | None = None) -> None:
        self.what = what
        self._clock = clock or SystemClock()
        self._engine = engine
        self._writing = engine.execution_options(trimtab_write=True)
        try:
            self._prepare(what)
        except BaseException:
            engine.dispose()
            raise
        _open_catalogs.add(self)

    @staticmethod
    def sqlite(path: Path, *, clock: Clock | None = None) -> SqlCatalog:
        """The catalogue in an SQLite file, made when it is not there."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _create_sqlite(path)
            elif path.stat().st_size == 0:
                raise Corrupt(f"{path}: empty, which no catalogue ever is. Restore it from a copy, or delete it.")
        except OSError as error:
            raise Unavailable(
                f"{path}: cannot be made ({error}). Check free space and access, and try again."
            ) from error
        return SqlCatalog(_sqlite_engine(path), what=str(path), clock=clock)

    def get(self, kind: str, key: str) -> Record | None:
        """The record, None when there is none.

        Raises:
            Corrupt: It is damaged; the message names it.
        """
        table = schema.record
        query = sa.select(table).where(table.c.kind == kind, table.c.key == key)
        with self._transaction(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else self._record(row)

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        """Records of a kind whose key starts with `prefix`, by key."""
        table = schema.record
        query = sa.select(table).where(table.c.kind == kind).order_by(table.c.key)
        if prefix:
            query = query.where(table.c.key >= prefix, sa.func.substr(table.c.key, 1, len(prefix)) == prefix)
        with self._transaction(self._engine) as connection:
            rows = connection.execute(query).all()
        return [self._record(row) for row in rows]

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        """All changes or none, durable when it returns.

        Raises:
            Conflict: An `expected` did not hold; the message names the first such change. Nothing was written.
            Unavailable: The disk is full, or others held the database for too long; nothing was written.
        """
        for change in changes:
            _check_names(*((change.journal,) if isinstance(change, Append) else (change.kind, change.key)))
        if not changes:
            return
        with self._transaction(self._writing) as connection:
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
        table = schema.journal
        query = (
            sa.select(table)
            .where(table.c.journal == name, table.c.sequence > after)
            .order_by(table.c.sequence)
            .limit(limit)
        )
        with self._transaction(self._engine) as connection:
            rows = connection.execute(query).all()
        for expected, row in enumerate(rows, after + 1):
            if row.sequence != expected:
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is missing. Restore it from a copy.")
            if row.crc != _crc(row.journal, row.sequence, row.at_us, row.body):
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is damaged. Restore it from a copy.")
        return [Entry(row.journal, row.sequence, row.at_us, bytes(row.body)) for row in rows]

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease; False while somebody else holds it and it has not run out."""
        _check_names(lease, holder)
        if not ttl_s > 0:
            raise Misuse(f"catalogue: a lease of {ttl_s} s. Give a time to live above zero.")
        now_us = self._clock.now_us()
        expires_at_us = now_us + int(ttl_s * 1e6)
        values = {"holder": holder, "expires_at_us": expires_at_us, "crc": _crc(lease, holder, expires_at_us)}
        table = schema.lease
        with self._transaction(self._writing) as connection:
            row = self._lease(connection, lease)
            if row is None:
                connection.execute(sa.insert(table).values(lease=lease, **values))
            elif row.holder == holder or row.expires_at_us <= now_us:
                connection.execute(sa.update(table).where(table.c.lease == lease).values(**values))
            else:
                return False
        return True

    def release(self, lease: str, holder: str) -> None:
        """Give a lease back; nothing happens when `holder` does not hold it."""
        table = schema.lease
        with self._transaction(self._writing) as connection:
            connection.execute(sa.delete(table).where(table.c.lease == lease, table.c.holder == holder))

    def check(self) -> int:
        """Verify the database's structure and every row; how many rows there are.

        A read verifies what it finds. Only this also finds a row that damage has hidden.

        Raises:
            Corrupt: Something is damaged or missing; the message names it.
        """
        record, journal, lease = schema.record.c, schema.journal.c, schema.lease.c
        with self._transaction(self._engine) as connection:
            self._check_structure(connection)
            kinds = connection.execute(sa.select(record.kind).distinct()).scalars().all()
            journals = connection.execute(sa.select(journal.journal, sa.func.count()).group_by(journal.journal)).all()
            leases = connection.execute(sa.select(lease.lease)).scalars().all()
            for name in leases:
                self._lease(connection, name)
        rows = len(leases) + sum(len(self.find(kind)) for kind in kinds)
        for name, lines in journals:
            rows += len(self.journal(name, limit=lines))
        return rows

    def copy_to(self, path: Path) -> None:
        """Write the catalogue, as it stands at one moment and without its leases, to a new SQLite file.

        Raises:
            Misuse: This catalogue is no SQLite file.
            Unavailable: The disk is full or read-only.
            Corrupt: A row is damaged; the message names it.
        """
        if self._engine.dialect.name != "sqlite":
            raise Misuse(f"{self.what}: only an SQLite catalogue can be copied to a file. Use the server's own tools.")
        try:
            with (
                contextlib.closing(sqlite3.connect(self.what, timeout=_BUSY_S)) as source,
                contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy,
            ):
                source.backup(copy)
                copy.execute(f"DELETE FROM {schema.lease.name}")  # whoever holds one holds it there, not here
        except sqlite3.Error as error:
            raise named(error, f"copying {self.what} to {path}") from error

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> SqlCatalog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _prepare(self, what: str) -> None:
        with self._transaction(self._engine) as connection:
            if connection.dialect.name == "sqlite" and _pages(connection) < _CHECKED_PAGES:
                self._check_structure(connection)
            revision = schema.revision_of(connection, what)
        if revision != schema.HEAD:
            with self._transaction(self._writing) as connection:
                if schema.revision_of(connection, what) != schema.HEAD:  # nobody was faster
                    schema.migrate(connection)

    @contextlib.contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except sa.exc.TimeoutError as error:
            raise Unavailable(f"{self.what}: all connections are in use ({error}). Try again.") from error
        except sa.exc.DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):
                raise named(error.orig, self.what) from error
            if isinstance(error, sa.exc.IntegrityError):
                raise Conflict(f"{self.what}: somebody else wrote the same row ({error.orig}). Read again.") from error
            raise Unavailable(f"{self.what}: {error.orig}. Check the database, and try again.") from error

    def _put(self, connection: sa.Connection, change: Put) -> None:
        table = schema.record
        at = (table.c.kind == change.kind, table.c.key == change.key)
        found = connection.execute(sa.select(table.c.revision).where(*at).with_for_update()).scalar_one_or_none() or 0
        self._expect(f"record {change.kind}/{change.key}", "revision", found, change.expected)
        values = {
            "revision": found + 1,
            "body": change.body,
            "crc": _crc(change.kind, change.key, found + 1, change.body),
        }
        if found:
            connection.execute(sa.update(table).where(*at).values(**values))
        else:
            connection.execute(sa.insert(table).values(kind=change.kind, key=change.key, **values))

    def _remove(self, connection: sa.Connection, change: Remove) -> None:
        table = schema.record
        at = (table.c.kind == change.kind, table.c.key == change.key)
        found = connection.execute(sa.select(table.c.revision).where(*at).with_for_update()).scalar_one_or_none() or 0
        self._expect(f"record {change.kind}/{change.key}", "revision", found, change.expected)
        connection.execute(sa.delete(table).where(*at))

    def _append(self, connection: sa.Connection, change: Append) -> None:
        table = schema.journal
        query = sa.select(sa.func.max(table.c.sequence)).where(table.c.journal == change.journal)
        following = (connection.execute(query).scalar_one() or 0) + 1
        self._expect(f"journal {change.journal}", "next line", following, change.expected)
        values = {"journal": change.journal, "sequence": following, "at_us": change.at_us, "body": change.body}
        connection.execute(sa.insert(table).values(**values, crc=_crc(*values.values())))

    def _expect(self, where: str, what: str, found: int, expected: int | None) -> None:
        if expected is not None and expected != found:
            raise Conflict(
                f"{self.what}: {where}: expected {what} {expected}, found {found}. Read it again, then decide."
            )

    def _lease(self, connection: sa.Connection, name: str) -> Any:
        table = schema.lease
        row = connection.execute(sa.select(table).where(table.c.lease == name).with_for_update()).one_or_none()
        if row is not None and row.crc != _crc(row.lease, row.holder, row.expires_at_us):
            raise Corrupt(f"{self.what}: lease {name!r} is damaged. Restore the catalogue from a copy.")
        return row

    def _check_structure(self, connection: sa.Connection) -> None:
        """SQLite's own check of its pages and indexes; servers do theirs."""
        if connection.dialect.name == "sqlite":
            (found, *_) = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalars().all()
            if found != "ok":
                raise Corrupt(f"{self.what}: damaged ({found}). Restore the catalogue from a copy.")

    def _record(self, row: Any) -> Record:
        if row.crc != _crc(row.kind, row.key, row.revision, row.body):
            raise Corrupt(f"{self.what}: record {row.kind}/{row.key} is damaged. Restore the catalogue from a copy.")
        return Record(row.kind, row.key, row.revision, bytes(row.body))

    def _after_fork_in_child(self) -> None:
        leak(self._engine.pool)  # closing a connection here could roll back what the parent is writing
        self._engine.dispose(close=False)


def _pages(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())


def _crc(*values: object) -> int:
    """The CRC-32 of a row, in which a value can neither change nor move to another column."""
    crc = 0
    for value in values:
        data = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode("utf-8", "surrogatepass")
        crc = zlib.crc32(data, zlib.crc32(f"{type(value).__name__}{len(data)}:".encode(), crc))
    return crc


def _check_names(*names: str) -> None:
    for name in names:
        if not name or "\0" in name:
            raise Misuse(f"catalogue: {name!r} is no name. Give text that is not empty and has no zero character.")


def _create_sqlite(path: Path) -> None:
    """A migrated, empty catalogue, complete before it gets its name."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        SqlCatalog(_sqlite_engine(new), what=str(path)).close()
        publish(new, path)
    finally:
        for leftover in (new, Path(f"{new}-journal")):
            leftover.unlink(missing_ok=True)


def _sqlite_engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _BUSY_S, "check_same_thread": False},
        max_overflow=_THREADS,
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions begin in `_begin_sqlite`
    for pragma in ("journal_mode = PERSIST", "journal_size_limit = 1048576", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("trimtab_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_open_catalogs: weakref.WeakSet[SqlCatalog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for catalog in list(_open_catalogs):
        catalog._after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
