"""A log with a buffer in front: the same as a log for readers, and nothing is lost however its process ends."""

from __future__ import annotations

import linecache
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import forked
from processes import eventually
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Unavailable
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.spool import SIZE_BYTES
from trimtab.store.sqlite.log import SqliteLog
from trimtab.testing import LogContract, MemoryLog
from trimtab.testing.builders import a_prediction

CHILD = """
import os, sys, time
from pathlib import Path
from trimtab.core.clock import SystemClock
from trimtab.core.errors import Misuse
from trimtab.core.records import Prediction
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.sqlite.log import SqliteLog

folder, how = Path(sys.argv[1]), sys.argv[2]
noted = BufferedLog(SqliteLog(folder / "log", mode="relaxed"), folder / "spool")
log, ids = PredictionLog(noted), PredictionIds(SystemClock())
end_s = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end_s:
    one = Prediction(id=ids(), request_id="r", model="m", version="v", arm="a", mode="live", made_at_us=0, at_us=0,
        positions={}, score=0.5, request=b"x" * 500, values=b"", reasons=b"")
    log.buffer([one])
    print(one.id, flush=True)
    if how == "slow":
        time.sleep(0.001)
if how == "fork" and os.fork() == 0:
    for use in (lambda: log.buffer([one]), noted.positions, lambda: noted.append([b"x"]), noted.flush):
        try:
            use()
        except Misuse as error:
            assert "before the process forked" in str(error)
        else:
            os._exit(1)
    sys.exit()  # the log is closed at exit
elif how == "fork":
    assert os.wait()[1] == 0
"""


class TestInFrontOfMemory(LogContract):
    @pytest.fixture
    def log(self, clock: VirtualClock, tmp_path: Path) -> Iterator[BufferedLog]:
        log = BufferedLog(MemoryLog(clock=clock), tmp_path)
        yield log
        log.close()


class TestInFrontOfFiles(LogContract):
    @pytest.fixture
    def log(self, clock: VirtualClock, tmp_path: Path) -> Iterator[BufferedLog]:
        with SqliteLog(tmp_path / "log", mode="relaxed", clock=clock) as inner:
            log = BufferedLog(inner, tmp_path / "spool")
            yield log
            log.close()


ids = PredictionIds(VirtualClock(1_700_000_000_000_000))


def payload(size: int = 10) -> bytes:
    from trimtab.serving.log.prediction_record import encode

    return encode(a_prediction(id=ids(), request=b"x" * size))


