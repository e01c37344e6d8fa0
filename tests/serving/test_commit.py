"""Group commit: an answer leaves after its prediction is in the log, whichever way it gets there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trimtab.core.clock import SystemClock, VirtualClock
from trimtab.core.errors import Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.commit import GroupCommit
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.testing import MemoryLog
from trimtab.testing.builders import a_prediction


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """The time of group commits: it goes on when the test says so, however slow this machine is."""
    clock = VirtualClock(1_000_000)
    for module in ("commit", "log_health"):
        monkeypatch.setattr(f"trimtab.serving.log.{module}.perf_counter", lambda: clock.now_us() / 1e6)
    return clock


def go_on(clock: VirtualClock, seconds: float) -> None:
    clock.advance_to(clock.now_us() + round(seconds * 1e6))


async def until(what: Callable[[], object]) -> None:
    """Turn the loop until something is so."""
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.002)


class Disk(MemoryLog):
    """A log on a disk that can be slow or full, with its appends."""

    def __init__(self, stopwatch: VirtualClock | None = None) -> None:
        super().__init__()
        self.stopwatch = stopwatch  # left out, slow is slow in earnest
        self.slow_s = 0.0
        self.full = False
        self.appends: list[tuple[int, str]] = []

    def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
        if self.stopwatch is None:
            time.sleep(self.slow_s)
        else:
            go_on(self.stopwatch, self.slow_s)
        if self.full:
            raise Unavailable("disk full")
        self.appends.append((len(payloads), threading.current_thread().name))
        return super().append(payloads, at_us=at_us)


ids = PredictionIds(SystemClock())


def prediction() -> Prediction:
    return a_prediction(id=ids())


def run(disk: Disk, clients: int, questions: int) -> list[str]:
    """Clients that send one request after the other; every answer is in the log when its client has it."""
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
        await asyncio.gather(*(ask() for _ in range(clients)))

    asyncio.run(main())
    commit.close()
    return answered


@pytest.mark.parametrize("slow_s", [0.0, 0.02])
def test_an_answer_is_in_the_log_once_when_its_client_has_it(slow_s: float) -> None:
    disk = Disk()
    disk.slow_s = slow_s
    answered = run(disk, clients=5, questions=12)
    assert sorted(answered) == sorted(p.id for p in PredictionLog(disk).read()[0])


@pytest.mark.usefixtures("stopwatch")
def test_concurrent_answers_share_an_append() -> None:
    disk = Disk()
    run(disk, clients=20, questions=3)
    assert max(size for size, _ in disk.appends) == 20
    assert {name for _, name in disk.appends} == {"MainThread"}


def test_a_slow_disk_does_not_hold_up_the_loop(stopwatch: VirtualClock) -> None:
    disk = Disk(stopwatch)
    disk.slow_s = 0.02
    run(disk, clients=4, questions=30)
    names = [name for _, name in disk.appends]
    assert names[-1] == "trimtab-commit_0"
    assert names.index("trimtab-commit_0") < 10


def test_the_loop_runs_while_the_thread_appends() -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Standing(Disk):
        def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
            begun.set()
            assert may_end.wait(30)
            return super().append(payloads, at_us=at_us)

    async def watch() -> None:
        commit = GroupCommit(PredictionLog(Standing()))
        commit._in_loop = False
        pending = [commit.append([prediction()]) for _ in range(3)]
        await until(begun.is_set)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not any(one.done() for one in pending)
        may_end.set()
        await asyncio.gather(*pending)
        commit.close()

    asyncio.run(watch())


@pytest.mark.parametrize("buffered", [False, True])
def test_a_large_batch_is_appended_in_the_thread_and_what_follows_it_as_well(tmp_path: Path, buffered: bool) -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Standing(Disk):
        def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
            if len(payloads) > 1:
                begun.set()
                assert may_end.wait(30)
            return super().append(payloads, at_us=at_us)

    disk = Standing()
    log = PredictionLog(BufferedLog(disk, tmp_path / "spool") if buffered else disk)

    async def watch() -> None:
        commit, batch = GroupCommit(log), [prediction()] * 1_001
        assert not commit.buffer(batch)
        first = commit.append(batch)
        await until(begun.is_set)
        one = prediction()
        after = None if commit.buffer([one]) else commit.append([one])
        assert (after is None) == buffered  # what fits into the buffer need not wait
        await asyncio.sleep(0.05)  # the loop goes on
        assert not first.done()
        may_end.set()
        await asyncio.gather(first, *([] if after is None else [after]))
        commit.append_buffered()
        commit.close()
        quick = GroupCommit(log)
        if not buffered:
            await quick.append([prediction()])
        quick.close()

    asyncio.run(watch())
    if isinstance(log.log, BufferedLog):
        log.log.close()
    assert disk.appends[0] == (1_001, "trimtab-commit_0")
    assert disk.appends[1] == (1, "MainThread" if buffered else "trimtab-commit_0")
    assert buffered or disk.appends[2] == (1, "MainThread")  # again in the loop


@pytest.mark.usefixtures("stopwatch")
def test_the_loop_is_tried_again_when_the_disk_is_quick_again() -> None:
    disk = Disk()
    commit = GroupCommit(PredictionLog(disk))
    commit._in_loop = False

    async def main() -> None:
        for _ in range(400):
            await commit.append([prediction()])

    asyncio.run(main())
    commit.close()
    assert disk.appends[0][1] == "trimtab-commit_0"
    assert disk.appends[-1][1] == "MainThread"


@pytest.mark.parametrize("in_loop", [True, False])
def test_a_full_disk_fails_every_append_until_it_has_room(in_loop: bool) -> None:
    disk = Disk()
    disk.full = True

    async def main() -> None:
        commit = GroupCommit(PredictionLog(disk))
        commit._in_loop = in_loop
        commit._thread.submit(int).result()  # it has begun
        found = await asyncio.gather(*(commit.append([prediction()]) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [Unavailable] * 3
        disk.full = False
        await commit.append([prediction()])
        commit.close()

    asyncio.run(main())
    assert len(PredictionLog(disk).read()[0]) == 1


def test_hundreds_of_answers_go_on_some_at_each_turn_of_the_loop() -> None:
    async def main() -> list[int]:
        commit = GroupCommit(PredictionLog(Disk()))
        futures = [commit.append([prediction()]) for _ in range(100)]
        done = list[int]()
        while not all(future.done() for future in futures):
            await asyncio.sleep(0)
            done.append(sum(future.done() for future in futures))
        commit.close()
        return done

    done = asyncio.run(main())
    assert [count for count in done if count] == [32, 64, 96, 100]


def test_a_client_that_goes_away_disturbs_no_other() -> None:
    disk = Disk()

    async def main() -> None:
        commit = GroupCommit(PredictionLog(disk))
        gone, staying = commit.append([prediction()]), commit.append([prediction()])
        gone.cancel()
        await staying

    asyncio.run(main())
    assert len(PredictionLog(disk).read()[0]) == 2


def test_a_log_that_fails_is_not_tried_for_a_while_and_refusals_are_quick(stopwatch: VirtualClock) -> None:
    class Counted(Disk):
        tries = 0

        def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
            self.tries += 1
            return super().append(payloads, at_us=at_us)

    disk = Counted()
    disk.full = True
    said: list[str | None] = []

    async def main() -> None:
        commit = GroupCommit(PredictionLog(disk), failing=said.append)
        for _ in range(500):
            with pytest.raises(Unavailable, match="disk full"):
                await commit.append([prediction()])
            go_on(stopwatch, 0.001)
        assert 2 <= disk.tries < 8
        assert (commit.failures, said) == (disk.tries, ["disk full"])
        disk.full = False
        go_on(stopwatch, 2)
        await commit.append([prediction()])
        assert (commit.failure, said) == (None, ["disk full", None])
        commit.close()

    asyncio.run(main())
    assert len(PredictionLog(disk).read()[0]) == 1


def test_the_buffer_is_appended_once_there_is_room_without_a_request(tmp_path: Path) -> None:
    disk = Disk()
    log = PredictionLog(BufferedLog(disk, tmp_path))
    disk.full = True

    async def main() -> None:
        commit = GroupCommit(log)
        assert all(commit.buffer([prediction()]) for _ in range(3))
        await until(lambda: commit.failure)
        assert (commit.buffered, type(commit.failure)) == (3, Unavailable)
        disk.full = False
        await until(lambda: not commit.buffered)
        assert commit.failure is None
        commit.close()

    asyncio.run(main())
    log.close()
    assert len(PredictionLog(disk).read()[0]) == 3


class Kept(Disk):
    """A log whose maintenance takes as long as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.names: list[str] = []
        self.broken = False

    def maintenance(self) -> None:
        self.names.append(threading.current_thread().name)
        self.begun.set()
        assert self.may_end.wait(30)
        if self.broken:
            raise Unavailable("no room for maintenance")


