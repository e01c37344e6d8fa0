"""Durable appends per second: 16 threads, one record of 200 bytes per call.

The floor is the same 16 threads over a bare file: whoever comes first writes what all of them brought and syncs once
(no SQL, no checksums, no positions). The groups form in the same way on both sides; the threads are part of the
floor because waking the 16 callers costs about as much as the sync itself. (One thread that writes and syncs groups
of 16 with nobody waiting is about three times as fast.)
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from trimtab.store.sqlite.log import SqliteLog

NAME = "log_append"
TARGET = "ratio >= 0.8"
UNIT = "records/s"
BETTER = "higher"

APPENDERS = 16
EACH = 1_500
PAYLOAD = bytes(range(200))


class Folders:
    """A fresh directory for every turn, so that no run meets a warm or grown file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turns = count()

    def fresh(self) -> Path:
        path = self._folder / str(next(self._turns))
        path.mkdir()
        return path


def setup(folder: Path) -> Folders:
    return Folders(folder)


def ours(folders: Folders) -> float:
    path = folders.fresh()
    with SqliteLog(path) as log:
        partition = log.partition  # makes the file before the clock starts
        speed = run(lambda: log.append([PAYLOAD]))
        assert log.positions() == {partition: APPENDERS * EACH}
    shutil.rmtree(path)
    return speed


def floor(folders: Folders) -> float:
    path = folders.fresh()
    file = GroupedFile(path / "log")
    speed = run(lambda: file.append(PAYLOAD))
    file.close()
    assert (path / "log").stat().st_size == APPENDERS * EACH * len(PAYLOAD)
    shutil.rmtree(path)
    return speed


def run(append: Callable[[], object]) -> float:
    """Calls per second of `append` from all threads at once."""
    ready = threading.Barrier(APPENDERS + 1)

    def appender() -> None:
        ready.wait()
        for _ in range(EACH):
            append()

    threads = [threading.Thread(target=appender) for _ in range(APPENDERS)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return APPENDERS * EACH / (time.perf_counter() - begin)


class GroupedFile:
    """Write + fsync by hand: the first thread of a group leads, the others sleep until their bytes are safe."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._mutex = threading.Lock()
        self._waiting: list[Waiter] = []
        self._leading = False
        self._last_group = 1

    def append(self, payload: bytes) -> None:
        mine = Waiter(payload)
        with self._mutex:
            self._waiting.append(mine)
            leads = not self._leading
            self._leading = True
        if not leads:
            mine.turn.acquire()
        if mine.done:
            return
        while self._last_group > 1:  # let those who were just woken join
            before = len(self._waiting)
            time.sleep(0)
            if len(self._waiting) == before:
                break
        with self._mutex:
            group, self._waiting = self._waiting, []
        self._last_group = len(group)
        os.write(self._fd, b"".join([each.payload for each in group]))
        os.fsync(self._fd)
        for each in group:
            each.done = True
        with self._mutex:
            following = self._waiting[0] if self._waiting else None
            self._leading = following is not None
        for each in group if following is None else [following, *group]:
            if each is not mine:
                each.turn.release()

    def close(self) -> None:
        os.close(self._fd)


class Waiter:
    __slots__ = ("done", "payload", "turn")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.done = False
        self.turn = threading.Lock()
        self.turn.acquire()