class Disk(MemoryLog):
    """A log on a disk that can be full, and counts its appends."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.failure: Exception | None = None
        self.sizes: list[int] = []

    def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
        if self.full:
            raise Unavailable("disk full")
        if self.failure is not None:
            raise self.failure
        self.sizes.append(len(payloads))
        return super().append(payloads, at_us=at_us)


def read_back(folder: Path) -> list[str]:
    with SqliteLog(folder / "log", mode="relaxed") as inner:
        log = BufferedLog(inner, folder / "spool")
        found = [p.id for block in PredictionLog(log).scan() for p in block]
        log.close()
    return found


def test_buffered_payloads_are_written_together_and_soon(tmp_path: Path) -> None:
    disk = Disk()
    log = BufferedLog(disk, tmp_path)
    made = [payload() for _ in range(700)]
    for one in made:
        log.buffer([one])
    assert len(disk.sizes) < 30
    eventually(lambda: disk.positions() == {"p0001": 700})  # positions of the log itself, not of its buffer
    assert [record.payload for record in disk.read("p0001", 0)] == made
    log.close()


def test_buffered_payloads_are_read_at_once(tmp_path: Path) -> None:
    log = BufferedLog(MemoryLog(), tmp_path)
    for n in range(1, 20):
        log.buffer([one := payload()])
        assert (log.positions(), log.read("p0001", n - 1)[0].payload) == ({"p0001": n}, one)
    log.close()


def test_an_append_has_positions_behind_all_that_many_threads_buffered(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log", mode="relaxed") as inner:
        log = BufferedLog(inner, tmp_path / "spool")
        given: dict[int, bytes] = {}
        noted: list[bytes] = []

        def work(number: int) -> None:
            for n in range(60):
                mine = [payload() for _ in range(n % 4)]
                log.buffer(mine)
                noted.extend(mine)
                if (n + number) % 20 == 0:
                    made = [payload() for _ in range(100)]
                    given.update(zip(log.append(made), made, strict=True))
                    places = {r.payload: r.position for r in inner.read(inner.partition, 0)}
                    assert all(places[one] < places[made[0]] for one in mine)
                if n % 25 == 0:
                    log.positions()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = {r.position: r.payload for r in log.read(log.partition, 0)}
        assert given.items() <= found.items()
        assert sorted(found.values()) == sorted([*given.values(), *noted])
        log.close()


def test_buffers_of_one_process_and_appends_of_another_keep_their_positions(tmp_path: Path) -> None:
    """Positions of an append stay valid when buffers of killed processes are recovered."""
    first = SqliteLog(tmp_path / "log", mode="relaxed")
    first.append([b"other"])
    second = BufferedLog(SqliteLog(tmp_path / "log", mode="relaxed"), tmp_path / "spool")
    second.add([payload()])
    made = [payload() for _ in range(10)]
    places = second.append(made)
    second.add([last := payload()])
    second.open().close()  # it was killed
    third = BufferedLog(first, tmp_path / "spool")
    assert third.positions() == {"p0001": 2, "p0002": 11}
    assert third.read("p0001", 1)[0].payload == last
    assert [r.payload for r in third.read(second.partition, places[0] - 1, limit=10)] == made
    third.close()
    second.log.close()


def test_on_a_full_disk_answers_are_buffered_until_there_is_no_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    disk.full = True
    log = BufferedLog(disk, tmp_path)
    taken = 0
    with pytest.raises(Unavailable, match="disk full"):  # noqa: PT012  # which append fails is what is counted
        while taken < 1_000:
            log.buffer([payload(50_000)])
            taken += 1
    assert taken == SIZE_BYTES // 50_400
    assert log.positions() == {}  # reading goes on
    with pytest.raises(Unavailable, match="disk full"):
        log.append([payload()])
    assert "stay buffered: disk full" in caplog.text
    disk.full = False
    eventually(lambda: disk.positions() == {"p0001": taken})
    log.buffer([payload()])
    log.close()
    assert disk.positions() == {"p0001": taken + 1}


def test_what_cannot_be_written_at_the_end_is_written_by_the_next(tmp_path: Path) -> None:
    disk = Disk()
    log = BufferedLog(disk, tmp_path)
    disk.full = True
    log.buffer([payload()])
    log.close()
    assert disk.positions() == {}
    disk.full = False
    assert BufferedLog(disk, tmp_path).positions() == {"p0001": 1}  # reading is enough


def test_releasing_the_spool_writes_it(tmp_path: Path) -> None:
    disk = Disk()
    log = BufferedLog(disk, tmp_path)
    log.buffer([payload()])
    log.release()
    assert disk.positions() == {"p0001": 1}
    for path in tmp_path.glob("spool-????"):
        path.unlink()
    log.buffer([payload()])
    log.close()
    assert disk.positions() == {"p0001": 2}


@pytest.mark.parametrize("how", ["quick", "slow"])
def test_a_killed_process_lost_nothing_that_was_appended(tmp_path: Path, how: str) -> None:
    for _ in range(3):
        command = [sys.executable, "-c", CHILD, str(tmp_path), how, "30"]
        with forked.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(20)]  # it is running
            said += [process.stdout.readline() for _ in range(2_000 if how == "quick" else 100)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines(keepends=True)
        acknowledged = {line.decode().strip() for line in said if line.endswith(b"\n")}
        found = read_back(tmp_path)
        assert len(found) == len(set(found))
        assert acknowledged <= set(found)


@pytest.mark.parametrize("how", ["quick", "fork"])
def test_a_process_that_ends_without_closing_writes_its_buffer(tmp_path: Path, how: str) -> None:
    done = forked.run(
        [sys.executable, "-c", CHILD, str(tmp_path), how, "0.2"], stdout=subprocess.PIPE, check=True, timeout=60
    )
    with SqliteLog(tmp_path / "log", mode="relaxed") as written:
        found = [p.id for block in PredictionLog(written).scan() for p in block]
    assert sorted(found) == sorted(done.stdout.decode().split())


def test_maintenance_runs_in_the_thread(tmp_path: Path) -> None:
    names: list[str] = []

    class Kept(Disk):
        def maintenance(self) -> None:
            names.append(threading.current_thread().name)

    disk = Kept()
    log = BufferedLog(disk, tmp_path)
    eventually(lambda: log.buffer([payload(20_000)]) or names)
    log.close()
    assert set(names) == {"trimtab-buffered-log"}


class Interrupted(Disk):
    """A log interrupted by Ctrl-C: before an append, or just after it."""

    when = ""

    def append(self, payloads: Sequence[bytes], *, at_us: Any = None) -> range:
        if self.when == "before":
            raise KeyboardInterrupt
        positions = super().append(payloads, at_us=at_us)
        if self.when == "after":
            raise KeyboardInterrupt
        return positions


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_write_is_done_once(tmp_path: Path, when: str) -> None:
    disk = Interrupted()
    log = BufferedLog(disk, tmp_path)
    made = [payload() for _ in range(40)]
    for n, one in enumerate(made):
        assert log.add([one])
        if n % 10 == 5:
            disk.when = when
            with pytest.raises(KeyboardInterrupt):
                log.flush()
            disk.when = ""
        if n % 10 == 8:
            log.flush()
    log.close()
    assert [record.payload for record in disk.read("p0001", 0)] == made


def test_ctrl_c_neither_loses_nor_doubles_an_answer(tmp_path: Path) -> None:
    for _ in range(4):
        command = [sys.executable, "-c", CHILD, str(tmp_path), "quick", "30"]
        with forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(20)]
            process.send_signal(signal.SIGINT)
            said += process.stdout.read().splitlines(keepends=True)
        acknowledged = {line.decode().strip() for line in said if line.endswith(b"\n")}
        found = read_back(tmp_path)
        assert len(found) == len(set(found))
        assert acknowledged <= set(found)


def test_an_unexpected_error_neither_ends_the_thread_nor_reaches_the_caller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    disk.failure = OSError("the disk is gone")
    log = BufferedLog(disk, tmp_path)
    made = [payload() for _ in range(600)]
    for one in made:
        log.buffer([one])
    eventually(lambda: "stay buffered: the disk is gone" in caplog.text)
    assert disk.positions() == {}
    disk.failure = None
    eventually(lambda: disk.positions() == {"p0001": 600})  # positions of the log itself, not of its buffer
    assert [record.payload for record in disk.read("p0001", 0)] == made
    log.close()


def test_maintenance_that_fails_unexpectedly_does_not_end_the_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Disk):
        def maintenance(self) -> None:
            raise OSError("the disk is gone")

    disk = Broken()
    log = BufferedLog(disk, tmp_path)
    for _ in range(300):
        log.buffer([payload(20_000)])
    eventually(lambda: "maintenance of the prediction log failed" in caplog.text)
    log.buffer([payload()])
    eventually(lambda: disk.positions() == {"p0001": 301})
    log.close()


@pytest.mark.parametrize("wait", [True, False])
def test_an_interruption_at_any_line_of_a_flush_lets_others_flush(tmp_path: Path, wait: bool) -> None:
    """What is noted is written once. No signal comes between a lock and its `with`."""
    disk = Disk()
    log = BufferedLog(disk, tmp_path)
    lines, step = 0, 0
    file = BufferedLog.flush.__code__.co_filename

    def see(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != file:
            return None
        if event == "line" and not linecache.getline(file, frame.f_lineno).strip().startswith("with "):
            lines += 1
            if lines == step:
                raise KeyboardInterrupt
        return see

    made = []
    while lines >= step:
        lines, step = 0, step + 1
        made.append(payload())
        assert log.add([made[-1]])
        before = sys.gettrace()
        sys.settrace(see)
        try:
            log.flush(wait=wait)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        other = threading.Thread(target=log.flush, daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive(), "it waits for ever"
    assert step > 10
    log.close()
    assert [record.payload for record in disk.read("p0001", 0)] == made
