"""A file that one process holds: taken without waiting, let go by the system when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from pathlib import Path


class FileLock:
    """An exclusive `flock` on a file that also says who holds it.

    A forked child inherits the open file and would keep the lock beyond its parent's death, so it closes its copy
    as it starts: the lock stays with the process that took it.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        _held.add(self)

    @staticmethod
    def take(path: Path) -> FileLock | None:
        """The lock on `path`, or None while somebody else (or another object of this process) holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with contextlib.suppress(OSError):  # the pid is only for messages: a full disk must not refuse the lock
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        return FileLock(path, fd)

    @staticmethod
    def holder(path: Path) -> str:
        """The pid written in the lock file, "unknown" when there is none."""
        try:
            return path.read_text() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Let go; nothing happens the second time."""
        fd, self._fd = self._fd, -1
        _held.discard(self)
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)  # frees it even if a child still has a copy of the descriptor
            os.close(fd)

    def forget(self) -> None:
        """In a forked child: close the inherited copy; the parent keeps the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
