"""One partition of a `SqliteLog`: a file of records, with the connections that write and read it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from trimtab.core.columns.packs import packed_rows, unpack
from trimtab.core.errors import Conflict, Corrupt, Unavailable
from trimtab.store.durable_files import check_writable
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import LogRecord
from trimtab.store.sqlite.errors import SQLITE_RAISES, named
from trimtab.store.sqlite.partition_file import (
    PACKED,
    PREFIX,
    SELECT,
    SELECT_WITHOUT_PACKS,
    FileId,
    Head,
    Mode,
    StoredRow,
    check_format,
    crc_of,
    create,
    file_id,
    missing,
    read_head,
    sequence,
    split_pack,
    stored,
    verified,
    write_head,
)
from trimtab.store.sqlite.wal import acknowledged_frames

_T = TypeVar("_T")

# numbers of rows per INSERT; each statement releases the interpreter lock once, so few large statements are faster
_CHUNKS = (256, *range(32, 0, -1))
_INSERTS = {n: "INSERT INTO record VALUES" + ",".join(["(?,?,?,?)"] * n) for n in _CHUNKS}
_TRUNCATED = 20_000  # how many records one transaction removes, so that appends can run in between
_BUSY_MS = 5_000  # how long to wait for other connections; also the default of `sqlite3.connect`
_RETURNED = 2_000  # how many pages one transaction gives back to the disk
# once `checkpoint` was called, an append only checkpoints if the -wal file has this many pages
_LONG_OVERDUE = 10_000
_readers = count()
_NO_APPEND_US = -(2**62)  # earlier than every append time, even if the clock is set before 1970


class PartitionWriter:
    """The connection that writes one partition's file. It holds the file's lock, so there is no second writer."""

    def __init__(self, path: Path, lock: FileLock, mode: Mode) -> None:
        self.path = path
        self.mode = mode
        self.position = 0
        self.at_us = _NO_APPEND_US
        self._lock = lock
        self._path, self._wal_path = str(path), f"{path}-wal"
        self._checkpoints_late = False  # whether `checkpoint` was called, so that appends leave this work to it
        self._connection: sqlite3.Connection | None = None
        self._file: FileId | None = None  # device and inode number of the open file
        self._wal: FileId | None = None  # device and inode number of the file's write-ahead log
        if not path.exists():
            create(path)
        self._open()

    def append(self, groups: Sequence[tuple[Sequence[bytes], Sequence[int] | None, bool]], now_us: int) -> int:
        """Append all groups of payloads in one transaction. Return the position of the first record once all are safe.

        A group has payloads, their append times (None: `now_us`), and whether they are packs (several payloads as one,
        see `core.columns.packs`). A time that is earlier than that of the record before is raised to it. After an
        error, the next call opens the file again and continues after its last record.
        """
        if self._connection is None:
            self._open()
        self._check_in_place()
        values: list[int | bytes] = []  # the parameters of the INSERT: four per row
        first = position = self.position
        at_us = self.at_us
        crc32, prefix = zlib.crc32, PREFIX
        for payloads, times, packs in groups:
            if packs:
                for packed, time_us in zip(payloads, times or [now_us] * len(payloads), strict=True):
                    count = packed_rows(packed)
                    # `read` finds packs by the gaps between positions; a pack of one payload would leave no gap
                    payload = packed if count > 1 else unpack(packed)[0]
                    position, at_us = position + count, max(at_us, time_us)
                    values += (position, at_us, crc_of(payload, position, at_us, is_pack=count > 1), payload)
            elif times is None:
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
        rows, with_packs = len(values) // 4, any(packs for *_, packs in groups)
        if rows in _INSERTS and not with_packs:  # a single statement is a transaction by itself
            with self._named() as connection:
                connection.execute(_INSERTS[rows], values)
        else:
            with self._transaction() as connection:
                if with_packs:
                    connection.execute(f"PRAGMA user_version = {PACKED}")
                done = 0
                for size in _CHUNKS:
                    while rows - done >= size:
                        connection.execute(_INSERTS[size], values[4 * done : 4 * (done + size)])
                        done += size
        self.position, self.at_us = position, at_us
        return first + 1

    def _check_in_place(self) -> None:
        """Raise an error if the file or its write-ahead log was moved or replaced. # D0169"""
        wal = file_id(self._wal_path)
        self._wal = self._wal or wal
        if file_id(self._path) == self._file and wal == self._wal:
            return
        self._drop()
        raise Unavailable(
            f"{self.path}: this file or its -wal file was removed, moved or replaced while this process was using it; "
            "nothing was appended. Put the files back (trimtab doctor says what is missing), and try again."
        )

    def skip_to(self, position: int, again: Iterable[tuple[bytes, int]]) -> None:
        """Remove records up to `position`, set the last used position to it, and append the payloads in `again`."""
        at_us = _NO_APPEND_US
        with self._transaction() as connection:
            connection.execute("DELETE FROM record WHERE position <= ?", (position,))
            connection.execute("DELETE FROM sqlite_sequence WHERE name = 'record'")
            connection.execute("INSERT INTO sqlite_sequence VALUES ('record', ?)", (position,))
            write_head(connection, Head(self.path.stem, self.mode == "durable", position, 0))
            for number, (payload, time_us) in enumerate(again, position + 1):
                at_us = max(at_us, time_us)
                connection.execute(_INSERTS[1], (number, at_us, crc_of(payload, number, at_us), payload))
        self.at_us = _NO_APPEND_US  # makes `_open` read the last append time from the file
        self._drop()

    def restamp(self, above_us: int, at_us: int) -> int:
        """Set the append time of all records appended after `above_us` to `at_us`, and return their number."""
        with self._transaction() as connection:
            changed = 0
            rows = connection.execute(f"{SELECT} WHERE appended_at_us > ? ORDER BY position", (above_us,)).fetchall()
            for one in stored(rows, self.path):
                row = at_us, crc_of(one.payload, one.position, at_us, is_pack=one.is_pack), one.position
                connection.execute("UPDATE record SET appended_at_us = ?, crc = ? WHERE position = ?", row)
                changed += one.rows
            head = read_head(connection, self.path)
            if head.truncated_at_us > above_us:
                write_head(connection, msgspec.structs.replace(head, truncated_at_us=at_us))
        self.at_us = _NO_APPEND_US  # makes `_open` read the last append time from the file
        self._drop()
        return changed

    def truncate(self, through: int) -> int:
        """Remove the oldest of the records up to and including position `through`, and return the number removed.

        A call removes at most about 20,000 records. Call this until it returns 0.
        """
        with self._transaction() as connection:
            split_pack(connection, self.path, through, unless_last=True)
            (first,) = connection.execute("SELECT min(position) FROM record").fetchone()
            if first is None or first > through:
                return 0
            last = connection.execute(
                "SELECT position, appended_at_us FROM record WHERE position <= ? ORDER BY position DESC LIMIT 1",
                (min(through, first + _TRUNCATED - 1),),
            ).fetchone()
            connection.execute("DELETE FROM record WHERE position <= ?", last[:1])
            removed = int(last[0]) - read_head(connection, self.path).truncated_through
            write_head(connection, Head(self.path.stem, self.mode == "durable", *last))
        return removed

    def give_back(self) -> bool:
        """Give some of the file's free pages back to the disk. Return False if there were none."""
        with self._named() as connection:
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            if free:
                # `execute` would give back only one page
                connection.executescript(f"PRAGMA incremental_vacuum({_RETURNED})")
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            else:  # this checkpoint also cuts the write-ahead log to 0 bytes, unless another process is reading it
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            return bool(free)

    def erase(self, instead: Mapping[int, bytes]) -> int:
        """Replace payloads, rewrite the file so that no old bytes are left, and return the number of changed records.

        After a crash, call this again: the payloads may be replaced, while their old bytes are still in the file.

        Raises:
            Unavailable: Another process is reading the file, or there is no disk space for the new file.
        """
        changed = 0
        with self._named() as connection:
            connection.execute("PRAGMA secure_delete = ON")
        with self._transaction() as connection:
            for position, payload in sorted(instead.items()):
                split_pack(connection, self.path, position)
                found = connection.execute(f"{SELECT} WHERE position = ?", (position,)).fetchall()
                for one in stored(found, self.path):
                    row = crc_of(payload, position, one.at_us), payload, position
                    connection.execute("UPDATE record SET crc = ?, payload = ? WHERE position = ?", row)
                    changed += 1
        with self._named() as connection:
            # pages that were freed before secure_delete was set keep their contents, so write a file without them
            connection.execute("VACUUM")
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise Unavailable(
                f"{self.path}-wal: another process is reading it, so old bytes stay in it. Do this again later."
            )
        return changed

    def checkpoint(self) -> None:
        """Copy the write-ahead log to the file, which takes two syncs.

        Other threads can run meanwhile, but none may append: SQLite before 3.51.3 can damage a file if one connection
        checkpoints while another commits (sqlite.org/wal.html#walresetbug).
        """
        with self._named() as connection:
            if not self._checkpoints_late:
                self._checkpoints_late = True
                connection.execute(f"PRAGMA wal_autocheckpoint = {_LONG_OVERDUE}")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Copy the write-ahead log to the file, and release the partition."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        except SQLITE_RAISES as error:
            raise named(error, str(self.path)) from error
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._named() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _named(self) -> Iterator[sqlite3.Connection]:
        """Provide the connection to the block. If the block fails, drop the connection, and convert SQLite's error."""
        try:
            yield self._connection or self._open()
        except SQLITE_RAISES as error:
            self._drop()
            raise named(error, str(self.path)) from error
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        """Close the connection, for example if its state is unknown. The next call opens the file again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # ignore errors of closing, because the first error is reported
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        what = str(self.path)
        if file_id(what) is None:  # otherwise `sqlite3.connect` would create an empty file
            raise Unavailable(f"{what}: it was removed or moved. Put it back, or run: trimtab storage recover")
        try:  # read the write-ahead log before SQLite connects, because SQLite may then remove it
            acknowledged = acknowledged_frames(self.path)
        except OSError as error:
            raise Unavailable(f"{what}-wal: cannot be read ({error}). Check the disk, limits and access.") from error
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                connection.text_factory = bytes
                head = check_format(connection, self.path)
                connection.execute("PRAGMA journal_mode = WAL")
                self._file, self._wal = file_id(what), None
                connection.execute(f"PRAGMA synchronous = {'FULL' if self.mode == 'durable' else 'NORMAL'}")
                connection.execute("PRAGMA journal_size_limit = 67108864")
                if self._checkpoints_late:
                    connection.execute(f"PRAGMA wal_autocheckpoint = {_LONG_OVERDUE}")
                _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if head.durable and frames < acknowledged:
                    raise Corrupt(
                        f"{what}-wal: damaged: only {frames} of at least {acknowledged} acknowledged frames are sound. "
                        "Records were lost; restore the partition from a copy, or move its files away."
                    )
                rows = connection.execute(f"{SELECT} ORDER BY position DESC LIMIT 1").fetchall()
                at_us = head.truncated_at_us or _NO_APPEND_US  # 0 if `truncate` has removed no records
                for one in stored(rows, self.path):
                    at_us = one.at_us
                last = sequence(connection, head)
                found = rows[0][0] if rows else head.truncated_through
                if last != found:
                    raise Corrupt(
                        f"{what}: its last record is at position {found}, but positions up to {last} were used. "
                        "Restore the partition from a copy."
                    )
                if last < self.position:
                    raise Corrupt(
                        f"{what}: its last record is {last}, but this process wrote up to {self.position}: the file "
                        "was replaced by an older copy. Put the newer file back, or stop this process and run: "
                        "trimtab storage recover"
                    )
                if head.durable != (self.mode == "durable"):
                    write_head(connection, msgspec.structs.replace(head, durable=self.mode == "durable"))
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except BaseException:
                connection.close()
                raise
        except SQLITE_RAISES as error:
            raise named(error, what) from error
        self.position, self.at_us, self._connection = last, max(at_us, self.at_us), connection
        return connection


class PartitionReader:
    """A read-only connection to the file of one partition, to which another process may write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()
        # the last pack that was read: its row without the payload, and its content
        self._pack: tuple[tuple[int, int, int, None], StoredRow] | None = None
        self._path = str(path)
        check_writable(path.parent)  # SQLite creates a -shm file in the folder even for a reader
        self._connection = self._opened()
        # part of each mark, because the `data_version` of different connections cannot be compared
        self._number = next(_readers)

    def mark(self) -> tuple[int, int]:
        """Return a value that changes whenever a process writes to the file."""
        with self._mutex:
            self._reopen_if_replaced()
            return self._mark()

    def _mark(self) -> tuple[int, int]:
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except SQLITE_RAISES as error:
            raise named(error, str(self.path)) from error
        return self._number, version

    def read(self, after: int, limit: int) -> list[LogRecord]:
        """Return up to `limit` records with position > `after`, checked against their checksums.

        Raises:
            Corrupt: The checksum of a record is wrong, or a record is missing.
        """
        return self._in_snapshot(lambda connection: self._read(connection, after, limit))

    def _read(self, connection: sqlite3.Connection, after: int, limit: int) -> list[LogRecord]:
        select = f"{SELECT_WITHOUT_PACKS} WHERE position > ? ORDER BY position LIMIT ?"
        rows = connection.execute(select, (after, limit)).fetchall()
        # a row with the payload None is a pack; a pack that is not the first row leaves a gap before its position
        with_packs = bool(rows) and (rows[0][3] is None or rows[-1][0] - rows[0][0] >= len(rows))
        if rows and rows[0][0] == after + 1 and len(rows) == limit and not with_packs:
            # no record is missing before or between these, so the two look-ups below are not needed
            return verified(rows, after, self.path)
        head = read_head(connection, self.path)
        last = sequence(connection, head)
        start = max(after, head.truncated_through)
        records = self._unpacked(connection, rows, start, limit) if with_packs else verified(rows, start, self.path)
        end = records[-1].position if records else start
        if len(records) < limit and end != last:
            lost = (
                f"records {end + 1} to {last} are missing"
                if end < last
                else f"it ends at position {last}, but was read up to {end}"
            )
            raise Corrupt(f"{self.path}: {lost}. Restore the partition from a copy, or rebuild what was read from it.")
        return records

    def _unpacked(self, connection: sqlite3.Connection, rows: list[Any], after: int, limit: int) -> list[LogRecord]:
        """Return up to `limit` records from `rows`, of which some are packs.

        `rows` do not have the payloads of packs. Such a payload is only read when records in it are needed.
        """
        records = list[LogRecord]()
        for row in rows:
            if row[3] is not None:
                records += verified([row], after, self.path)
            else:
                if self._pack is None or self._pack[0] != row:
                    whole = connection.execute(f"{SELECT} WHERE position = ?", row[:1]).fetchall()
                    if not whole:  # a damaged page
                        raise missing(self.path, after + 1, row[0])
                    self._pack = row, next(stored(whole, self.path))
                pack = self._pack[1]
                if pack.first > after + 1:
                    raise missing(self.path, after + 1, pack.first)
                skipped = after + 1 - pack.first
                payloads = unpack(pack.payload, skipped, min(skipped + limit - len(records), pack.rows))
                numbered = enumerate(payloads, after + 1)
                records += [LogRecord(self.path.stem, number, pack.at_us, payload) for number, payload in numbered]
            if len(records) == limit:
                break
            after = records[-1].position
        return records

    def position(self) -> int:
        """Return the last position that was used."""
        return self._in_snapshot(lambda connection: sequence(connection, read_head(connection, self.path)))

    def copy(self, path: Path) -> int:
        """Write a snapshot of the partition to a new file, and return the last position in it."""
        # use a new connection, because other threads may be reading with this one
        with contextlib.closing(PartitionReader(self.path)) as source:
            return source._copied(path)

    def _copied(self, path: Path) -> int:
        def copied(source: sqlite3.Connection) -> int:
            try:
                with contextlib.closing(sqlite3.connect(path)) as copy:
                    source.backup(copy)
                    copy.text_factory = bytes
                    return sequence(copy, check_format(copy, path))
            except SQLITE_RAISES as error:
                raise named(error, f"copying {self.path} to {path}") from error

        return self._in_snapshot(copied)

    def close(self) -> None:
        with self._mutex:
            self._connection.close()

    def _in_snapshot(self, what: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return `what(connection)`, which reads one snapshot of the file."""
        with self._mutex:
            self._reopen_if_replaced()
            connection = self._connection
            try:
                connection.execute("BEGIN")
                return what(connection)
            except SQLITE_RAISES as error:
                raise named(error, self._path) from error
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _reopen_if_replaced(self) -> None:
        """If another file is at the path now, open that file."""
        found = file_id(self._path)
        if found == self._file:
            return
        if found is None:
            raise Unavailable(f"{self.path}: it was removed or moved. Put it back, or run: trimtab storage recover")
        connection = self._opened()
        self._connection.close()
        self._connection, self._number = connection, next(_readers)

    def _opened(self) -> sqlite3.Connection:
        self._file = file_id(self._path)
        try:
            connection = sqlite3.connect(
                f"file:{quote(self._path)}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                connection.text_factory = bytes
                check_format(connection, self.path)
            except BaseException:
                connection.close()
                raise
        except SQLITE_RAISES as error:
            raise named(error, self._path) from error
        return connection


def open_writer(path: Path, lock: FileLock, mode: Mode) -> PartitionWriter:
    """Return a writer for the file at `path`. If the file cannot be opened, release the lock."""
    try:
        return PartitionWriter(path, lock, mode)
    except BaseException:
        lock.release()
        raise


def busy(path: Path, lock_path: Path) -> Conflict:
    """Return the error to raise if another process is writing a partition."""
    return Conflict(
        f"{path}: process {FileLock.holder(lock_path)} is writing to it. Do this in that process, or when it has ended."
    )
