"""A note of answers given but not logged yet, in a file's memory: it outlives its process, and so do they."""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType

from trimtab.core.errors import Unavailable
from trimtab.serving.prediction_log import PredictionLog, payload_id
from trimtab.store.file_lock import FileLock

SIZE_BYTES = 1 << 20
_MAGIC = b"trSp\x01\0\0\0"  # the last byte that is not zero is the format
_USED = struct.Struct("<q")
_HEAD = struct.Struct("<II")  # size and CRC-32 of what follows
_BEGIN = 16  # behind magic and the count of used bytes


class Spool:
    """Payloads between answer and log.

    Writing one is a copy into memory that the system keeps when the process is killed. Whoever opens a spool next
    finds what it holds and appends it to the log, unless it is there. A power cut may lose it, as it may lose the
    last moments of a relaxed log.

    Args:
        directory: Where spools are; one for each process that serves at the same time.
        log: The log that its payloads go to.
    """

    def __init__(self, directory: Path, log: PredictionLog) -> None:
        self.recovered = 0  # predictions that were found in spools and not in the log
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._map, self._lock = self._take(directory, log)
        except OSError as error:
            raise Unavailable(f"{directory}: a spool cannot be made ({error}). Check space and access.") from error
        self._used = 0

    def add(self, payloads: Sequence[bytes]) -> bool:
        """Note payloads, all or none; False when there is no room for them."""
        at = _BEGIN + self._used
        end = at + sum(map(len, payloads)) + _HEAD.size * len(payloads)
        if end > SIZE_BYTES:
            return False
        view = self._map
        for payload in payloads:
            begin = at + _HEAD.size
            view[at:begin] = _HEAD.pack(len(payload), zlib.crc32(payload))
            at = begin + len(payload)
            view[begin:at] = payload
        self._used = end - _BEGIN
        view[8:_BEGIN] = _USED.pack(self._used)  # last: until now they were not there
        return True

    def clear(self) -> None:
        """Everything noted is in the log."""
        self._used = 0
        self._map[8:_BEGIN] = _USED.pack(0)

    def close(self) -> None:
        self._map.close()
        self._lock.release()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _take(self, directory: Path, log: PredictionLog) -> tuple[mmap.mmap, FileLock]:
        """The first spool that nobody holds; what dead processes left in any of them goes to the log."""
        mine: tuple[mmap.mmap, FileLock] | None = None
        for number in count(1):
            path = directory / f"spool-{number:04}"
            if mine is not None and not path.exists():
                return mine
            lock = FileLock.take(path.with_suffix(".lock"))
            if lock is None:
                continue
            mapped = _mapped(path)
            self._recover(mapped, log)
            if mine is None:
                mine = mapped, lock
            else:
                mapped.close()
                lock.release()
        raise AssertionError("unreachable")

    def _recover(self, mapped: mmap.mmap, log: PredictionLog) -> None:
        lost = [p for p in _payloads(mapped) if log.locate(payload_id(p)) is None]
        if lost:
            log.append_payloads(lost)
            self.recovered += len(lost)
        mapped[8:_BEGIN] = _USED.pack(0)


def _mapped(path: Path) -> mmap.mmap:
    """The file in memory, made when it is not there or no spool."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if os.fstat(fd).st_size != SIZE_BYTES:
            os.ftruncate(fd, 0)
            os.posix_fallocate(fd, 0, SIZE_BYTES)  # the room is taken now: writing can never meet a full disk
        mapped = mmap.mmap(fd, SIZE_BYTES)
    finally:
        os.close(fd)
    if mapped[:8] != _MAGIC:
        mapped[8:_BEGIN] = _USED.pack(0)
        mapped[:8] = _MAGIC
    return mapped


def _payloads(mapped: mmap.mmap) -> list[bytes]:
    """What a spool holds, up to the first damage (which only a power cut can leave)."""
    (used,) = _USED.unpack(mapped[8:_BEGIN])
    end = min(_BEGIN + max(used, 0), SIZE_BYTES)
    at, found = _BEGIN, []
    while at + _HEAD.size <= end:
        size, crc = _HEAD.unpack(mapped[at : at + _HEAD.size])
        at += _HEAD.size
        payload = mapped[at : at + size]
        if at + size > end or zlib.crc32(payload) != crc:
            break
        found.append(payload)
        at += size
    return found
