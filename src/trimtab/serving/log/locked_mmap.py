"""A memory-mapped file that survives its process, with a lock that shows whether the process is alive."""

from __future__ import annotations

import mmap
import os
from itertools import count
from pathlib import Path

from trimtab.core.closing import Closing
from trimtab.store.durable_files import file_mode
from trimtab.store.file_lock import FileLock


class LockedMmap(Closing):
    """A memory-mapped file whose lock this process holds.

    Args:
        path: The file. It is created if it does not exist.
        lock: The lock of the file. It is released if the file cannot be created.
        size_bytes: The length of the file. A file of another length is emptied first. The space is allocated at once,
            so that later writes do not fail because the disk is full.
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
        """Return the file, or None if another process has locked it.

        Raises:
            OSError: The file cannot be created. The lock is not held then.
        """
        lock = FileLock.take(lock_of(path))
        return None if lock is None else LockedMmap(path, lock, size_bytes)

    @staticmethod
    def first_free(folder: Path, name: str, size_bytes: int) -> LockedMmap:
        """Return the first of the files `NAME-0001`, `NAME-0002`, ... that no other process has locked.

        Raises:
            OSError: The file cannot be created. The lock is not held then.
        """
        for number in count(1):
            held = LockedMmap.take(folder / f"{name}-{number:04}", size_bytes)
            if held is not None:
                return held
        raise AssertionError("unreachable")

    def close(self) -> None:
        self.memory.close()
        self._lock.release()


def _mapped(path: Path, size_bytes: int) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(path.parent))
    try:
        if os.fstat(fd).st_size != size_bytes:
            try:
                os.ftruncate(fd, 0)
                os.posix_fallocate(fd, 0, size_bytes)
            except OSError:
                path.unlink()  # an incomplete file would only waste space
                raise
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)


def lock_of(path: Path) -> Path:
    """Return the path of the lock file that belongs to a `LockedMmap`."""
    return path.with_suffix(".lock")
