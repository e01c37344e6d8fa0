"""A file's memory, which outlives the process that writes in it; its lock says whether that is alive."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import TracebackType

from trimtab.store.durable_files import file_mode
from trimtab.store.file_lock import FileLock


class HeldFile:
    """A file in memory, in the hands of this process. Whatever fails, the lock does not stay behind.

    Args:
        path: The file, made when it is not there.
        lock: Its lock.
        size_bytes: How long it is made, where it does not fit. That room is taken at once: writing in it can never
            meet a full disk.
        fits: Says of the file, by its descriptor, whether it is taken as it is; left out, whether it has that length.
    """

    def __init__(self, path: Path, lock: FileLock, size_bytes: int, fits: Callable[[int], bool] | None = None) -> None:
        self.path = path
        self._lock = lock
        self._size_bytes = size_bytes
        self._fits = fits or (lambda fd: os.fstat(fd).st_size == size_bytes)
        try:
            self.memory = self._mapped()
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def take(path: Path, size_bytes: int, fits: Callable[[int], bool] | None = None) -> HeldFile | None:
        """The file, or None while somebody else holds it.

        Raises:
            OSError: It cannot be made; nothing is held then.
        """
        lock = FileLock.take(lock_of(path))
        return None if lock is None else HeldFile(path, lock, size_bytes, fits)

    @staticmethod
    def first_free(folder: Path, name: str, size_bytes: int, fits: Callable[[int], bool] | None = None) -> HeldFile:
        """The first of `NAME-0001`, `NAME-0002`, ... that nobody holds.

        Raises:
            OSError: It cannot be made; nothing is held then.
        """
        for number in count(1):
            held = HeldFile.take(folder / f"{name}-{number:04}", size_bytes, fits)
            if held is not None:
                return held
        raise AssertionError("unreachable")

    def renew(self) -> None:
        """Put a new file in its place."""
        self.memory.close()
        self.path.unlink()
        self.memory = self._mapped()

    def close(self) -> None:
        self.memory.close()
        self._lock.release()

    def __enter__(self) -> HeldFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _mapped(self) -> mmap.mmap:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(self.path.parent))
        try:
            if not self._fits(fd):
                try:
                    os.ftruncate(fd, 0)
                    os.posix_fallocate(fd, 0, self._size_bytes)
                except OSError:
                    self.path.unlink()  # half of it is of no use, and takes room that is needed
                    raise
            return mmap.mmap(fd, 0)
        finally:
            os.close(fd)


def lock_of(path: Path) -> Path:
    """The lock of a file that is held."""
    return path.with_suffix(".lock")