def big() -> Prediction:
    return msgspec.structs.replace(prediction(), request=b"x" * 1_000_000)


async def maintenance_or_rest(commit: GroupCommit, disk: Kept) -> None:
    """Wait until maintenance has begun, or everything is written."""
    await until(lambda: disk.begun.is_set() or not (commit.buffered or commit._in_maintenance))


@pytest.mark.usefixtures("stopwatch")
@pytest.mark.parametrize("noted", [True, False])
def test_nothing_is_appended_during_maintenance_and_everything_after(tmp_path: Path, noted: bool) -> None:
    disk = Kept()
    log = PredictionLog(BufferedLog(disk, tmp_path) if noted else disk)

    async def main() -> None:
        commit = GroupCommit(log)
        while not disk.begun.is_set():
            await commit.append([big()])
            await maintenance_or_rest(commit, disk)
        appends = len(disk.appends)
        made = [prediction() for _ in range(300)]
        waiting = [commit.append([one]) for one in made if not commit.buffer([one])]
        await asyncio.sleep(0.05)
        assert (len(disk.appends), commit.buffered, len(waiting)) == (appends, *((300, 0) if noted else (0, 300)))
        assert not any(one.done() for one in waiting)
        disk.may_end.set()
        await until(lambda: len(disk.appends) > appends)
        await asyncio.gather(*waiting)
        assert [p.id for p in PredictionLog(disk).read()[0]][-300:] == [p.id for p in made]
        assert disk.appends[appends:] == [(300, "trimtab-commit_0" if noted else "MainThread")]
        commit.close()

    asyncio.run(main())
    log.close()
    assert disk.names == ["trimtab-commit_0"]


