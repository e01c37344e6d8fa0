"""A lock on a file. It is taken without waiting. If its process dies, the system releases it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from trimtab.store.durable_files import file_mode
from trimtab.store.forks import guard, unguard


class FileLock:
    """An exclusive `flock` on a file. The file holds the pid of the process that has the lock.

    A forked child inherits the open file. It must close its copy, which would otherwise keep the lock after the death
    of the parent.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        guard(self, path)

    @staticmethod
    def take(path: Path) -> FileLock | None:
        """Take the lock on `path` and return it; None: another process or object holds the lock."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(path.parent))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        # The pid is only used in messages, so a full disk must not prevent the lock. Often the file has it already.
        with contextlib.suppress(OSError):
            pid = str(os.getpid()).encode()
            if os.pread(fd, 32, 0) != pid:
                os.ftruncate(fd, 0)
                os.pwrite(fd, pid, 0)
        return FileLock(path, fd)

    @staticmethod
    def is_held(path: Path) -> bool:
        """Return whether the lock on `path` is held. This makes and writes no file."""
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
        """Return the pid in the lock file, or "unknown" if there is none."""
        try:
            return path.read_text() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        fd, self._fd = self._fd, -1
        unguard(self)
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)  # frees the lock even if a child has a copy of the open file
            os.close(fd)

    def after_fork(self) -> None:
        """Close the copy of the file that a forked child has inherited. The parent keeps the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
