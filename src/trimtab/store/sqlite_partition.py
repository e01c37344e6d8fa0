"""One partition of a `SqliteLog`: the file's format, its one writer and its readers."""

from __future__ import annotations

import contextlib
import ctypes
import sqlite3
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from trimtab.core.errors import Conflict, Corrupt, Misuse, TrimtabError, Unavailable
from trimtab.store.durable_files import sync_directory
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import LogRecord
from trimtab.store.sqlite_errors import SQLITE_RAISES, named
from trimtab.store.sqlite_still import Stamp, open_reading
from trimtab.store.sqlite_wal import acknowledged_frames

Mode = Literal["durable", "relaxed"]
_T = TypeVar("_T")

FORMAT = 1
_APPLICATION = 0x74724C67  # "trLg"
_SCHEMA = """
CREATE TABLE record(
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    appended_at_us INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE head(
    name TEXT NOT NULL,
    durable INTEGER NOT NULL,
    truncated_through INTEGER NOT NULL,
    truncated_at_us INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
"""
_CHUNKS = (256, *range(32, 0, -1))  # rows of one INSERT: each statement drops and retakes the interpreter lock once
_INSERTS = {n: "INSERT INTO record VALUES" + ",".join(["(?,?,?,?)"] * n) for n in _CHUNKS}
_SELECT = "SELECT position, appended_at_us, crc, payload FROM record"
_PREFIX = struct.Struct("<qq").pack
_TRUNCATED = 20_000  # records that one transaction removes: appends get their turn in between
_BUSY_MS = 5_000  # what `sqlite3.connect` sets
_RETURNED = 2_000  # pages that one transaction gives back to the disk
_LONG_OVERDUE = 10_000  # pages of a write-ahead log that appends fold where somebody else should have
_readers = count()
_TRIES = 20  # reads of a file that somebody changes meanwhile and that cannot be locked