def test_a_reader_during_maintenance_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    disk = Kept()
    log = PredictionLog(BufferedLog(disk, tmp_path))

    async def main() -> None:
        commit = GroupCommit(log)
        while not disk.begun.is_set():
            assert commit.buffer([big()])
            await maintenance_or_rest(commit, disk)
        assert commit.buffer([prediction()])  # which the reader is to see
        reading = asyncio.get_running_loop().run_in_executor(None, log.read)
        await asyncio.sleep(0.05)
        assert all(commit.buffer([prediction()]) for _ in range(300))
        assert not reading.done()  # it waits for as long as the test says, and the notes did not
        disk.may_end.set()
        await reading
        commit.close()

    asyncio.run(main())
    log.close()


def test_a_buffer_that_a_reader_wrote_ends_the_failure(tmp_path: Path) -> None:
    disk = Disk()
    log = PredictionLog(BufferedLog(disk, tmp_path))

    async def main() -> None:
        commit = GroupCommit(log)
        disk.full = True
        assert commit.buffer([prediction()])
        commit.append_buffered()
        assert isinstance(commit.failure, Unavailable)
        disk.full = False
        assert len(log.read()[0]) == 1
        assert commit.failure is None
        commit.close()

    asyncio.run(main())
    log.close()


def test_a_prediction_that_cannot_be_encoded_fails_those_of_its_group_alone() -> None:
    disk = Disk()

    async def main() -> None:
        commit = GroupCommit(PredictionLog(disk))
        for in_loop in (True, False):
            commit._in_loop = in_loop
            commit._thread.submit(int).result()  # it has begun
            wrong = msgspec.structs.replace(prediction(), request_id="\ud800")
            found = await asyncio.gather(commit.append([wrong]), commit.append([prediction()]), return_exceptions=True)
            assert all(isinstance(one, Exception) for one in found)
            await commit.append([prediction()])
        commit.close()

    asyncio.run(main())
    assert len(PredictionLog(disk).read()[0]) == 2


def test_answers_that_find_the_spool_full_during_maintenance_do_not_hold_up_the_loop(
    tmp_path: Path,
) -> None:
    disk = Kept()
    log = PredictionLog(BufferedLog(disk, tmp_path))

    async def main() -> None:
        commit = GroupCommit(log)
        while not disk.begun.is_set():
            assert commit.buffer([big()])
            await maintenance_or_rest(commit, disk)
        appends = len(disk.appends)
        assert [commit.buffer([big()]) for _ in range(5)] == [True] * 4 + [False]
        late = commit.append([big()])
        await asyncio.sleep(0.05)
        assert (len(disk.appends), late.done()) == (appends, False)
        disk.may_end.set()
        await late
        assert commit.buffered == 0
        commit.close()

    asyncio.run(main())
    log.close()


def test_maintenance_that_fails_is_logged_and_disturbs_no_append(caplog: pytest.LogCaptureFixture) -> None:
    disk = Kept()
    disk.broken = True
    disk.may_end.set()

    async def main() -> None:
        commit = GroupCommit(PredictionLog(disk))
        for _ in range(12):
            await commit.append([big()])
            await asyncio.sleep(0.02)
        assert commit.failure is None
        commit.close()

    asyncio.run(main())
    assert len(PredictionLog(disk).read()[0]) == 12
    assert caplog.text.count("no room for maintenance") == len(disk.names) > 1


def test_closing_waits_for_maintenance_and_appends_what_was_made_meanwhile(tmp_path: Path) -> None:
    disk = Kept()
    log = PredictionLog(BufferedLog(disk, tmp_path))

    async def main() -> None:
        commit = GroupCommit(log)
        while not disk.begun.is_set():
            await commit.append([big()])
            await maintenance_or_rest(commit, disk)
        late, noted = commit.append([prediction()]), commit.buffer([prediction()])
        threading.Timer(0.05, disk.may_end.set).start()
        commit.close()
        assert noted
        assert late.done()
        assert late.exception() is None
        await asyncio.sleep(0.01)  # what the thread said at its end finds a closed commit

    asyncio.run(main())
    log.close()
    assert len(PredictionLog(disk).read()[0]) == sum(size for size, _ in disk.appends)
