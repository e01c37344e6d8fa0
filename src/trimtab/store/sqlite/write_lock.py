"""A lock for SQLite files in WAL mode: only one connection of all threads and processes may write."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from trimtab.core.errors import Unavailable
from trimtab.store.durable_files import file_mode
from trimtab.store.forks import guard

_LONGEST_WAIT_S = 0.02  # the longest pause between two attempts to take the lock


class WriteLock:
    """An exclusive `flock` on a file next to the database. It is held from before a write until after its commit.

    SQLite before 3.51.3 can damage a database in WAL mode if one connection checkpoints while another one commits
    (sqlite.org/wal.html#walresetbug). Therefore commits, and the checkpoints that they cause, only happen under this
    lock. # D57

    Args:
        path: The lock file. It is created when it is first needed, and never removed.
        wait_s: How long to wait for other writers, in seconds.
    """

    def __init__(self, path: Path, *, wait_s: float) -> None:
        self.path = path
        self._wait_s = wait_s
        self._mutex = threading.Lock()
        self._fd = -1
        guard(self, path)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock, so that no other thread or process writes inside the block.

        Raises:
            Unavailable: Other writers held the lock for too long, or the lock file cannot be made.
        """
        if not self._mutex.acquire(timeout=self._wait_s):
            raise self._late()
        try:
            self._lock()
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def close(self) -> None:
        """Close the lock file. The next `hold` opens it again."""
        with self._mutex:
            self._close()

    def after_fork(self) -> None:
        """Close a forked child's copy of the file, which would otherwise keep the lock after the parent's death."""
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _lock(self) -> None:
        end, pause_s = time.monotonic() + self._wait_s, 0.0005
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, file_mode(self.path.parent))
            while True:
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise self._late() from None
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_WAIT_S)
        except OSError as error:
            raise Unavailable(f"{self.path}: {error}. Check free space and access, and try again.") from error

    def _late(self) -> Unavailable:
        return Unavailable(f"{self.path}: other processes were writing for more than {self._wait_s:g} s. Try again.")
