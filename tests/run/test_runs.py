from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import forked
from trimtab.core.clock import SystemClock, VirtualClock
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.ids import TimeIds
from trimtab.run import (
    Cancelled,
    Codec,
    Event,
    Line,
    Progress,
    Recorded,
    Runs,
    StepBegan,
    StepEnded,
    forget_step,
    orphaned_steps,
)
from trimtab.run import runs as runs_module
from trimtab.run import steps as steps_module
from trimtab.store.file_blob import FileBlob
from trimtab.store.ports import Catalog
from trimtab.store.sql_catalog import SqlCatalog

CLOCK = SystemClock()

SCRIPT = """
import pathlib, sys, time
from trimtab.core.clock import SystemClock
from trimtab.core.ids import TimeIds
from trimtab.run import Runs, StepBegan, runs as module
from trimtab.store.sql_catalog import SqlCatalog

module._WRITE_S = 0.0  # write progress at once
folder = pathlib.Path(sys.argv[1])
runs = Runs(SqlCatalog.sqlite(folder / "catalog.db"), folder / "runs", clock=SystemClock(), ids=TimeIds(SystemClock()))
run = runs.track("train", "m", actor="Ada")
run.begin()
run.record(StepBegan("fit", "h1"))
run.cancelled()
print(run.run.id, flush=True)
time.sleep(60)
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqlCatalog]:
    with SqlCatalog.sqlite(tmp_path / "catalog.db") as opened:
        yield opened


@pytest.fixture
def runs(catalog: SqlCatalog, tmp_path: Path) -> Runs:
    return Runs(catalog, tmp_path / "runs", clock=CLOCK, ids=TimeIds(CLOCK))


def a_run(runs: Runs, error: BaseException) -> None:
    with runs.track("train", "m", actor="Ada") as run:
        run.begin()
        run.record(StepBegan("fit", "h1"))
        raise error


@pytest.mark.fast
def test_a_run_shows_its_steps_while_it_is_under_way_and_how_it_ended(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "_WRITE_S", 0.0)
    with runs.track("train", "m", actor="Ada") as run:
        run.begin()
        assert runs.get(run.run.id).state == "queued"
        run.record(StepBegan("fit", "h1"))
        run.record(Progress(1, 4))
        run.record(Line("a line"))
        run.record(StepEnded("fit", cached=True, attempts=2))
        run.record(StepBegan("judge", None))
        seen = runs.get(run.run.id)
        assert (seen.state, [s.state for s in seen.steps], seen.lines) == ("running", ["done", "running"], ("a line",))
        assert (seen.steps[0].cached, seen.steps[0].attempts, seen.steps[0].progress) == (True, 2, 0.25)
        run.end("Promoted m@1.")
    (seen,) = runs.all("m")
    assert (seen.state, seen.outcome, seen.error, runs.all("other")) == ("done", "Promoted m@1.", "", [])


@pytest.mark.fast
def test_a_run_that_raises_has_failed_with_the_kind_of_error_and_its_cause(runs: Runs) -> None:
    with pytest.raises(Misuse):
        a_run(runs, Misuse("all labels are 0"))
    (seen,) = runs.all()
    assert (seen.state, seen.error, seen.outcome, seen.steps[0].state) == (
        "failed",
        "Misuse",
        "all labels are 0",
        "failed",
    )


@pytest.mark.fast
@pytest.mark.parametrize("inputs", [None, lambda: ["rows", 3]])
def test_a_step_that_fails_within_another_that_goes_on_without_it_is_not_under_way_any_more(
    runs: Runs, catalog: SqlCatalog, tmp_path: Path, inputs: Any
) -> None:
    steps, text = Recorded("train", catalog, FileBlob(tmp_path / "blob"), clock=CLOCK), Codec(str.encode, bytes.decode)

    def fails() -> str:
        raise Misuse("one class only")

    def evaluates() -> str:
        with pytest.raises(Misuse):
            steps.do("partial", inputs, fails, text)
        return "none"

    with runs.track("train", "m", actor="Ada") as run:
        run.begin()
        steps.on_event = run.record
        assert steps.do("evaluate", inputs, evaluates, text) == "none"
        assert run.run.step is None
        assert [(step.name, step.state) for step in run.run.steps] == [("evaluate", "done"), ("partial", "failed")]
        with pytest.raises(Misuse):
            steps.do("fit", inputs, fails, text)
    assert [step.state for step in runs.all()[0].steps] == ["done", "failed", "failed"]


def test_a_run_that_is_stopped_by_a_signal_was_interrupted(runs: Runs) -> None:
    with pytest.raises(KeyboardInterrupt):
        a_run(runs, KeyboardInterrupt())
    (seen,) = runs.all()
    assert (seen.state, seen.error, seen.outcome[:18]) == ("interrupted", "", "Stopped; the next ")


def test_a_run_that_never_began_leaves_no_trace(runs: Runs) -> None:
    with runs.track("train", "m", actor="Ada") as run:
        run.record(StepBegan("snapshot", "h"))
    assert runs.all() == []


def test_a_run_is_found_by_the_beginning_of_its_id(runs: Runs) -> None:
    ids = []
    for _ in range(2):
        with runs.track("train", "m", actor="Ada") as run:
            run.begin()
            ids.append(run.run.id)
    assert runs.get(ids[0]).id == ids[0]
    with pytest.raises(Misuse, match="the ids of 2 runs begin like this"):
        runs.get("run_")
    for nonsense in ("", "run_zzz", "%", "\0"):
        with pytest.raises(NotFound, match=r"not found\. List them: trimtab runs"):
            runs.get(nonsense)


def test_a_run_is_cancelled_from_outside(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "_WRITE_S", 0.0)
    with runs.track("train", "m", actor="Ada") as run:
        run.begin()
        assert run.cancelled() is None
        runs.cancel(run.run.id, actor="Bob")
        assert run.cancelled() == f"run {run.run.id}: Cancelled by Bob."
        run.end(error=Cancelled(run.cancelled()))
    assert runs.get(run.run.id).state == "cancelled"
    with pytest.raises(Conflict, match="it is already cancelled"):
        runs.cancel(run.run.id, actor="Bob")


def test_a_killed_run_is_shown_as_interrupted_and_the_next_one_says_that_it_goes_on_from_it(
    runs: Runs, tmp_path: Path
) -> None:
    child = forked.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    run_id = child.stdout.readline().strip()
    assert runs.get(run_id).state == "running"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    seen = runs.get(run_id)
    assert (seen.state, seen.steps[0].state) == ("interrupted", "interrupted")
    assert f"process {child.pid}" in seen.outcome
    with pytest.raises(Conflict, match="it is already interrupted"):
        runs.cancel(run_id, actor="Bob")
    with runs.track("train", "m", actor="Ada") as run:
        run.record(StepBegan("fit", "h1"))  # heard before it is recorded
        run.begin()
    with runs.track("train", "m", actor="Ada") as other:
        other.begin()
        other.record(StepBegan("fit", "h2"))
    assert [one.resumes for one in runs.all()] == [None, run_id, None]
    assert list((tmp_path / "runs").iterdir()) == []


def test_old_runs_are_forgotten_with_the_steps_that_only_they_had(
    runs: Runs, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "_KEPT", 2)
    steps = Recorded("train", catalog, FileBlob(tmp_path / "blob"), clock=CLOCK)
    for inputs in ("a", "a", "b", "c", "d"):
        with runs.track("train", "m", actor="Ada") as run:
            run.begin()
            steps.on_event = run.record
            steps.do("fit", lambda inputs=inputs: inputs, lambda: "done", Codec(str.encode, bytes.decode))
    assert len(runs.all()) == 3  # the newest, and two that were over when it began
    assert len(catalog.find("step")) == 3


def test_a_step_whose_result_is_gone_is_done_again(catalog: Catalog, tmp_path: Path) -> None:
    blob, calls = FileBlob(tmp_path / "blob"), list[int]()
    steps = Recorded("train", catalog, blob, clock=CLOCK)

    def work() -> str:
        calls.append(1)
        return "result"

    inner = blob.put(b"what the result refers to")

    def decode(data: bytes) -> str:
        blob.get(inner)
        return data.decode()

    for expected in (1, 1):
        assert steps.do("fit", lambda: "h", work, Codec(str.encode, decode)) == "result"
        assert len(calls) == expected
    blob.delete(inner)
    assert steps.do("fit", lambda: "h", work, Codec(str.encode, decode)) == "result"
    assert len(calls) == 2
    for file in [one for one in (tmp_path / "blob").rglob("*") if one.is_file()]:
        os.unlink(file)
    assert steps.do("fit", lambda: "h", work, Codec(str.encode, bytes.decode)) == "result"
    assert len(calls) == 3
    forget_step(catalog, "train.fit", "nothing of this kind")


def test_an_actor_that_is_no_text_is_refused(runs: Runs) -> None:
    with pytest.raises(Misuse, match=r"train 'm': actor=1000. Give a name"):
        runs.track("train", "m", actor=1000)  # type: ignore[arg-type]  # as a user may


def test_a_step_that_failed_says_how_often_it_was_tried(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "_FIRST_PAUSE_S", 0.0)
    steps, heard = Recorded("train", catalog, FileBlob(tmp_path / "blob"), clock=CLOCK), list[Event]()
    steps.on_event = heard.append

    def work() -> str:
        raise Unavailable("the store is down")

    with pytest.raises(Unavailable, match="down"):
        steps.do("fit", lambda: "h", work, Codec(str.encode, bytes.decode))
    assert heard[-1] == StepEnded("fit", cached=False, attempts=4, failed=True)


def test_steps_of_runs_that_never_came_to_their_end_are_forsaken_once_they_are_old(
    catalog: SqlCatalog, tmp_path: Path
) -> None:
    clock, text = VirtualClock(1_000), Codec(str.encode, bytes.decode)
    runs = Runs(catalog, tmp_path / "runs", clock=clock, ids=TimeIds(clock))

    def run(error: BaseException | None, *inputs: int, kind: str = "train") -> None:
        steps = Recorded(kind, catalog, FileBlob(tmp_path / "blob"), clock=clock)
        with pytest.raises(KeyboardInterrupt) if error else nullcontext(), runs.track(kind, "m", actor="Ada") as run:
            run.begin()
            steps.on_event = run.record
            for one in inputs:
                steps.do("fit", lambda one=one: one, lambda: "result", text)
            if error is not None:
                raise error
        clock.advance_to(clock.now_us() + 1_000)

    def forsaken(before_us: int) -> int:
        return len(orphaned_steps(catalog, runs.all(), kind="train", before_us=before_us))

    run(KeyboardInterrupt(), 1, 2)
    run(None, 1, 3)  # it went on from the first
    run(KeyboardInterrupt(), 4)
    run(KeyboardInterrupt(), 5, kind="other")
    assert [forsaken(before_us) for before_us in (1_000, 2_000, 4_500)] == [0, 1, 2]
    with runs.track("train", "m", actor="Ada") as under_way:
        under_way.begin()
        assert forsaken(9_000) == 0
