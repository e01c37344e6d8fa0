"""A file that one process holds: taken without waiting, let go by the system when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import weakref
from pathlib import Path

from trimtab.store.durable_files import file_mode

if sys.platform == "darwin":  # the C structure `flock`
    _FLOCK, _FLOCK_FIELDS = "qqihh", ("start", "size", "process", "kind", "whence")
else:
    _FLOCK, _FLOCK_FIELDS = "hhqqi", ("kind", "whence", "start", "size", "process")


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
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(path.parent))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        with contextlib.suppress(OSError):  # the pid is only for messages: a full disk must not refuse the lock
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        return FileLock(path, fd)

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether somebody holds the lock on `path`: looked at for a moment, and nothing is made or written."""
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


def locked_by(path: Path) -> int | None:
    """The process that has a record lock (`fcntl`, not `flock`) on the first byte of `path`; None: no other one.

    Nothing is made or written, and no lock is taken. This process must not have such a lock itself: it would lose it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none there, or not for us: who reads without it is told by what is read
        return None
    try:
        fields = {"kind": fcntl.F_WRLCK, "whence": os.SEEK_SET, "start": 0, "size": 1, "process": 0}
        asked = struct.pack(_FLOCK, *(fields[name] for name in _FLOCK_FIELDS))
        told = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    found = dict(zip(_FLOCK_FIELDS, told, strict=True))
    return None if found["kind"] == fcntl.F_UNLCK else int(found["process"])


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
