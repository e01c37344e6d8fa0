"""Who watches workers: replaces the dead, kills those that stand still, gives up when none can start, ends in order."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from processes import eventually, is_alive
from trimtab.core.clock import SystemClock
from trimtab.core.errors import NotFound, Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.http.server import accepting
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.workers import late_log
from trimtab.serving.workers.late_log import LateLog
from trimtab.serving.workers.states import ServiceState, read_state, remove_state, write_state
from trimtab.serving.workers.supervisor import Patience, SlotState, Supervisor
from trimtab.serving.workers.worker import Worker, environment
from trimtab.serving.workers.worker_metrics import MetricsWriter, SharedMetrics, clear, merged, shared_scrape
from trimtab.store.sqlite.log import SqliteLog
from trimtab.testing.builders import a_prediction

COMMAND = [sys.executable, str(Path(__file__).parent / "worker_process.py")]


@contextmanager
def supervised(task: str, count: int = 2, **given: Any) -> Iterator[Supervisor]:
    """Workers that do `task`, watched in a thread; ended and gone at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    supervisor = Supervisor(COMMAND, lambda slot: task.encode(), listener, count, **given)
    announced = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(announced.set,))
    thread.start()
    try:
        assert announced.wait(60)
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(60)
        assert not thread.is_alive()
        assert listener.fileno() == -1


def pids(supervisor: Supervisor) -> list[int]:
    """Of all workers, once they are ready."""

    def look() -> list[int]:
        states = supervisor.states()
        return [s.pid for s in states if s.pid] if all(s.ready for s in states) else []

    found: list[int] = eventually(look)
    return found


def test_a_worker_that_dies_is_replaced_and_its_last_words_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[tuple[int, int]] = []
    with supervised("work", ended=lambda slot, pid: ended.append((slot, pid))) as supervisor:
        first = pids(supervisor)
        os.kill(first[1], signal.SIGKILL)
        eventually(lambda: ended)
        second = pids(supervisor)
        assert second[0] == first[0] != second[1] != first[1]
        states = supervisor.states()
        assert [state.restarts for state in states] == [0, 1]
        assert states[1].ended == f"worker 2 (pid {first[1]}) was ended by SIGKILL"
        assert states[1].last_words == "doing: work"
    assert ended == [(2, first[1])]
    assert not any(map(is_alive, [*first, *second]))
    assert "worker 2: doing: work\n" in capsys.readouterr().err


def test_a_worker_whose_loop_stands_still_is_killed_and_replaced() -> None:
    with supervised("hang", count=1, patience=Patience(silent_s=0.5)) as supervisor:
        (first,) = pids(supervisor)
        eventually(lambda: supervisor.states()[0].restarts)
        assert not is_alive(first)


def test_one_that_dies_again_and_again_is_started_less_and_less_often(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.serving.workers.supervisor._STEADY_S", 3_600.0)  # so none is forgiven
    with supervised("work", count=1) as supervisor:
        for _ in range(5):
            (pid,) = pids(supervisor)
            at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda gone=pid: supervisor.states()[0].pid not in (gone, None))
            took_s = time.monotonic() - at
    assert took_s > 0.4
    assert re.findall(r"a new one starts(?: in (.*) s)?", caplog.text) == ["", "", "", "0.2", "0.4"]


def test_a_service_whose_workers_cannot_start_says_why() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    supervisor = Supervisor(COMMAND, lambda slot: b"fail", listener, 1)
    with pytest.raises(
        Unavailable,
        match=r"3 failures before any worker was ready. The last: worker 1 .* status 1: doing: fail\nnothing can be",
    ):
        supervisor.run(lambda: None)
    assert listener.fileno() == -1


def test_a_worker_that_was_never_ready_is_not_said_to_have_requests(caplog: pytest.LogCaptureFixture) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    seen: set[int] = set()
    supervisor = Supervisor(
        COMMAND,
        lambda slot: b"fail" if slot == 1 else b"idle",
        listener,
        2,
        each_round=lambda: seen.update(s.pid for s in supervisor.states() if s.pid),
    )
    with pytest.raises(Unavailable, match="worker 1 "):
        supervisor.run(lambda: None)
    assert len(seen) > 1
    assert not any(map(is_alive, seen))
    assert "killed" not in caplog.text


def test_a_command_that_is_none_is_named() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(Unavailable, match=r"cannot be started: .*nowhere"):
        Supervisor(["/nowhere"], lambda slot: b"", listener, 1).run(lambda: None)


def test_a_line_without_an_end_is_shown_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = "import sys; sys.stdout.write('x' * 200_000)"
        worker = Worker(1, [sys.executable, "-c", code], b"", listener)
        while worker.forward_output():
            time.sleep(0.001)
        worker.process.wait(60)
        worker.close()
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.count("x") for line in lines) == 200_000
    assert len(lines) > 1
    assert max(map(len, lines)) < 16_384 + 65_536 + 20


