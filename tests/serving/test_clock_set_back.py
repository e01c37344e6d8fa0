"""A clock that is set back: every answer is found by its identifier and logged once, whichever process is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Misuse
from trimtab.core.ids import TimeIds
from trimtab.core.records import Prediction
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.prediction_ids import PredictionIds, id_time_us
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import encode, payload_id
from trimtab.serving.log.spool import remove_spools
from trimtab.store.sqlite.log import SqliteLog
from trimtab.testing import MemoryLog
from trimtab.testing.builders import a_prediction

START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US


class Wall:
    """The machine's clock, which can be set."""

    def __init__(self) -> None:
        self.us = START_US

    def now_us(self) -> int:
        return self.us


class Killed(Exception):
    """The process died."""


class Mortal(SqliteLog):
    """A log whose process may die just behind an append."""

    dies = False

    def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
        positions = super().append(payloads, at_us=at_us)
        if self.dies:
            raise Killed
        return positions


class Process:
    """One that answers, notes its answers, and can die."""

    def __init__(self, folder: Path, wall: Wall) -> None:
        self.ids = PredictionIds(wall)
        self.wall = wall
        self.inner = Mortal(folder / "log", mode="relaxed", clock=self.ids)
        self.noted = BufferedLog(self.inner, folder / "spool")
        self.log = PredictionLog(self.noted)

    def answer(self) -> bytes:
        return encode(prediction(self.ids(), self.wall.us))

    def read(self) -> None:
        self.noted._recover_at_s = 0.0  # ten seconds have passed: what the dead left behind is looked for
        self.noted.positions()

    def die(self, *, writing: bool) -> None:
        """What is noted stays noted; `writing`: it is in the log, and the spool does not know yet."""
        if writing and self.noted.buffered:
            self.inner.dies = True
            with pytest.raises(Killed):
                self.noted.flush()
            self.inner.dies = False  # what follows only closes files
        self.noted.open().close()
        self.inner.close()


def prediction(prediction_id: str, made_at_us: int) -> Prediction:
    return a_prediction(id=prediction_id, made_at_us=made_at_us)


jumps = st.one_of(
    st.integers(0, 3 * SECOND_US),
    st.integers(-2 * HOUR_US, 2 * HOUR_US),
    st.integers(-5_000, 5_000),
)
acts = st.sampled_from(["note", "note", "note", "append", "flush", "read", "die", "die writing"])


@given(st.lists(st.tuples(st.integers(0, 2), acts, jumps), max_size=40))
@settings(max_examples=60, deadline=None)
def test_every_answer_is_found_and_logged_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, int]]
) -> None:
    folder, wall = tmp_path_factory.mktemp("clock"), Wall()
    processes = [Process(folder, wall) for _ in range(3)]
    answered: list[str] = []
    for number, act, jump_us in steps:
        wall.us += jump_us
        one = processes[number]
        if act in ("note", "append"):
            payload = one.answer()
            wall.us += jump_us // 7  # also between an answer and its place
            one.noted.add([payload]) if act == "note" else one.noted.append([payload])
            answered.append(payload_id(payload))
        elif act == "flush":
            one.noted.flush()
        elif act == "read":
            one.read()
        else:
            one.die(writing=act == "die writing")
            processes[number] = Process(folder, wall)
    for one in processes:
        one.die(writing=False)
    last = Process(folder, wall)
    last.read()
    logged = Counter(p.id for block in last.log.scan() for p in block)
    assert logged == Counter(answered)
    for each in answered:
        assert last.log.find(each).id == each
    last.noted.close()


@given(st.lists(st.integers(-50_000, 50_000), min_size=1, max_size=30))
def test_no_append_is_older_than_an_identifier_that_was_given(steps: list[int]) -> None:
    wall = Wall()
    ids = PredictionIds(wall)
    for step_us in steps:
        wall.us += step_us
        made_us = id_time_us(ids())
        wall.us += step_us
        assert ids.now_us() == max(made_us, wall.us)


def test_an_answer_that_a_killed_process_buffered_is_found_after_the_clock_was_set_back(tmp_path: Path) -> None:
    wall = Wall()
    killed = Process(tmp_path, wall)
    killed.noted.add([payload := killed.answer()])
    killed.die(writing=False)
    wall.us -= HOUR_US
    for _ in range(3):  # the second one finds it where the first one put it
        other = Process(tmp_path, wall)
        other.read()
        assert other.log.find(payload_id(payload)).id == payload_id(payload)
        other.die(writing=False)
    assert sum(Process(tmp_path, wall).log.log.positions().values()) == 1


def test_what_is_recovered_keeps_the_time_of_its_answer(tmp_path: Path) -> None:
    wall = Wall()
    killed = Process(tmp_path, wall)
    made = []
    for _ in range(3):
        wall.us += SECOND_US
        killed.noted.add([payload := killed.answer()])
        made.append((wall.us, payload))
    killed.die(writing=False)
    wall.us += HOUR_US
    store = MemoryLog(clock=wall)
    remove_spools(tmp_path / "spool", PredictionLog(store))
    assert [(r.appended_at_us, r.payload) for r in store.read("p0001", 0)] == made


@pytest.mark.parametrize("now_us", [-1, -18_489_600_000_000])
def test_before_1970_no_prediction_gets_an_identifier(now_us: int) -> None:
    clock = VirtualClock(now_us)
    ids = PredictionIds(clock)
    with pytest.raises(
        Misuse, match=r"clock: it shows (1969-12-31|1969-06-01).*, but the ids of predictions need 1970 or later"
    ):
        ids()
    assert ids.now_us() == now_us
    assert len(TimeIds(clock)("run")) == len("run_") + 26
    clock.advance_to(5_000)
    assert id_time_us(ids()) == ids.now_us() == 5_000