class PartitionWriter:
    """The only connection that writes one partition's file and checkpoints it, for as long as it holds the lock."""

    def __init__(self, path: Path, lock: FileLock, mode: Mode) -> None:
        self.path = path
        self.mode = mode
        self.position = 0
        self.at_us = 0
        self._lock = lock
        self._folds_late = False  # whether somebody calls `fold`
        self._connection: sqlite3.Connection | None = None
        if not path.exists():
            _create(path)
        self._open()

    def append(self, groups: Sequence[tuple[Sequence[bytes], Sequence[int] | None]], now_us: int) -> int:
        """Write all groups in one transaction and give the first position, once they are safe.

        After an error the next call opens the file afresh and goes on from what is in it.
        """
        if self._connection is None:
            self._open()
        values: list[int | bytes] = []  # row after row, as statements take them
        first = position = self.position
        at_us = self.at_us
        crc32, prefix = zlib.crc32, _PREFIX
        for payloads, times in groups:
            if times is None:
                at_us = max(at_us, now_us)
                for payload in payloads:
                    position += 1
                    values += (position, at_us, crc32(payload, crc32(prefix(position, at_us))), payload)
            else:
                for payload, time_us in zip(payloads, times, strict=True):
                    position += 1
                    if time_us > at_us:
                        at_us = time_us
                    values += (position, at_us, crc32(payload, crc32(prefix(position, at_us))), payload)
        rows = position - first
        if rows in _INSERTS:  # one statement is a transaction of its own
            with self._named() as connection:
                connection.execute(_INSERTS[rows], values)
        else:
            with self._transaction() as connection:
                done = 0
                for size in _CHUNKS:
                    while rows - done >= size:
                        connection.execute(_INSERTS[size], values[4 * done : 4 * (done + size)])
                        done += size
        self.position, self.at_us = position, at_us
        return first + 1

    def truncate(self, through: int) -> int:
        """Remove the oldest records up to and including `through`, some thousands at a time; how many, 0: none left."""
        with self._transaction() as connection:
            (first,) = connection.execute("SELECT min(position) FROM record").fetchone()
            if first is None or first > through:
                return 0
            through = min(through, first + _TRUNCATED - 1)
            last = connection.execute(
                "SELECT position, appended_at_us FROM record WHERE position <= ? ORDER BY position DESC LIMIT 1",
                (through,),
            ).fetchone()
            removed = connection.execute("DELETE FROM record WHERE position <= ?", (through,)).rowcount
            _write_head(connection, _Head(self.path.stem, self.mode == "durable", *last))
        return removed

    def give_back(self) -> bool:
        """Return pages that hold nothing any more to the disk, some at a time; whether there are more of them.

        A file that was made without a map of its pages is written anew, once most of it is free.
        """
        with self._named() as connection:
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (mapped,) = connection.execute("PRAGMA auto_vacuum").fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            more = bool(free) if mapped else 2 * free > pages
            if more and mapped:
                connection.executescript(f"PRAGMA incremental_vacuum({_RETURNED})")  # `execute` stops after one page
            elif more:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("VACUUM")
            if more:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            else:  # the write-ahead log's own room too, unless somebody reads just now
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            return more

    def erase(self, instead: Mapping[int, bytes]) -> int:
        """Give records other payloads, and write the file anew without what stood there; how many were changed.

        A crash in between leaves changed records in a file that may still hold old bytes: do it again.

        Raises:
            Unavailable: Another process reads the file just now, or there is no space for the new one.
        """
        changed = 0
        with self._named() as connection:
            connection.execute("PRAGMA secure_delete = ON")
        with self._transaction() as connection:
            for position, payload in sorted(instead.items()):
                found = connection.execute(f"{_SELECT} WHERE position = ?", (position,)).fetchall()
                for record in _verified(found, position - 1, self.path):
                    crc = zlib.crc32(payload, zlib.crc32(_PREFIX(position, record.appended_at_us)))
                    row = crc, payload, position
                    connection.execute("UPDATE record SET crc = ?, payload = ? WHERE position = ?", row)
                    changed += 1
        with self._named() as connection:
            connection.execute("VACUUM")  # pages keep copies of what once stood on them, secure_delete or not
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable(f"{self.path}-wal: another process reads it, so old bytes stay in it. Do this again.")
        return changed

    def fold(self) -> None:
        """Bring what the write-ahead log holds to the file: two syncs, in which the interpreter's lock is free.

        Nobody appends meanwhile: SQLite before 3.51.3 can damage a file of which one connection folds what another one
        commits (sqlite.org/wal.html#walresetbug).
        """
        with self._named() as connection:
            if not self._folds_late:
                self._folds_late = True
                connection.execute(f"PRAGMA wal_autocheckpoint = {_LONG_OVERDUE}")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Fold the write-ahead log into the file and let the partition go."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        except SQLITE_RAISES as error:
            raise named(error, str(self.path)) from error
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """In a forked child: never touch the parent's connection again, not even to close it."""
        if self._connection is not None:
            leak(self._connection)
        self._connection = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._named() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _named(self) -> Iterator[sqlite3.Connection]:
        """The connection; dropped, and its error named, when it fails."""
        try:
            yield self._connection or self._open()
        except SQLITE_RAISES as error:
            self._drop()
            raise named(error, str(self.path)) from error
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        """Forget a connection whose state is in doubt; the next call opens the file and reads where it stands."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # the error that brought us here is the one to report
                connection.close()

    def _open(self) -> sqlite3.Connection:
        what = str(self.path)
        try:
            acknowledged = acknowledged_frames(self.path)
        except OSError as error:
            raise Unavailable(f"{what}-wal: cannot be read ({error}). Check the disk, limits and access.") from error
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                connection.text_factory = bytes
                head = _check_format(connection, self.path)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {'FULL' if self.mode == 'durable' else 'NORMAL'}")
                connection.execute("PRAGMA journal_size_limit = 67108864")
                if self._folds_late:
                    connection.execute(f"PRAGMA wal_autocheckpoint = {_LONG_OVERDUE}")
                _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if head.durable and frames < acknowledged:
                    raise Corrupt(
                        f"{what}-wal: damaged: only {frames} of at least {acknowledged} acknowledged frames are sound. "
                        "Records were lost; restore the partition from a copy, or move its files away."
                    )
                rows = connection.execute(f"{_SELECT} ORDER BY position DESC LIMIT 1").fetchall()
                at_us = head.truncated_at_us
                if rows:
                    at_us = _verified(rows, rows[0][0] - 1, self.path)[0].appended_at_us
                last = _sequence(connection, head)
                found = rows[0][0] if rows else head.truncated_through
                if last != found:
                    raise Corrupt(f"{what}: it ends at {found}, not at {last}. Restore the partition from a copy.")
                if head.durable != (self.mode == "durable"):
                    _write_head(connection, msgspec.structs.replace(head, durable=self.mode == "durable"))
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except BaseException:
                connection.close()
                raise
        except SQLITE_RAISES as error:
            raise named(error, what) from error
        self.position, self.at_us, self._connection = last, max(at_us, self.at_us), connection
        return connection


class PartitionReader:
    """A read-only connection to one partition's file, of this process or another; never checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._connection, self._stamp = self._opened()
        self._number = next(_readers)  # versions of two connections say nothing about each other

    def mark(self) -> tuple[int, int] | None:
        """Something that is the same as before only if nobody wrote in between; None where nothing can be locked."""
        with self._mutex:
            if self._stamp is not None:
                return None
            try:
                (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            except SQLITE_RAISES as error:
                raise named(error, str(self.path)) from error
        return self._number, version

    def read(self, after: int, limit: int) -> list[LogRecord]:
        """The verified records with position > `after`.

        Raises:
            Corrupt: A record's checksum is wrong, or one is missing.
        """
        return self._in_snapshot(lambda connection: self._read(connection, after, limit))

    def _read(self, connection: sqlite3.Connection, after: int, limit: int) -> list[LogRecord]:
        rows = connection.execute(f"{_SELECT} WHERE position > ? ORDER BY position LIMIT ?", (after, limit)).fetchall()
        if rows and rows[0][0] == after + 1 and len(rows) == limit:
            return _verified(rows, after, self.path)  # nothing can be missing: spare the two look-ups below
        head = _read_head(connection, self.path)
        last = _sequence(connection, head)
        start = max(after, head.truncated_through)
        records = _verified(rows, start, self.path)
        end = records[-1].position if records else start
        if len(rows) < limit and end != last:
            lost = f"records {end + 1} to {last} are missing" if end < last else f"it ends at {last}, before {end}"
            raise Corrupt(f"{self.path}: {lost}. Restore the partition from a copy, or rebuild what was read from it.")
        return records

    def position(self) -> int:
        """The last position."""
        return self._in_snapshot(lambda connection: _sequence(connection, _read_head(connection, self.path)))

    def copy(self, path: Path) -> int:
        """Write the partition, as it stands at one moment, to a new file of the same name; the last position in it."""
        with contextlib.closing(PartitionReader(self.path)) as source:  # its own: others read meanwhile
            return source._copied(path)

    def _copied(self, path: Path) -> int:
        def copied(source: sqlite3.Connection) -> int:
            try:
                with contextlib.closing(sqlite3.connect(path)) as copy:
                    source.backup(copy)
                    copy.text_factory = bytes
                    return _sequence(copy, _check_format(copy, path))
            except SQLITE_RAISES as error:
                raise named(error, f"copying {self.path} to {path}") from error

        return self._in_snapshot(copied)

    def close(self) -> None:
        with self._mutex:
            self._connection.close()

    def abandon(self) -> None:
        """In a forked child: never touch the parent's connection again."""
        leak(self._connection)

    def _in_snapshot(self, what: Callable[[sqlite3.Connection], _T]) -> _T:
        """`what(connection)` in one snapshot; where nothing can be locked, again until nobody changed the file."""
        with self._mutex:
            for _ in range(_TRIES):
                if self._stamp is not None and Stamp.of(self.path) != self._stamp:
                    self._connection.close()
                    self._connection, self._stamp = self._opened()
                try:
                    found = self._once(what)
                except TrimtabError:
                    if self._stamp is None or Stamp.of(self.path) == self._stamp:
                        raise
                else:
                    if self._stamp is None or Stamp.of(self.path) == self._stamp:
                        return found
        raise Unavailable(f"{self.path}: it changed {_TRIES} times while it was read without locks. Try again.")

    def _once(self, what: Callable[[sqlite3.Connection], _T]) -> _T:
        connection = self._connection
        try:
            connection.execute("BEGIN")
            return what(connection)
        except SQLITE_RAISES as error:
            raise named(error, str(self.path)) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _opened(self) -> tuple[sqlite3.Connection, Stamp | None]:
        try:
            connection, stamp = open_reading(self.path)
            try:
                connection.text_factory = bytes
                _check_format(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except SQLITE_RAISES as error:
            raise named(error, str(self.path)) from error
        return connection, stamp


def leak(thing: object) -> None:
    """Make sure that `thing` is never finalised: SQLite must not close, in a child, what its parent opened."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _create(path: Path) -> None:
    """A new, empty partition file, complete before it gets its name."""
    new = path.with_suffix(".new")
    try:
        for leftover in (new, Path(f"{new}-wal"), Path(f"{new}-shm"), Path(f"{new}-journal")):
            leftover.unlink(missing_ok=True)
        connection = sqlite3.connect(new, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # so that `give_back` can
            connection.executescript(_SCHEMA)
            _write_head(connection, _Head(path.stem, True, 0, 0))
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
        new.rename(path)
        sync_directory(path.parent)
    except SQLITE_RAISES as error:
        raise named(error, str(path)) from error
    except OSError as error:
        raise Unavailable(f"{path}: cannot be made ({error}). Check free space and access, and try again.") from error


class _Head(msgspec.Struct, frozen=True):
    """What a partition's file says about itself."""

    name: str
    durable: bool  # the mode of its last writer: what a power cut may have done to its write-ahead log
    truncated_through: int
    truncated_at_us: int

    def crc(self) -> int:
        return zlib.crc32(repr(msgspec.structs.astuple(self)).encode())


def _check_format(connection: sqlite3.Connection, path: Path) -> _Head:
    """The head of a file that is ours and not too new."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise Corrupt(f"{path}: not a trimtab log (application id {application:#x}). Move it away, or restore it.")
    if version != FORMAT:
        raise Misuse(f"{path}: log format {version}, this trimtab reads {FORMAT}. Use the trimtab that wrote it.")
    return _read_head(connection, path)


def _read_head(connection: sqlite3.Connection, path: Path) -> _Head:
    query = "SELECT name, durable, truncated_through, truncated_at_us, crc FROM head"
    try:
        ((name, durable, through, at_us, crc),) = connection.execute(query).fetchall()
        head = _Head(name.decode(), durable == 1, through, at_us)
        sound = crc == head.crc()
    except (ValueError, AttributeError):  # damage can remove the row, or make it or the error about it no text
        sound = False
    if not sound:
        raise Corrupt(f"{path}: its head row is damaged. Restore the partition from a copy, or move its files away.")
    if head.name != path.stem:
        raise Misuse(f"{path}: this is partition {head.name!r} under another name. Give it its own name back.")
    return head


def _write_head(connection: sqlite3.Connection, head: _Head) -> None:
    connection.execute("DELETE FROM head")
    row = (head.name, int(head.durable), head.truncated_through, head.truncated_at_us, head.crc())
    connection.execute("INSERT INTO head VALUES (?,?,?,?,?)", row)


def _sequence(connection: sqlite3.Connection, head: _Head) -> int:
    """The last position ever given, which AUTOINCREMENT keeps."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'record'").fetchone()
    return head.truncated_through if row is None else int(row[0])


def _verified(rows: list[tuple[int, int, int, bytes]], after: int, path: Path) -> list[LogRecord]:
    crc32, prefix, name = zlib.crc32, _PREFIX, path.stem
    records = []
    for position, at_us, crc, payload in rows:
        after += 1
        try:
            sound = crc == crc32(payload, crc32(prefix(position, at_us)))
        except (TypeError, struct.error):  # damage can turn a number into text
            sound = False
        if position != after:
            raise Corrupt(f"{path}: position {after} is missing (found {position}). Restore the partition from a copy.")
        if not sound:
            raise Corrupt(
                f"{path}: position {position} is damaged (wrong checksum). Restore the partition from a copy."
            )
        records.append(LogRecord(name, position, at_us, payload))
    return records


def open_writer(path: Path, lock: FileLock, mode: Mode) -> PartitionWriter:
    """The writer of `path`; the lock is let go when it cannot be opened."""
    try:
        return PartitionWriter(path, lock, mode)
    except BaseException:
        lock.release()
        raise


def busy(path: Path, lock_path: Path) -> Conflict:
    """The error for a partition that another process writes."""
    return Conflict(f"{path}: process {FileLock.holder(lock_path)} writes it. Do this there, or once that has ended.")
