"""Who appends after whom: an exception in one thread, at whatever line, leaves no other one waiting."""

from __future__ import annotations

import linecache
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from trimtab.core.errors import Misuse, Unavailable
from trimtab.store.file_lock import FileLock
from trimtab.store.sqlite import log as sqlite_log
from trimtab.store.sqlite.log import SqliteLog

TURNS = ("append", "close", "_close", "maintenance", "_alone", "_wait", "_lead", "_write", "_pass_lead", "_dequeue")
WAIT_S = 20  # what passes in milliseconds, unless somebody waits for ever


class Gate:
    """A clock that an append looks at while it leads: it stands there until the gate is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.open.set()

    def now_us(self) -> int:
        self.reached.set()
        assert self.open.wait(WAIT_S)
        return 1


class Work(threading.Thread):
    """A call in a thread, and what became of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.found: object = None
        self.start()

    def run(self) -> None:
        try:
            self.found = self._call()
        except BaseException as error:
            self.found = error

    def result(self) -> Any:
        self.join(WAIT_S)
        assert not self.is_alive(), "it waits for ever"
        return self.found


def queue(log: SqliteLog, length: int) -> None:
    """Wait until so many wait for their turn."""
    while len(log._waiting) < length:
        threading.Event().wait(0.001)


@contextmanager
def led_by_another(log: SqliteLog, gate: Gate) -> Iterator[Work]:
    """Another thread leads, and stands in the middle of its append."""
    gate.reached.clear()
    gate.open.clear()
    leads = Work(lambda: log.append([b"leads"]))
    assert gate.reached.wait(WAIT_S)
    yield leads
    gate.open.set()
    leads.result()


def in_log(folder: Path) -> list[bytes]:
    with SqliteLog(folder) as log:
        return [record.payload for name in log.positions() for record in log.read(name, 0)]


CALLS: dict[str, Callable[[SqliteLog], object]] = {
    "append": lambda log: log.append([b"interrupted"]),
    "maintenance": lambda log: log.maintenance(),
    "truncate": lambda log: log.truncate("p0001", 1),
    "close": lambda log: log.close(),
}


@pytest.mark.parametrize("call", CALLS)
def test_who_is_interrupted_while_another_one_leads_does_not_take_the_lead_along(tmp_path: Path, call: str) -> None:
    gate = Gate()
    log = SqliteLog(tmp_path, clock=gate)
    log.append([b"first"])

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with led_by_another(log, gate):
            main = threading.main_thread().ident
            assert main is not None

            def press() -> None:
                queue(log, 1)
                signal.pthread_kill(main, signal.SIGUSR1)

            presses = Work(press)
            with pytest.raises(KeyboardInterrupt):
                CALLS[call](log)
            presses.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert Work(lambda: log.append([b"after"])).result() == range(3, 4)
    Work(log.maintenance).result()
    Work(log.close).result()
    assert in_log(tmp_path) == [b"first", b"leads", b"after"]


@contextmanager
def interrupted_at(step: int) -> Iterator[list[int]]:
    """Interrupt this thread at the `step`-th line at which it is about its turn; what is given counts them.

    No signal comes between a lock and its `with` statement: the interpreter looks for them between calls.
    """
    steps = [0]
    file = sqlite_log.__file__

    def see(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != file or frame.f_code.co_name not in TURNS:
            return None
        if event == "line" and not linecache.getline(file, frame.f_lineno).strip().startswith("with "):
            steps[0] += 1
            if steps[0] == step:
                raise KeyboardInterrupt
        return see

    before = sys.gettrace()
    sys.settrace(see)
    try:
        yield steps
    finally:
        sys.settrace(before)


def each_step(play: Callable[[int], bool]) -> None:
    """Play with an interruption at the first line, at the second, ... until there is none left."""
    step = 1
    while play(step):
        step += 1
    assert step > 15


@pytest.mark.parametrize("call", ["append", "maintenance", "close"])
@pytest.mark.parametrize("busy", [False, True])
def test_an_interruption_at_any_line_leaves_a_log_that_goes_on(tmp_path: Path, call: str, busy: bool) -> None:
    """Alone, and as the last one that waits for another's append."""

    def play(step: int) -> bool:
        before, gate = in_log(tmp_path), Gate()
        log = SqliteLog(tmp_path, mode="relaxed", clock=gate)
        log.append([b"first"])
        log._last_group = 2  # it has been busy: who leads looks whether more come

        def interrupted() -> bool:
            try:
                with interrupted_at(step) as steps:
                    CALLS[call](log)
            except KeyboardInterrupt:
                return True
            return steps[0] >= step

        if busy:
            with led_by_another(log, gate):
                one = Work(interrupted)
                while one.is_alive() and not log._waiting:
                    threading.Event().wait(0.0005)
                gate.open.set()
                reached = one.result()
        else:
            reached = Work(interrupted).result()
        after = Work(lambda: log.append([b"after"])).result()
        assert isinstance(after, range | Misuse if call == "close" else range)
        Work(log.close).result()
        found = in_log(tmp_path)[len(before) :]
        assert found.count(b"interrupted") <= (call == "append")
        told = [b"first"] + [b"leads"] * busy + [b"after"] * isinstance(after, range)
        assert [one for one in found if one != b"interrupted"] == told
        return bool(reached)

    each_step(play)


def test_whoever_shares_the_append_of_one_who_is_interrupted_is_told_so(tmp_path: Path) -> None:
    """The leader has a follower and one behind it that wants the lead alone."""

    def play(step: int) -> bool:
        before, gate = in_log(tmp_path), Gate()
        log = SqliteLog(tmp_path, mode="relaxed", clock=gate)

        def interrupted() -> bool:
            try:
                with interrupted_at(step) as steps:
                    log.append([b"interrupted"])
            except KeyboardInterrupt:
                return True
            return steps[0] >= step

        with led_by_another(log, gate):
            one = Work(interrupted)
            while one.is_alive() and not log._waiting:
                threading.Event().wait(0.0005)
            waits = len(log._waiting)
            follows = Work(lambda: log.append([b"follows"]))
            queue(log, waits + 1)
            keeps = Work(log.maintenance)
            queue(log, waits + 2)
            gate.open.set()
            reached = one.result()
        told = follows.result()
        assert isinstance(told, range | Unavailable)
        assert keeps.result() is None
        after = Work(lambda: log.append([b"after"])).result()
        assert isinstance(after, range)
        Work(log.close).result()
        found = in_log(tmp_path)[len(before) :]
        assert sorted({*found, b"interrupted", b"follows"}) == [b"after", b"follows", b"interrupted", b"leads"]
        assert len(found) == len(set(found))
        assert b"follows" in found or isinstance(told, Unavailable)
        return bool(reached)

    each_step(play)


def test_a_log_that_is_closed_while_somebody_waits_to_truncate_it_stays_closed(tmp_path: Path) -> None:
    gate = Gate()
    log = SqliteLog(tmp_path, clock=gate)
    log.append([b"first", b"second"])
    with led_by_another(log, gate):
        closes = Work(log.close)
        queue(log, 1)
        truncates = Work(lambda: log.truncate("p0001", 1))
        queue(log, 2)
    closes.result()
    assert isinstance(truncates.result(), Misuse)
    lock = FileLock.take(tmp_path / "p0001.lock")
    assert lock is not None
    lock.release()
    assert list(tmp_path.glob("*-wal")) == []  # nobody has it open
    assert in_log(tmp_path) == [b"first", b"second", b"leads"]
