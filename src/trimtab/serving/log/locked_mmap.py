"""A memory-mapped file that outlives the process that writes it; its lock says whether that process lives."""

from __future__ import annotations

import mmap
import os
from itertools import count
from pathlib import Path
from types import TracebackType

from trimtab.store.durable_files import file_mode
from trimtab.store.file_lock import FileLock


class LockedMmap:
    """A memory-mapped file whose lock this process holds.

    Args:
        path: The file, made when it is not there.
        lock: Its lock, released when the file cannot be made.
        size_bytes: Its length; a file of another length is replaced. The room is allocated at once: a full disk cannot
            fail a write.
    """

    def __init__(self, path: Path, lock: FileLock, size_bytes: int) -> None:
        self._lock = lock
        try:
            self.memory = _mapped(path, size_bytes)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def take(path: Path, size_bytes: int) -> LockedMmap | None:
        """The file, or None while another process holds it.

        Raises:
            OSError: It cannot be made; nothing is held then.
        """
        lock = FileLock.take(lock_of(path))
        return None if lock is None else LockedMmap(path, lock, size_bytes)

    @staticmethod
    def first_free(folder: Path, name: str, size_bytes: int) -> LockedMmap:
        """The first of `NAME-0001`, `NAME-0002`, ... that no other process holds.

        Raises:
            OSError: It cannot be made; nothing is held then.
        """
        for number in count(1):
            held = LockedMmap.take(folder / f"{name}-{number:04}", size_bytes)
            if held is not None:
                return held
        raise AssertionError("unreachable")

    def close(self) -> None:
        self.memory.close()
        self._lock.release()

    def __enter__(self) -> LockedMmap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _mapped(path: Path, size_bytes: int) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(path.parent))
    try:
        if os.fstat(fd).st_size != size_bytes:
            try:
                os.ftruncate(fd, 0)
                os.posix_fallocate(fd, 0, size_bytes)
            except OSError:
                path.unlink()  # a part of it would only take room
                raise
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)


def lock_of(path: Path) -> Path:
    """The lock of a `LockedMmap`."""
    return path.with_suffix(".lock")
