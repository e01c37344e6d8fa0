"""Predictions that wait in the log: the same blocks as in memory, over restarts, several partitions and late rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Column
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import NEVER_US
from trimtab.feedback.blocks import DayBlocks
from trimtab.feedback.logged_waiting import Extent, LoggedWaiting
from trimtab.feedback.open_days import OpenDays, judged_table
from trimtab.feedback.outcomes import KnownLabels, OutcomeJoin
from trimtab.feedback.slices import RequestSlices
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.testing.builders import a_prediction

WAIT_US = 30 * DAY_US
JOIN_ARGUMENTS: dict[str, Any] = {
    "wait_us": WAIT_US,
    "key_dtype": "str",
    "slices": RequestSlices({"carrier": 1}, 2),
}


def labels(keys: Column, at_us: Any, cut_us: Any) -> KnownLabels:
    """A third never comes, a third is late."""
    numbers = np.array([int(str(key)[1:]) for key in keys.values])
    known = np.where(numbers % 3 == 0, NEVER_US, at_us + np.where(numbers % 3 == 1, DAY_US, WAIT_US + 3 * DAY_US))
    there = known <= cut_us
    return KnownLabels(np.where(there, numbers % 2, np.nan).astype(float), np.where(there, known, NEVER_US))


def prediction(n: int, at_us: int, made_at_us: int, *, model: str = "m", arm: str = "champion") -> Prediction:
    return a_prediction(
        id=f"p_{n}_{at_us}",
        request_id=f"k{n}",
        model=model,
        version="v1",
        arm=arm,
        made_at_us=made_at_us,
        at_us=at_us,
        score=(n % 97 + 1) / 100,
        request=msgspec.msgpack.encode([f"k{n}", ["UA", "DL", None][n % 3]]),
    )


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    with store.open(f"sqlite://{tmp_path}/log", "log", clock=VirtualClock(0)) as opened:
        yield PredictionLog(opened)


class Reader:
    """Reads a log as the loop does, and may be begun again from what it stored."""

    def __init__(
        self,
        log: PredictionLog,
        *,
        positions: dict[str, int] | None = None,
        extents: dict[int, tuple[Extent, ...]] | None = None,
        closed_until_us: int = -(2**62),
    ) -> None:
        join = OutcomeJoin(labels, **JOIN_ARGUMENTS)
        self.log = log
        self.waiting = LoggedWaiting(log, "m", lambda some: judged_table(join, "m", some), extents=extents)
        self.days = OpenDays("m", "brier", join, waiting=self.waiting, closed_until_us=closed_until_us)
        self.positions = positions or {}

    def read(self) -> None:
        for block, reached in self.log.blocks(self.positions, model="m"):
            self.waiting.reads(self.positions, reached)
            self.days.add(block)
            self.positions = reached

    def again(self) -> Reader:
        stored = msgspec.json.decode(msgspec.json.encode(self.waiting.extents), type=dict[int, tuple[Extent, ...]])
        return Reader(self.log, positions=self.positions, extents=stored, closed_until_us=self.days.closed_until_us)


def test_days_that_wait_in_the_log_close_as_those_in_memory(log: PredictionLog) -> None:
    chance = np.random.default_rng(3)
    in_memory = OpenDays("m", "brier", OutcomeJoin(labels, **JOIN_ARGUMENTS))
    reader, found, expected = Reader(log), [], []
    for hour in range(24 * 40):
        now_us = hour * HOUR_US
        ahead_us = int(chance.choice([0, 0, 0, 26 * HOUR_US, 4 * DAY_US]))  # batches are about days to come
        some = [
            prediction(
                hour * 10 + n,
                now_us + ahead_us,
                now_us,
                model="m" if n % 4 else "other",
                arm=["champion", "canary"][n % 2],
            )
            for n in range(int(chance.integers(0, 6)))
        ]
        log.append(some, at_us=[now_us] * len(some))
        in_memory.add(some)
        if chance.random() < 0.2:
            reader.read()
        if chance.random() < 0.02:
            reader.read()
            found += reader.days.close(now_us)
            expected += in_memory.close(now_us)
            reader = reader.again()  # what is stored with the close is all that a new process knows
    reader.read()
    found += reader.days.close(100 * DAY_US)
    expected += in_memory.close(100 * DAY_US)
    assert found == expected
    assert len(found) > 40
    assert {one.arm for one in found} == {"champion", "canary"}
    assert all(set(one.slices) <= {"carrier=UA", "carrier=DL"} for one in found)


def test_late_labels_are_counted_when_a_closed_day_is_looked_at_again(log: PredictionLog) -> None:
    log.append([prediction(n, n * HOUR_US, n * HOUR_US) for n in range(24)], at_us=[n * HOUR_US for n in range(24)])
    reader = Reader(log)
    reader.read()
    (closed,) = reader.days.close(31 * DAY_US)
    assert (closed.whole.labelled, closed.whole.late, closed.whole.missing) == (8, 0, 16)
    reader = reader.again()
    (amended,) = reader.days.as_known(0, 40 * DAY_US)
    assert (amended.whole.labelled, amended.whole.late, amended.whole.missing) == (16, 8, 8)
    assert reader.days.close(31 * DAY_US) == []


def test_a_month_of_waiting_takes_few_extents(log: PredictionLog) -> None:
    reader = Reader(log)
    for day in range(30):
        at_us = [day * DAY_US + n * DAY_US // 400 for n in range(400)]
        log.append([prediction(n, at, at) for n, at in enumerate(at_us)], at_us=at_us)
        reader.read()
    assert sum(map(len, reader.waiting.extents.values())) == 30
    assert len(msgspec.json.encode(reader.waiting.extents)) < 2_000


def test_what_retention_removed_is_passed_over(log: PredictionLog) -> None:
    log.append([prediction(n, 0, 0) for n in range(10)], at_us=[0] * 10)
    reader = Reader(log)
    reader.read()
    partition = log.log.partition
    log.log.truncate(partition, 4)
    closed: list[DayBlocks] = reader.days.close(31 * DAY_US)
    assert [one.whole.predictions for one in closed] == [6]
