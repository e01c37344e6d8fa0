"""Group commit: an answer leaves after its prediction is in the log, whichever way it gets there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from trimtab.core.clock import SystemClock
from trimtab.core.errors import Unavailable
from trimtab.core.records import Prediction
from trimtab.serving import GroupCommit, PredictionIds, PredictionLog
from trimtab.testing import MemoryLog


class Disk(MemoryLog):
    """A log on a disk that can be slow or full, and remembers its appends."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_s = 0.0
        self.full = False
        self.appends: list[tuple[int, str]] = []

    def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
        time.sleep(self.slow_s)
        if self.full:
            raise Unavailable("disk full")
        self.appends.append((len(payloads), threading.current_thread().name))
        return super().append(payloads, at_us=at_us)


ids = PredictionIds(SystemClock())


def prediction() -> Prediction:
    return Prediction(
        id=ids(),
        request_id="r",
        model="m",
        version="v",
        arm="a",
        mode="live",
        made_at_us=0,
        at_us=0,
        positions={},
        score=0.5,
        request=b"",
        values=b"",
        reasons=b"",
    )


def run(disk: Disk, askers: int, questions: int) -> list[str]:
    """Askers that ask one question after the other; every answer is in the log when its asker has it."""
    log = PredictionLog(disk)
    commit = GroupCommit(log)
    answered = []

    async def ask() -> None:
        for _ in range(questions):
            made = prediction()
            await commit.append([made])
            assert log.get(made.id) == made
            answered.append(made.id)

    async def main() -> None:
        await asyncio.gather(*(ask() for _ in range(askers)))

    asyncio.run(main())
    commit.close()
    return answered


@pytest.mark.parametrize("slow_s", [0.0, 0.02])
def test_an_answer_is_in_the_log_once_when_its_asker_has_it(slow_s: float) -> None:
    disk = Disk()
    disk.slow_s = slow_s
    answered = run(disk, askers=5, questions=12)
    assert sorted(answered) == sorted(p.id for p in PredictionLog(disk).read()[0])


def test_those_who_ask_together_share_an_append() -> None:
    disk = Disk()
    run(disk, askers=20, questions=3)
    assert max(size for size, _ in disk.appends) == 20
    assert {name for _, name in disk.appends} == {"MainThread"}


def test_a_slow_disk_does_not_hold_up_the_loop() -> None:
    disk = Disk()
    disk.slow_s = 0.02
    run(disk, askers=4, questions=30)
    names = [name for _, name in disk.appends]
    assert names[-1] == "trimtab-commit"
    assert names.index("trimtab-commit") < 10
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        commit = GroupCommit(PredictionLog(disk))
        commit._in_loop = False
        pending = [commit.append([prediction()]) for _ in range(3)]
        while not all(one.done() for one in pending):
            start = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - start)
        commit.close()

    disk.slow_s = 0.2
    asyncio.run(watch())
    assert longest < 0.15


def test_the_loop_is_tried_again_when_the_disk_is_quick_again() -> None:
    disk = Disk()
    commit = GroupCommit(PredictionLog(disk))
    commit._in_loop = False

    async def main() -> None:
        for _ in range(400):
            await commit.append([prediction()])

    asyncio.run(main())
    commit.close()
    assert disk.appends[0][1] == "trimtab-commit"
    assert disk.appends[-1][1] == "MainThread"


@pytest.mark.parametrize("in_loop", [True, False])
def test_a_full_disk_is_said_to_every_asker_and_passes(in_loop: bool) -> None:
    disk = Disk()
    disk.full = True

    async def main() -> None:
        commit = GroupCommit(PredictionLog(disk))
        commit._in_loop = in_loop
        found = await asyncio.gather(*(commit.append([prediction()]) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [Unavailable] * 3
        disk.full = False
        await commit.append([prediction()])
        commit.close()

    asyncio.run(main())
    assert len(PredictionLog(disk).read()[0]) == 1


def test_an_asker_who_goes_away_disturbs_nobody() -> None:
    disk = Disk()

    async def main() -> None:
        commit = GroupCommit(PredictionLog(disk))
        gone, staying = commit.append([prediction()]), commit.append([prediction()])
        gone.cancel()
        await staying

    asyncio.run(main())
    assert len(PredictionLog(disk).read()[0]) == 2
