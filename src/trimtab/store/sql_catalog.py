"""The catalogue in an SQL database, over SQLAlchemy Core: SQLite, with statements that would also fit PostgreSQL."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import ConnectionPoolEntry

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
_THREADS = 64  # at least this many threads may use a catalogue at once; further threads wait
_SYNCHRONOUS = {"durable": "FULL", "relaxed": "NORMAL"}
_BUSY_S = 30.0  # how long a writer waits for other writers before it fails


class SqlCatalog(Closing):
    """A `Catalog` in one database, for many threads and processes. Opening an older catalogue migrates it.

    >>> import tempfile
    >>> with SqlCatalog.sqlite(Path(tempfile.mkdtemp()) / "catalog.db") as catalog:
    ...     catalog.write([Put("alias", "champion", b'"late@7"', expected=0)])
    ...     catalog.get("alias", "champion")
    Record(kind='alias', key='champion', revision=1, body=b'"late@7"')
    """

    def __init__(
        self, engine: sa.Engine, *, what: str, clock: Clock | None = None, lock: WriteLock | None = None
    ) -> None:
        self.what = what
        self.folder: Path | None = None
        self._file: FileId | None = None  # None if the database is not a file on this machine
        self._clock = clock or SystemClock()
        self._engine = engine
        # executes single statements, which need no transaction
        self._reading = engine.execution_options(trimtab_begin=None)
        self._writing = engine.execution_options(trimtab_begin="BEGIN IMMEDIATE")
        self._lock = lock
        self._forked = False
        self._changes = None if lock is None else SqliteChanges(Path(str(engine.url.database)))
        try:
            self._prepare(what)
        except BaseException:
            self.close()
            raise
        if lock is not None:
            guard(self, Path(what))

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
        engine = _sqlite_engine(path, _SYNCHRONOUS[mode])
        opened = SqlCatalog(engine, what=str(path), clock=clock, lock=_lock(path))
        opened.folder, opened._file = path.parent, file_id(str(path))
        return opened

    def get(self, kind: str, key: str) -> Record | None:
        """Return a record, or None if it does not exist.

        Raises:
            Corrupt: The record is damaged. The message names it.
        """
        with self._transaction(self._reading) as connection:
            row = _run(connection, _GET, {"of_kind": kind, "of_key": key}).fetchall()
        return self._record(row[0]) if row else None

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        """Return the records of a kind whose keys start with `prefix`, in the order of their keys."""
        above = _above(prefix) if prefix and self._engine.dialect.name == "sqlite" else None
        values = {"of_kind": kind, "of_prefix": prefix, "of_length": len(prefix), "of_above": above}
        query = _FIND if not prefix else _FIND_PREFIX if above is None else _FIND_BETWEEN
        with self._transaction(self._reading) as connection:
            rows = _run(connection, query, values).fetchall()
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
        if self._file is not None and file_id(self.what) != self._file:  # the file was moved or replaced # D0169
            raise Unavailable(
                f"{self.what}: it was removed, moved or replaced while this process uses it; nothing was written. Put "
                "it back, or restart this process."
            )
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
        """Return up to `limit` lines of a journal with a sequence number above `after`, in order.

        Raises:
            Corrupt: A line is damaged or missing. The message names it.
        """
        table = schema.journal
        query = (
            sa.select(table)
            .where(table.c.journal == name, table.c.sequence > after)
            .order_by(table.c.sequence)
            .limit(limit)
        )
        with self._transaction(self._reading) as connection:
            rows = connection.execute(query).all()
        for expected, row in enumerate(rows, after + 1):
            if row.sequence != expected:
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is missing. Restore it from a copy.")
            if row.crc != row_crc(row.journal, row.sequence, row.at_us, row.body):
                raise Corrupt(f"{self.what}: line {expected} of journal {name!r} is damaged. Restore it from a copy.")
        return [Entry(row.journal, row.sequence, row.at_us, bytes(row.body)) for row in rows]

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease. Return False if another holder has the lease and it has not expired."""
        _check_names(lease, holder)
        if not ttl_s > 0:
            raise Misuse(f"catalogue: found a lease of {ttl_s} s. Give a time to live above zero.")
        now_us = self._clock.now_us()
        expires_at_us = now_us + int(ttl_s * 1e6)
        values = {"holder": holder, "expires_at_us": expires_at_us, "crc": row_crc(lease, holder, expires_at_us)}
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
        """Release a lease. Do nothing if `holder` does not have the lease."""
        table = schema.lease
        with self._transaction(self._writing) as connection:
            connection.execute(sa.delete(table).where(table.c.lease == lease, table.c.holder == holder))

    def check(self) -> int:
        """Check the structure of the database and every row. Return the number of rows.

        Reads check just the rows that they find. `check` also notices rows that damage has hidden.

        Raises:
            Corrupt: A row or a page is damaged or missing. The message names it.
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

    def mark(self) -> tuple[int, int] | None:
        """Return a value that changes whenever a process writes. None: this database cannot find this out cheaply."""
        self._refuse_forked()
        return None if self._changes is None else self._changes.mark()

    def copy_to(self, path: Path) -> None:
        """Write a snapshot of the catalogue to a new SQLite file. Leases are left out.

        Raises:
            Misuse: This catalogue is not an SQLite file.
            Unavailable: The disk is full or read-only.
            Corrupt: A row is damaged. The message names it.
        """
        if self._engine.dialect.name != "sqlite":
            raise Misuse(f"{self.what}: only an SQLite catalogue can be copied to a file. Use the server's own tools.")
        self._refuse_forked()
        try:
            with (
                contextlib.closing(sqlite3.connect(self.what, timeout=_BUSY_S)) as source,
                contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy,
            ):
                source.backup(copy)
                copy.execute(f"DELETE FROM {schema.lease.name}")  # leases are only valid in the original catalogue
        except SQLITE_RAISES as error:
            raise named(error, f"copying {self.what} to {path}") from error

    def close(self) -> None:
        if self._forked:
            return
        unguard(self)
        if self._changes is not None:
            self._changes.close()
        self._engine.dispose()
        if self._lock is not None:
            self._lock.close()

    def _prepare(self, what: str) -> None:
        with self._write_lock():
            if self._lock is not None:
                self._prepare_wal(Path(str(self._engine.url.database)))
            with self._transaction(self._engine) as connection:
                if connection.dialect.name == "sqlite" and _pages(connection) < _CHECKED_PAGES:
                    self._check_structure(connection)
                revision = schema.revision_of(connection, what)
        if revision != schema.HEAD:
            with self._transaction(self._writing) as connection:
                # another process may have migrated the database meanwhile
                if schema.revision_of(connection, what) != schema.HEAD:
                    schema.migrate(connection)

    def _prepare_wal(self, path: Path) -> None:
        """Switch the file to WAL mode, and raise an error if its write-ahead log is damaged.

        SQLite would silently ignore the rest of a damaged log. # D57
        """
        acknowledged = acknowledged_frames(path)
        with self._named(), self._engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            if raw.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                raw.execute("PRAGMA journal_mode = WAL").fetchone()
            if acknowledged:
                _, frames, _ = raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                # if the last connection of another process has removed the log meanwhile, no frames are missing
                if frames < acknowledged <= acknowledged_frames(path):
                    raise Corrupt(
                        f"{path}-wal: damaged: only {frames} of at least {acknowledged} acknowledged frames are sound. "
                        "Changes were lost; restore the catalogue from a copy."
                    )

    def _write_lock(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._lock is None else self._lock.hold()

    @contextlib.contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        self._refuse_forked()
        lock = self._write_lock() if engine is self._writing else contextlib.nullcontext()
        with self._named(), lock, engine.connect() as connection:
            if engine is self._reading:
                yield connection
                return
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except SQLITE_RAISES as error:
            raise named(error, self.what) from error
        except sa.exc.TimeoutError as error:
            raise Unavailable(f"{self.what}: all connections are in use ({error}). Try again.") from error
        except sa.exc.DBAPIError as error:
            if isinstance(error.orig, sqlite3.Error):
                raise named(error.orig, self.what) from error
            if isinstance(error, sa.exc.IntegrityError):
                raise Conflict(
                    f"{self.what}: another process wrote the same row ({error.orig}). Read again."
                ) from error
            raise Unavailable(f"{self.what}: {error.orig}. Check the database, and try again.") from error

    def _put(self, connection: sa.Connection, change: Put) -> None:
        found = change.expected
        if found is None:
            found = self._revision(connection, change)
        values = {
            "of_kind": change.kind,
            "of_key": change.key,
            "revision": found + 1,
            "body": change.body,
            "crc": row_crc(change.kind, change.key, found + 1, change.body),
        }
        if found:
            done = _run(connection, _UPDATE, {**values, "of_revision": found})
        else:
            done = _run(connection, _INSERT[connection.dialect.name], values)
        if done.rowcount != 1:
            self._expect(f"record {change.kind}/{change.key}", "revision", self._revision(connection, change), found)

    def _remove(self, connection: sa.Connection, change: Remove) -> None:
        if change.expected is not None:
            found = self._revision(connection, change)
            self._expect(f"record {change.kind}/{change.key}", "revision", found, change.expected)
        _run(connection, _DELETE, {"of_kind": change.kind, "of_key": change.key})

    def _revision(self, connection: sa.Connection, change: Put | Remove) -> int:
        at = {"of_kind": change.kind, "of_key": change.key}
        found = _run(connection, _REVISION, at).fetchall()
        return int(found[0][0]) if found else 0

    def _append(self, connection: sa.Connection, change: Append) -> None:
        ((last,),) = _run(connection, _LAST, {"of_journal": change.journal}).fetchall()
        following = (last or 0) + 1
        self._expect(f"journal {change.journal}", "next line", following, change.expected)
        values = {"journal": change.journal, "sequence": following, "at_us": change.at_us, "body": change.body}
        _run(connection, _LINE, {**values, "crc": row_crc(*values.values())})

    def _expect(self, where: str, what: str, found: int, expected: int | None) -> None:
        if expected is not None and expected != found:
            raise Conflict(
                f"{self.what}: {where}: expected {what} {expected}, found {found}. Read it again before you decide."
            )

    def _lease(self, connection: sa.Connection, name: str) -> Any:
        table = schema.lease
        row = connection.execute(sa.select(table).where(table.c.lease == name).with_for_update()).one_or_none()
        if row is not None and row.crc != row_crc(row.lease, row.holder, row.expires_at_us):
            raise Corrupt(f"{self.what}: lease {name!r} is damaged. Restore the catalogue from a copy.")
        return row

    def _check_structure(self, connection: sa.Connection) -> None:
        """Run SQLite's own check of pages and indexes. (A database server does this itself.)"""
        if connection.dialect.name == "sqlite":
            (found, *_) = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalars().all()
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


