"""A lock on a file, taken without waiting and released by the system when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from trimtab.store.durable_files import file_mode
from trimtab.store.forks import guard, unguard


class FileLock:
    """An exclusive `flock` on a file that holds the pid of its owner.

    A forked child inherits the open file and would keep the lock beyond its parent's death, so it closes its copy.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        guard(self, path)

    @staticmethod
    def take(path: Path) -> FileLock | None:
        """Return the lock on `path`, or None while another process or object holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(path.parent))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        with contextlib.suppress(OSError):  # the pid is only for messages, so a full disk must not prevent the lock
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        return FileLock(path, fd)

    @staticmethod
    def is_held(path: Path) -> bool:
        """Return whether the lock on `path` is held. Nothing is made or written."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @staticmethod
    def holder(path: Path) -> str:
        """Return the pid in the lock file, or "unknown" without a pid."""
        try:
            return path.read_text() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        fd, self._fd = self._fd, -1
        unguard(self)
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)  # frees the lock even if a child still has a copy of the descriptor
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: close the inherited copy. The parent keeps the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
