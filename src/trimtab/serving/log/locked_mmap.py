"""A memory-mapped file that outlives the process that writes it; its lock says whether that process lives."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
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
        size_bytes: Its length, where it does not fit. The room is allocated at once: a full disk cannot fail a write.
        fits: Whether an existing file, by its descriptor, is used as it is; left out, one of that length is.
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
    def take(path: Path, size_bytes: int, fits: Callable[[int], bool] | None = None) -> LockedMmap | None:
        """The file, or None while another process holds it.

        Raises:
            OSError: It cannot be made; nothing is held then.
        """
        lock = FileLock.take(lock_of(path))
        return None if lock is None else LockedMmap(path, lock, size_bytes, fits)

    @staticmethod
    def first_free(folder: Path, name: str, size_bytes: int, fits: Callable[[int], bool] | None = None) -> LockedMmap:
        """The first of `NAME-0001`, `NAME-0002`, ... that no other process holds.

        Raises:
            OSError: It cannot be made; nothing is held then.
        """
        for number in count(1):
            held = LockedMmap.take(folder / f"{name}-{number:04}", size_bytes, fits)
            if held is not None:
                return held
        raise AssertionError("unreachable")

    def renew(self) -> None:
        """Replace it by a new file."""
        self.memory.close()
        self.path.unlink()
        self.memory = self._mapped()

    def close(self) -> None:
        self.memory.close()
        self._lock.release()

    def __enter__(self) -> LockedMmap:
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
                    self.path.unlink()  # a part of it would only take room
                    raise
            return mmap.mmap(fd, 0)
        finally:
            os.close(fd)


def lock_of(path: Path) -> Path:
    """The lock of a `LockedMmap`."""
    return path.with_suffix(".lock")