def _run(connection: sa.Connection, statement: sa.Executable, values: dict[str, Any]) -> Any:
    """Run a statement and return its cursor.

    For SQLite, this bypasses SQLAlchemy, which takes seven times as long. # D83
    """
    raw: Any = connection.connection.dbapi_connection
    if not isinstance(raw, sqlite3.Connection):
        return connection.execute(statement, values)
    text, names = _compiled(statement)
    return raw.execute(text, [values[name] for name in names])


@functools.cache
def _compiled(statement: Any) -> tuple[str, tuple[str, ...]]:
    """Return the SQLite text of a statement, and the names of its parameters in their order."""
    made = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    return str(made), tuple(made.positiontup)


def _pages(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())


def _above(prefix: str) -> str | None:
    """Return the smallest text above all texts that start with `prefix`.

    Return None if there is no character after the last one of the prefix.

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
            for statement in ("BEGIN IMMEDIATE", *schema.new_sqlite(), "COMMIT"):
                made.execute(statement)
        narrow(new)
        publish(new, path)
    except SQLITE_RAISES as error:
        raise named(error, str(path)) from error
    finally:
        for leftover in (new, Path(f"{new}-wal"), Path(f"{new}-shm")):
            leftover.unlink(missing_ok=True)


def _lock(path: Path) -> WriteLock:
    return WriteLock(path.with_name(f"{path.name}-turn"), wait_s=_BUSY_S)


def _sqlite_engine(path: Path, synchronous: str = "FULL") -> sa.Engine:
    url = sa.URL.create("sqlite", database=str(path))
    given = {"timeout": _BUSY_S, "check_same_thread": False}
    engine = sa.create_engine(url, connect_args=given, max_overflow=_THREADS)
    sa.event.listen(engine, "connect", partial(_prepare_sqlite, synchronous))
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(synchronous: str, connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    for pragma in (f"synchronous = {synchronous}", "journal_size_limit = 1048576"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    begin = connection.get_execution_options().get("trimtab_begin", "BEGIN")
    if begin is not None:
        raw: Any = connection.connection.dbapi_connection
        raw.execute(begin)


def _new_record(dialect: ModuleType) -> sa.Insert:
    row: dict[str, Any] = {name: sa.bindparam(f"of_{name}") for name in ("kind", "key")}
    row |= {name: sa.bindparam(name) for name in ("revision", "body", "crc")}
    return dialect.insert(schema.record).values(row).on_conflict_do_nothing()  # type: ignore[no-any-return]


_HERE = (schema.record.c.kind == sa.bindparam("of_kind"), schema.record.c.key == sa.bindparam("of_key"))
_GET = sa.select(schema.record).where(*_HERE)
_FIND = sa.select(schema.record).where(_HERE[0]).order_by(schema.record.c.key)
_FROM = _FIND.where(schema.record.c.key >= sa.bindparam("of_prefix"))
_FIND_PREFIX = _FROM.where(  # compares the prefix itself, because databases sort texts differently
    sa.func.substr(schema.record.c.key, sa.literal_column("1"), sa.bindparam("of_length")) == sa.bindparam("of_prefix")
)
# this bound keeps SQLite from scanning later keys
_FIND_BETWEEN = _FROM.where(schema.record.c.key < sa.bindparam("of_above"))
_REVISION = sa.select(schema.record.c.revision).where(*_HERE).with_for_update()
_INSERT = {"sqlite": _new_record(sqlite), "postgresql": _new_record(postgresql)}
_UPDATE = sa.update(schema.record).where(*_HERE, schema.record.c.revision == sa.bindparam("of_revision"))
_UPDATE = _UPDATE.values({name: sa.bindparam(name) for name in ("revision", "body", "crc")})
_DELETE = sa.delete(schema.record).where(*_HERE)
_LAST = sa.select(sa.func.max(schema.journal.c.sequence)).where(schema.journal.c.journal == sa.bindparam("of_journal"))
_LINE = sa.insert(schema.journal)
