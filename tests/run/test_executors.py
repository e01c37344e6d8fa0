from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from processes import eventually, is_alive
from trimtab.core.errors import Misuse, Unavailable
from trimtab.run import (
    Cancelled,
    Event,
    Executor,
    Line,
    ProcessExecutor,
    Progress,
    StepBegan,
    StepEnded,
    Task,
    TaskFailed,
    ThreadExecutor,
    executors,
)


@pytest.fixture(autouse=True)
def new_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start real processes, as users do, which can import `tasks`."""
    monkeypatch.setattr(executors, "subprocess", subprocess)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(params=["thread", "process"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made: Executor = ThreadExecutor() if request.param == "thread" else ProcessExecutor(nice=5, threads=3)
    yield made
    made.close()


def run(executor: Executor, name: str, argument: str = "", cancelled: Callable[[], str | None] = lambda: None) -> bytes:
    return executor.run(Task(f"tasks:{name}", argument.encode()), on_event=lambda event: None, cancelled=cancelled)


def test_a_task_gives_its_result_and_an_error_of_ours_comes_out_as_itself(executor: Executor) -> None:
    assert json.loads(run(executor, "where", "hello"))["asked"] == "hello"
    with pytest.raises(Misuse, match="needed a, found b"):
        run(executor, "misused")
    assert json.loads(run(executor, "where", "again"))["asked"] == "again"


def test_what_a_task_keeps_lives_until_the_executor_is_closed(executor: Executor, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    assert [run(executor, "kept", str(closed)) for _ in range(3)] == [b"1", b"2", b"3"]
    assert not closed.exists()
    executor.close()
    assert closed.exists()


def test_a_task_that_is_cancelled_ends_soon(executor: Executor, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(Cancelled, match="by Ada"):
        run(executor, "endless", str(pid), cancelled=lambda: "by Ada" if pid.exists() else None)
    if isinstance(executor, ProcessExecutor):
        assert not is_alive(int(pid.read_text()))
    assert json.loads(run(executor, "where", "after"))["asked"] == "after"


def test_a_task_whose_caller_was_interrupted_does_not_end_the_next_one() -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    executor = ThreadExecutor()
    with pytest.raises(KeyboardInterrupt):
        executor.run(Task("tasks:held_up", b""), on_event=interrupt, cancelled=lambda: None)
    assert run(executor, "outliving") == b"1"


def test_a_child_process_is_nice_limits_its_threads_and_tells_what_it_does_and_prints() -> None:
    executor, heard = ProcessExecutor(nice=5, threads=3), list[Event]()
    try:
        there = json.loads(run(executor, "where"))
        assert there["pid"] != os.getpid()
        assert (there["nice"], there["omp"]) == (niceness(5), "3")
        assert executor.run(Task("tasks:telling", b""), on_event=heard.append, cancelled=lambda: None) == b""
        assert [e for e in heard if not isinstance(e, Line)] == [
            StepBegan("one", "h"),
            Progress(1, 2),
            StepEnded("one", cached=False, attempts=1),
        ]
        assert sorted(e.text for e in heard if isinstance(e, Line)) == ["complained", "printed"]
        with pytest.raises(TaskFailed, match=r"ZeroDivisionError: by nothing\n(?s:.*)tasks.py"):
            run(executor, "broken")
        with pytest.raises(
            Unavailable, match=r"was killed by signal 9 before it was done\. The system may have run out"
        ):
            run(executor, "dying")
        assert json.loads(run(executor, "where"))["nice"] == niceness(5)  # another child
    finally:
        executor.close()


@pytest.mark.parametrize(("argument", "how"), [(b"", r"killed by signal 6 \(SIGABRT\)"), (b"x", "ended with status 3")])
def test_a_task_whose_process_dies_says_what_was_done_in_which_step_and_by_whom(argument: bytes, how: str) -> None:
    executor = ProcessExecutor()
    task = Task("tasks:aborting", argument, about="training of 'buyer'", native="the estimator's library")
    try:
        with pytest.raises(Unavailable, match=how) as found:
            executor.run(task, on_event=lambda event: None, cancelled=lambda: None)
    finally:
        executor.close()
    said = str(found.value)
    assert said.startswith("training of 'buyer', step 'fit': ")
    assert "Native code failed or ended the process, most likely the estimator's library" in said
    assert "tasks:" not in said


def test_a_child_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    script = (
        "import sys; from trimtab.run import ProcessExecutor, Task; "
        "ProcessExecutor().run(Task('tasks:endless', sys.argv[1].encode()), on_event=print, cancelled=lambda: None)"
    )
    pid, here = tmp_path / "pid", str(Path(__file__).parent)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(pid)], env={**os.environ, "PYTHONPATH": here}, stdout=subprocess.DEVNULL
    )
    eventually(lambda: pid.exists() and pid.read_text() != "")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    eventually(lambda: not is_alive(int(pid.read_text())))


def niceness(more: int) -> int:
    """Of a child that is to be so much nicer than this process: there is no more than 19."""
    return min(19, os.nice(0) + more)
