"""The log in a folder: one SQLite file in WAL mode per partition. Appends of several threads share one commit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import TypeVar

from trimtab.core.clock import Clock, SystemClock
from trimtab.core.closing import Closing
from trimtab.core.columns.packs import packed_rows
from trimtab.core.errors import Misuse, NotFound, TrimtabError, Unavailable
from trimtab.store.durable_files import make_folder
from trimtab.store.file_lock import FileLock
from trimtab.store.forks import check_inherited, forked, guard, unguard
from trimtab.store.ports import LogRecord
from trimtab.store.sqlite.partition import PartitionReader, PartitionWriter, busy, open_writer
from trimtab.store.sqlite.partition_file import Mode

_T = TypeVar("_T")
_LARGEST_PAYLOAD_BYTES = 500_000_000  # SQLite's own limit is 1,000,000,000 bytes per row


class SqliteLog(Closing):
    """A `Log` in a directory.

    The files `p0001.db`, `p0002.db`, ... are the partitions. Each process that writes takes a partition that no other
    process is writing. In mode `durable`, an append is synced before it is acknowledged. In mode `relaxed`, records
    survive kill -9, but a power cut may lose the last ones.

    >>> import tempfile
    >>> with SqliteLog(Path(tempfile.mkdtemp())) as log:
    ...     _ = log.append([b"one", b"two"])
    ...     [(r.position, r.payload) for r in log.read(log.partition, after=1)]
    [(2, b'two')]
    """

    def __init__(self, directory: Path, *, mode: Mode = "durable", clock: Clock | None = None) -> None:
        if mode not in ("durable", "relaxed"):
            raise Misuse(f'log: mode {mode!r} is unknown. Write "durable" or "relaxed".')
        self.directory = Path(directory)
        self.mode: Mode = mode
        self._clock = clock or SystemClock()
        self._refusal: Misuse | None = None  # the error that every call raises after the log was closed
        self._writer: PartitionWriter | None = None
        self._readers: dict[str, PartitionReader] = {}
        self._mutex = threading.Lock()  # guards the queue of appends, and the choice of the one that writes (`_leader`)
        self._files = threading.Lock()  # guards the partition and the readers
        self._waiting: list[_Append] = []
        self._leader: _Append | None = None
        self._last_group = 1  # the number of appends in the last commit
        check_inherited(self.directory)
        # raises an error if the path is not a directory; the first append creates a missing directory
        self._partitions()
        guard(self, self.directory)

    @property
    def partition(self) -> str:
        """Return the partition that this process appends to. If it has none yet, it takes one now."""
        return self._own().path.stem

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append all of `payloads` or none. Return their positions once they are safe.

        Raises:
            Misuse: A payload is not bytes or is too large, or `at_us` decreases or does not have one time per payload.
            Unavailable: The disk is full or read-only. Nothing was appended, and the log works again when the disk
                does. Or the thread that wrote the payloads of several threads was interrupted. Then it is unknown
                whether these were appended, and the message says so.
        """
        return self._append(_Append(payloads, at_us))

    def append_packs(self, packs: Sequence[bytes], *, at_us: int | None = None) -> range:
        """Append the payloads in packs, all or none. Return their positions. Errors are those of `append`.

        A pack becomes one row of the file. When some of its records are erased or truncated, each gets its own row.
        """
        return self._append(_Append(packs, None if at_us is None else [at_us] * len(packs), packs=True))

    def _append(self, mine: _Append) -> range:
        if not mine.payloads:
            return range(0)
        self._refuse_closed()
        try:
            self._wait(mine)
            if not mine.done:
                self._lead(mine)
        except BaseException as failure:
            self._dequeue(mine, failure)
            raise
        if mine.error is not None:
            raise type(mine.error)(*mine.error.args) from mine.error
        return mine.positions

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """Return up to `limit` records with position > `after`, checked against their checksums.

        Raises:
            NotFound: The partition does not exist.
            Corrupt: A record is damaged or missing. The message names the file and the position.
        """
        if after < 0 or limit < 1:
            raise Misuse(f"log: read after {after}, limit {limit}. Give after >= 0 and limit >= 1.")
        return self._reader(partition).read(after, limit)

    def positions(self) -> dict[str, int]:
        """Return the last position of every partition, by the partition's name."""
        return {name: self._reader(name).position() for name in self._partitions()}

    def truncate(self, partition: str, through: int) -> int:
        """Remove the records up to and including position `through`, free their disk space, and return their number.

        Records are removed in steps, and appends can run between two steps. After an interruption, the records that
        were not removed yet stay, so call this again.

        Raises:
            Conflict: Another process writes that partition.
        """
        removed = 0
        while step := self._change(partition, lambda writer: writer.truncate(through)):
            removed += step
        while self._change(partition, PartitionWriter.give_back):
            pass
        return removed

    def copy_to(self, directory: Path) -> dict[str, int]:
        """Write a snapshot of every partition to a new directory, and return the last position of each copy.

        Other threads and processes may append meanwhile. The copy has at least the records that were acknowledged
        before this call.
        """
        try:
            make_folder(directory)
            # these files reserve the names of partitions whose files were moved away, so copy them too
            for lock in self.directory.glob("p*.lock"):
                (directory / lock.name).touch()
        except OSError as error:
            raise Unavailable(f"{directory}: cannot be made ({error}). Check free space and access.") from error
        return {name: self._reader(name).copy(directory / f"{name}.db") for name in self._partitions()}

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        """Replace the payloads at the given positions, but not the append times. Return how many were replaced.

        The whole file of the partition is rewritten, which takes as long as copying it.

        Raises:
            Conflict: Another process writes that partition. Nothing was done.
            Unavailable: Another process is reading the partition. The payloads were replaced, but the old bytes are
                still on the disk. Call again.
        """
        return self._change(partition, lambda writer: writer.erase(instead))

    def skip_to(self, partition: str, position: int, again: Iterable[tuple[bytes, int]]) -> None:
        """Remove a partition's records up to `position`. Records appended from now on get positions above it.

        A missing file is created.

        Args:
            position: The last position that any reader has read. It may be above the last position in the partition.
            again: Payloads with append times, to append after `position` in the same transaction.

        Raises:
            Conflict: Another process writes that partition. Nothing was done.
        """
        if not self._path(partition).exists():
            self._make_directory()
        self._write_alone(partition, lambda writer: writer.skip_to(position, again))

    def restamp(self, partition: str, above_us: int, at_us: int) -> int:
        """Set the append time of all records appended after `above_us` to `at_us`, and return their number.

        Raises:
            Conflict: Another process writes that partition. Nothing was done.
        """
        return self._change(partition, lambda writer: writer.restamp(above_us, at_us))

    def mark(self) -> tuple[tuple[str, tuple[int, int]], ...]:
        """Return a value that changes whenever a process appends."""
        return tuple((name, self._reader(name).mark()) for name in self._partitions())

    def maintenance(self) -> None:
        """Copy the write-ahead log of this process's partition into its file now, so that no append has to do it."""

        def checkpoint() -> None:
            if self._writer is not None:
                self._writer.checkpoint()

        self._alone(checkpoint)

    def close(self) -> None:
        """Wait for running appends, then release the partition. A second call does nothing."""
        if self._refusal is None or self._writer is not None:
            self._alone(self._close)

    def after_fork(self) -> None:
        """Make every later call fail. This is called in a forked child."""
        # keep the parent's objects for ever: if Python deleted them, this would close the parent's files
        self._inherited = self._writer, self._readers
        self._writer, self._readers = None, {}
        self._refusal = self._refusal or forked(self.directory)

    def _close(self) -> None:
        self._refusal = Misuse(f"{self.directory}: this log is closed. Open it again with store.open.")
        unguard(self)
        with self._files:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _change(self, partition: str, change: Callable[[PartitionWriter], int]) -> int:
        """Run `change` with a partition's writer, while no thread or process appends to the partition."""
        self._reader(partition)  # raises NotFound if there is no such partition
        return self._write_alone(partition, change)

    def _write_alone(self, partition: str, change: Callable[[PartitionWriter], _T]) -> _T:
        with self._files:
            writer = self._writer
        if writer is not None and writer.path.stem == partition:
            return self._alone(lambda: change(self._own()))  # raises Misuse if the log was closed meanwhile
        path, lock_path = self._path(partition), self.directory / f"{partition}.lock"
        lock = self._lock(lock_path)
        if lock is None:
            raise busy(path, lock_path)
        writer = open_writer(path, lock, self.mode)
        try:
            return change(writer)
        finally:
            writer.close()

    def _wait(self, mine: _Append) -> None:
        """Wait until the append is written, or until its thread becomes the leader (the thread that writes for all)."""
        with self._mutex:
            if self._leader is None:
                self._leader = mine
            self._waiting.append(mine)
        if self._leader is not mine:
            mine.wakeup.acquire()

    def _lead(self, mine: _Append) -> None:
        """Write all waiting appends in one transaction. Then choose the next leader, and wake the other threads."""
        # the threads that the last commit woke will soon append again: let them run until the queue does not grow any
        # more, so that all these appends share one sync
        while self._last_group > 1:
            before = len(self._waiting)
            time.sleep(0)
            if len(self._waiting) == before:
                break
        # the group ends before an append without payloads: it is from `_alone`, whose thread must become the leader
        with self._mutex:
            mine.group = group = list(takewhile(lambda each: each.payloads, self._waiting))
            del self._waiting[: len(group)]
        self._last_group = len(group)
        error: TrimtabError | None = None
        try:
            self._write(group)
        except TrimtabError as failure:
            error = failure
        for each in group:
            each.error, each.done = error, True
        self._pass_lead(mine)
        for each in group:
            if each is not mine:
                each.wakeup.release()
        # `mine.group` contains `mine`, and this cycle would keep the payloads in memory until a garbage collection
        mine.group = ()

    def _write(self, group: list[_Append]) -> None:
        appended = [(each.payloads, each.at_us, each.packs) for each in group]
        position = self._own().append(appended, self._clock.now_us())
        for each in group:
            end = position + (sum(map(packed_rows, each.payloads)) if each.packs else len(each.payloads))
            each.positions = range(position, end)
            position = end

    def _alone(self, work: Callable[[], _T]) -> _T:
        """Wait like an append until this thread is the leader. Then run `work`, which may use the writer alone."""
        mine = _Append((), None)
        try:
            self._wait(mine)
            found = work()
            self._dequeue(mine)
        except BaseException:
            self._dequeue(mine)
            raise
        return found

    def _pass_lead(self, mine: _Append) -> None:
        with self._mutex:
            if self._leader is mine:
                self._leader = following = self._waiting[0] if self._waiting else None
                if following is not None:
                    following.wakeup.release()

    def _dequeue(self, mine: _Append, failure: BaseException | None = None) -> None:
        """Remove an append from the queue after an exception, so that no other thread waits for it for ever. # D170

        If its thread was the leader, the unfinished appends of its group fail, the thread of the next append in the
        queue becomes the leader, and all these threads continue. The exception may have come at any point of `_wait`
        or `_lead`, so some of this may be done already. `_alone` also calls this without an exception.
        """
        with self._mutex:
            for each in mine.group:
                if not each.done:
                    each.error = Unavailable(
                        f"{self.directory}: the append was interrupted ({failure!r}): all of its records "
                        "were written, or none. Check which, before you append them again."
                    )
                    each.done = True
            self._waiting = [each for each in self._waiting if each is not mine and not each.done]
        self._pass_lead(mine)
        with self._mutex:
            for waits in (*mine.group, self._leader):
                # `wakeup` is locked until it is released once, which wakes the thread
                if waits is not None and waits.wakeup.locked():
                    waits.wakeup.release()
        mine.group = ()

    def _own(self) -> PartitionWriter:
        if self._writer is not None:
            return self._writer
        with self._files:
            self._refuse_closed()
            if self._writer is None:
                self._writer = self._take_partition()
            return self._writer

    def _make_directory(self) -> None:
        try:
            make_folder(self.directory)
        except OSError as error:
            raise Unavailable(
                f"{self.directory}: cannot be made ({error}). Give a directory this user may write."
            ) from error

    def _take_partition(self) -> PartitionWriter:
        self._make_directory()
        for number in count(1):
            path = self._path(f"p{number:04}")
            lock_path = path.with_suffix(".lock")
            used_before = lock_path.exists()
            lock = self._lock(lock_path)
            if lock is None:
                continue
            if path.exists() or not used_before:
                return open_writer(path, lock, self.mode)
            # the file was moved away; its positions must not be used again: views store the position of their last read
            lock.release()
        raise AssertionError("unreachable")

    def _lock(self, path: Path) -> FileLock | None:
        try:
            return FileLock.take(path)
        except OSError as error:
            raise Unavailable(f"{path}: the lock file cannot be made ({error}). Check space and access.") from error

    def _reader(self, partition: str) -> PartitionReader:
        reader = self._readers.get(partition)
        if reader is not None:
            return reader
        self._refuse_closed()
        with self._files:
            self._refuse_closed()
            if partition not in self._readers:
                names = self._partitions()
                if partition not in names:
                    found = ", ".join(names) or "none"
                    raise NotFound(f"{self.directory}: no partition {partition!r}; there are: {found}.")
                self._readers[partition] = PartitionReader(self._path(partition))
            return self._readers[partition]

    def _partitions(self) -> list[str]:
        try:
            return sorted(name[:-3] for name in os.listdir(self.directory) if name.endswith(".db"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unavailable(
                f"{self.directory}: cannot be read ({error}). Give a directory that this user may read."
            ) from error

    def _path(self, partition: str) -> Path:
        return self.directory / f"{partition}.db"

    def _refuse_closed(self) -> None:
        if self._refusal is not None:
            raise self._refusal


class _Append:
    """One call of `append`, waiting to be written."""

    __slots__ = ("at_us", "done", "error", "group", "packs", "payloads", "positions", "wakeup")

    def __init__(self, payloads: Sequence[bytes], at_us: Sequence[int] | None, *, packs: bool = False) -> None:
        for kind in set(map(type, payloads)):
            if not issubclass(kind, bytes):
                raise Misuse(f"log: a payload is a {kind.__name__}, not bytes. Encode it first.")
        if payloads and max(map(len, payloads)) > _LARGEST_PAYLOAD_BYTES:
            raise Misuse(f"log: a payload exceeds {_LARGEST_PAYLOAD_BYTES:,} bytes. Put it in a blob; log its hash.")
        if at_us is not None:
            if len(at_us) != len(payloads):
                raise Misuse(
                    f"log: found {len(payloads)} payloads, {len(at_us)} append times. Give one time for each payload."
                )
            if list(at_us) != sorted(at_us):
                raise Misuse("log: the append times decrease. Sort the records by the time they became known.")
        self.payloads = payloads
        self.at_us = at_us
        self.packs = packs
        self.positions = range(0)
        self.error: TrimtabError | None = None
        self.done = False
        self.group: Sequence[_Append] = ()  # the appends that the thread of this one writes as the leader
        self.wakeup = threading.Lock()  # released once: when the append is done, or its thread becomes the leader
        self.wakeup.acquire()