def test_a_worker_that_a_signal_without_a_name_ended_is_said_to_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = Worker(1, [sys.executable, "-c", ""], b"", listener)
        worker.process.wait(60)
        worker.close()
    worker.process.returncode = -35  # as of a real-time signal: it ended the whole service
    assert worker.ending() == "was ended by signal 35"


def test_labels_may_hold_what_some_take_for_the_end_of_a_line() -> None:
    sample = 'a{b="one\u2028two\x85three\x0cfour"} 1'
    assert merged([("1", f"# HELP a A.\n# TYPE a counter\n{sample}\n")]).split("\n")[2] == sample.replace(
        "{", '{worker="1",'
    )


def test_a_wake_up_is_passed_on() -> None:
    wake_requested = threading.Event()
    with supervised("nudge", count=1, wake_requested=wake_requested.set):
        assert wake_requested.wait(60)


def test_a_second_signal_does_not_wait() -> None:
    with supervised("work", patience=Patience(grace_s=600)) as supervisor:
        for pid in pids(supervisor):
            os.kill(pid, signal.SIGSTOP)  # it cannot finish anything
        supervisor.stop()


def test_workers_of_a_killed_supervisor_notice() -> None:
    code = (
        "import socket, sys\nfrom trimtab.serving.workers.supervisor import Supervisor\n"
        f"one = Supervisor({COMMAND!r}, lambda slot: b'work', socket.create_server(('127.0.0.1', 0)), 2)\n"
        "import threading, time\n"
        "def tell():\n"
        "    while not all(s.ready for s in one.states()): time.sleep(0.01)\n"
        "    print(*[s.pid for s in one.states()], flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        "one.run(lambda: None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        found = [int(pid) for pid in process.stdout.readline().split()]
        assert len(found) == 2
        process.kill()
    eventually(lambda: not any(map(is_alive, found)))


def accepted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[int, int], *, looking: set[int], polite_s: float
) -> Counter[int]:
    """Of eight connections, how many each worker of those that look takes, when they have so many already."""
    monkeypatch.setattr(accepting, "_POLITE_S", polite_s)
    monkeypatch.setattr(accepting, "_MOST_POLITE_S", polite_s)
    taken: Counter[int] = Counter()

    class Taken(asyncio.Protocol):
        def __init__(self, slot: int) -> None:
            self._slot = slot

        def connection_made(self, transport: Any) -> None:
            taken[self._slot] += 1
            transport.close()

    async def take(listener: socket.socket) -> None:
        accepting.begin(folder)
        with ExitStack() as held:
            for slot, count in counts.items():
                connections = accepting.Connections(folder, slot)
                connections.set(count)
                if slot in looking:
                    protocol, own = partial(Taken, slot), held.enter_context(listener.dup())
                    acceptor = accepting.Acceptor(
                        own, protocol, None, connections, lambda slot=slot: counts[slot] + taken[slot]
                    )
                    acceptor.beat()
                    held.callback(acceptor.close)
            for _ in range(8):
                held.enter_context(socket.create_connection(listener.getsockname()))
            async with asyncio.timeout(30):
                while taken.total() < 8:
                    await asyncio.sleep(0.001)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        asyncio.run(take(listener))
    return taken


def test_a_connection_is_left_to_the_worker_that_has_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accepted(tmp_path, monkeypatch, {1: 10, 2: 0}, looking={1, 2}, polite_s=60.0) == {2: 8}


def test_a_connection_that_no_other_worker_takes_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accepted(tmp_path, monkeypatch, {1: 10, 2: 0}, looking={1}, polite_s=0.001) == {1: 8}


def test_all_connections_that_wait_are_taken_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_AT_ONCE_S", 60.0)  # so that a paused test process does not end the turn

    async def taken() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as held:
            listener.setblocking(False)
            acceptor = accepting.Acceptor(listener, asyncio.Protocol, None, None, lambda: 0)
            held.callback(acceptor.close)
            for _ in range(20):
                held.enter_context(socket.create_connection(listener.getsockname()))
            acceptor._accept_fairly()
            return len(acceptor._begun)

    assert asyncio.run(taken()) == 20


@pytest.mark.fast
def test_texts_of_several_processes_are_one_with_their_names() -> None:
    first, second = Metrics(), Metrics()
    for metrics, count in ((first, 2), (second, 3)):
        metrics.counter("asked_total", "Asked.", ("model",)).add('a{"b', by=count)
        metrics.histogram("took_seconds", "Took.", ("model",)).of(("a",))(0.2)
    second.counter("only_total", "Only here.").add()
    text = merged([("1", first.text()), ("engine", second.text())])
    lines = text.splitlines()
    assert lines[:4] == [
        "# HELP asked_total Asked.",
        "# TYPE asked_total counter",
        'asked_total{worker="1",model="a{\\"b"} 2',
        'asked_total{worker="engine",model="a{\\"b"} 3',
    ]
    assert sum(line.startswith("# TYPE took_seconds") for line in lines) == 1
    begin, end = lines.index("# TYPE took_seconds histogram"), lines.index("# HELP only_total Only here.")
    assert all(line.startswith("took_seconds") for line in lines[begin + 1 : end])
    assert lines[-1] == 'only_total{worker="engine"} 1'


@pytest.mark.fast
def test_any_process_shows_the_metrics_of_all_living_ones(tmp_path: Path) -> None:
    mine, other = SharedMetrics(tmp_path, "1"), SharedMetrics(tmp_path, "engine")
    mine.counter("asked_total", "Asked.").add(by=2)
    other.counter("applied_total", "Applied.").add(by=5)
    with MetricsWriter(other):
        text = eventually(lambda: mine.text() if "applied" in mine.text() else None)
        assert 'applied_total{worker="engine"} 5' in text
        assert 'asked_total{worker="1"} 2' in text
    assert "applied" not in mine.text()
    other.write()
    clear(tmp_path, "engine", os.getpid())
    assert "applied" not in mine.text()


@pytest.mark.fast
def test_no_counter_falls_from_one_scrape_to_the_next_whichever_process_is_asked(tmp_path: Path) -> None:
    first, second = SharedMetrics(tmp_path, "1"), SharedMetrics(tmp_path, "2")
    asked = second.counter("asked_total", "Asked.")
    asked.add()
    second.write()
    asked.add(by=41)
    assert 'asked_total{worker="2"} 42' in second.text()
    assert 'asked_total{worker="2"} 42' in first.text()
    second.remove()
    second.text()
    assert "asked_total" not in first.text()


@pytest.mark.fast
def test_no_counter_falls_while_nothing_can_be_written(tmp_path: Path) -> None:
    first, second = SharedMetrics(tmp_path, "1"), SharedMetrics(tmp_path, "2")
    asked = second.counter("asked_total", "Asked.")
    asked.add()
    second.write()
    (path,) = tmp_path.glob("*.prom")
    in_the_way = path.with_suffix(".new")
    in_the_way.mkdir()
    asked.add(by=41)
    for metrics in (second, first):
        assert 'asked_total{worker="2"} 1\n' in metrics.text()
    in_the_way.rmdir()
    for metrics in (second, first):
        assert 'asked_total{worker="2"} 42\n' in metrics.text()


@pytest.mark.fast
def test_a_worker_of_a_killed_service_does_not_hide_the_metrics_of_the_next(tmp_path: Path) -> None:
    left, one, two = (SharedMetrics(tmp_path, name, start) for name, start in (("1", "a"), ("1", "b"), ("2", "b")))
    for metrics, count in ((left, 7), (one, 3)):
        metrics.counter("asked_total", "Asked.").add(by=count)
    left.write()
    clear(tmp_path)  # the next service begins
    one.write()
    left.write()
    (tmp_path / "1-0.prom").write_text("asked_total 9\n")  # of a version without starts
    write_state(tmp_path, ServiceState(pid=1, url="", at_us=1, workers=[], start="b"))
    assert [line for line in two.text().splitlines() if line[0] != "#"] == ['asked_total{worker="1"} 3']
    assert shared_scrape(tmp_path).number("asked_total") == 3
    clear(tmp_path, "1", os.getpid())
    assert "asked_total" not in two.text()
    left.write()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["service.json"]


@pytest.mark.fast
def test_the_state_of_a_service_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    worker = SlotState(slot=1, pid=7, ready=True, restarts=2, ended="x", last_words="gone")
    state = ServiceState(pid=5, url="http://x", at_us=1, workers=[worker])
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    for damaged in (b"half", b'{"url": "\xff"}'):
        (tmp_path / "service.json").write_bytes(damaged)
        assert read_state(tmp_path) is None
    remove_state(tmp_path)
    remove_state(tmp_path)


@pytest.mark.fast
def test_numerical_libraries_of_a_worker_use_one_thread_by_default() -> None:
    assert environment({"OMP_NUM_THREADS": "4", "HOME": "x"}) == {
        "OMP_NUM_THREADS": "4",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
        "HOME": "x",
    }


def test_a_prediction_that_another_worker_is_about_to_log_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SystemClock()
    with SqliteLog(tmp_path) as theirs, SqliteLog(tmp_path) as mine:
        late, ids = LateLog(mine, clock), PredictionIds(clock)
        made = prediction(ids())
        in_vain = threading.Event()

        def sleep(pause_s: float) -> None:
            in_vain.set()
            time.sleep(pause_s)

        def append() -> None:
            assert in_vain.wait(30)
            LateLog(theirs, clock).append([made])

        monkeypatch.setattr(late_log, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
        monkeypatch.setattr(late_log, "_WAIT_S", 30)
        monkeypatch.setattr(late_log, "_YOUNG_US", 60_000_000)
        appending = threading.Thread(target=append)
        appending.start()
        assert late.find(made.id) == made
        appending.join()
        monkeypatch.setattr(late_log, "_WAIT_S", 0.05)
        with pytest.raises(NotFound, match="not in the log"):
            late.find(ids())
        with pytest.raises(NotFound, match="not in the log"):
            late.find("p_none")


def prediction(name: str) -> Prediction:
    now_us = SystemClock().now_us()
    return a_prediction(id=name, made_at_us=now_us, at_us=now_us)
