"""Records of runs in the catalogue, with their requests, steps and outcomes. Every process can read them."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, Misuse, NotFound, TrimtabError, Unavailable
from trimtab.core.ids import Ids
from trimtab.core.shown import Shown
from trimtab.run.events import Cancelled, Event, Line, Progress, StepBegan, StepEnded
from trimtab.run.steps import KIND as STEP
from trimtab.store.durable_files import make_folder
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import Catalog, Put, Record, Remove

KIND = "run"
_CANCEL = "run_cancel"
_KEPT = 200  # this many runs are kept; older ones are deleted
_LINES = 200  # this many of the newest lines of each run are kept
_LINE_LENGTH = 500
_WRITE_S = 0.5  # time between two writes of a run's progress

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


class RunStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a run."""

    name: str
    inputs_hash: str | None  # a hash of its inputs; None if the step is never cached
    state: State
    began_us: int
    ended_us: int | None = None
    cached: bool = False  # whether the result is from an earlier run with the same inputs and code
    attempts: int = 0
    progress: float | None = None  # how much is done, from 0 to 1; None if not reported


class Run(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """A run: the request and who made it, the steps, and the outcome."""

    format: Literal[1] = 1
    id: str
    kind: str  # such as "train"
    model: str
    actor: str
    holder: str  # "process 412 on wheelhouse"
    state: State
    began_us: int
    ended_us: int | None = None
    outcome: str = ""  # one sentence
    error: str = ""  # the kind of error, e.g. "Misuse"
    # the id of an interrupted run that had begun a step of this run; the results of its finished steps are reused
    resumes: str | None = None
    steps: tuple[RunStep, ...] = ()
    lines: tuple[str, ...] = ()  # the last two hundred lines that were logged or printed

    @property
    def is_over(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def step(self) -> RunStep | None:
        """The running step, or None between two steps. If steps are nested, this is the innermost."""
        return next((step for step in reversed(self.steps) if step.state == "running"), None)


class Runs:
    """The runs of a project, newest last. Any process may read and cancel them.

    While a run is running, its process holds a lock on a file. When the process ends in any way, the operating system
    frees this lock. So a run whose process has died is recognised and shown as interrupted.

    Args:
        folder: The folder of the lock files. It is created if it does not exist.
    """

    def __init__(self, catalog: Catalog, folder: Path, *, clock: Clock, ids: Ids) -> None:
        self._catalog = catalog
        self._folder = folder
        self._clock = clock
        self._ids = ids

    def all(self, model: str | None = None) -> list[Run]:
        """Return all runs, or those of one model, in the order in which they began."""
        found = [self._seen(_decoded(record)) for record in self._catalog.find(KIND)]
        return [run for run in found if model is None or run.model == model]

    def get(self, run_id: str) -> Run:
        """Return the run with this id. The beginning of an id is enough if it is unique.

        Raises:
            NotFound: There is no such run.
            Misuse: Several ids begin with this text.
        """
        found = self._catalog.find(KIND, run_id) if run_id.isprintable() else []
        if not found or not run_id:
            raise NotFound(f"run {run_id!r}: not found. List them: trimtab runs")
        if len(found) > 1:
            raise Misuse(f"run {run_id!r}: the ids of {len(found)} runs begin like this. Give more of the id.")
        return self._seen(_decoded(found[0]))

    def cancel(self, run_id: str, *, actor: str) -> Run:
        """Cancel a run, and return its present state. Its process ends it within about a second.

        Raises:
            NotFound: There is no such run.
            Conflict: The run has ended.
        """
        run = self.get(run_id)
        if run.is_over:
            raise Conflict(f"run {run.id}: it is already {run.state}, so there is nothing to cancel.")
        self._catalog.write([Put(_CANCEL, run.id, msgspec.json.encode(f"Cancelled by {actor}."))])
        return run

    def track(self, kind: str, model: str, *, actor: str) -> Tracked:
        """Return a new run. It is recorded when `begin` is called.

        Raises:
            Misuse: `actor` is not a text.
        """
        if not isinstance(actor, str):
            raise Misuse(f"{kind} {model!r}: actor={actor!r}. Give a name as text.")
        return Tracked(self, kind, model, actor)

    def _seen(self, run: Run) -> Run:
        """Return a run with its present state. If its process has died, this is "interrupted"."""
        if run.is_over or FileLock.is_held(self._lock_path(run.id)):
            return run
        return _interrupted(run)

    def _lock_path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.lock"

    def _clear(self, run_id: str) -> None:
        """Delete the lock file of a run that has ended."""
        self._lock_path(run_id).unlink(missing_ok=True)

    def _settle(self) -> list[Run]:
        """Record which runs were interrupted, delete the oldest runs, and return the interrupted ones."""
        runs: list[Run] = []
        changes: list[Put | Remove] = []
        settled: list[str] = []
        for record in self._catalog.find(KIND):
            written = _decoded(record)
            runs.append(self._seen(written))
            if runs[-1] is not written:
                changes += [Put(KIND, written.id, msgspec.json.encode(runs[-1])), Remove(_CANCEL, written.id)]
                settled.append(written.id)
        over = [run for run in runs if run.is_over]
        gone = over[: max(0, len(runs) - _KEPT)]
        kept = {step_key(run, step) for run in runs if run not in gone for step in run.steps}
        for run in gone:
            steps = {step_key(run, step) for step in run.steps if step.inputs_hash is not None} - kept
            changes += [Remove(KIND, run.id), *(Remove(STEP, key) for key in sorted(steps))]
        if changes:
            self._catalog.write(changes)
        for run_id in settled:
            self._clear(run_id)
        return [run for run in runs if run.state == "interrupted"]


class Tracked:
    """A run that is running in this process. It records its events and its outcome."""

    def __init__(self, runs: Runs, kind: str, model: str, actor: str) -> None:
        self._runs = runs
        self._catalog, self._clock = runs._catalog, runs._clock
        self._lock: FileLock | None = None
        self._before: list[Run] = []
        self._cancelled: str | None = None
        self._written = True
        self._written_s = 0.0
        self._checked_s = 0.0
        self.run = Run(
            id=runs._ids("run"),
            kind=kind,
            model=model,
            actor=actor,
            holder=f"process {os.getpid()} on {platform.node()}",
            state="queued",
            began_us=self._clock.now_us(),
        )

    def begin(self) -> None:
        """Record the run and its events so far. A second call does nothing.

        Raises:
            Unavailable: The state folder cannot be written.
        """
        if self._lock is not None or self.run.is_over:
            return
        try:
            make_folder(self._runs._folder)
            self._before = self._runs._settle()
            self._lock = FileLock.take(self._runs._lock_path(self.run.id))
        except OSError as error:
            raise Unavailable(f"{self._runs._folder}: cannot be written ({error}). Check space and access.") from error
        for step in self.run.steps:
            self._look_back(step)
        self._written_s = time.monotonic()
        self._catalog.write([self._put()])

    def record(self, event: Event) -> None:
        """Record an event of the work."""
        match event:
            case StepBegan(name, inputs_hash):
                step = RunStep(name=name, inputs_hash=inputs_hash, state="running", began_us=self._clock.now_us())
                self._look_back(step)
                self._change(state="running", steps=(*self.run.steps, step))
            case StepEnded(name, cached, attempts, failed):
                state = "failed" if failed else "done"
                ended = {"ended_us": self._clock.now_us(), "cached": cached, "attempts": attempts}
                self._change_step(name, state=state, **ended)
            case Progress(done, total) if self.run.step is not None:
                self._change_step(self.run.step.name, progress=min(1.0, done / total) if total else 1.0)
            case Line(text):
                self._change(lines=(*self.run.lines, text[:_LINE_LENGTH])[-_LINES:])

    def cancelled(self) -> str | None:
        """Return why the run must end, or None if it was not cancelled.

        Call this from time to time, because it also writes the recorded events to the catalogue.
        """
        self._write()
        if self._lock is not None and self._cancelled is None and time.monotonic() - self._checked_s >= _WRITE_S:
            self._checked_s = time.monotonic()
            record = self._catalog.get(_CANCEL, self.run.id)
            if record is not None:
                self._cancelled = f"run {self.run.id}: {msgspec.json.decode(record.body, type=str)}"
        return self._cancelled

    def end(self, outcome: str = "", *, error: BaseException | None = None) -> None:
        """Record the outcome of the run. Without `begin`, it is not stored. A second call does nothing."""
        if self.run.is_over:
            return
        state: State = "done" if error is None else _state_after(error)
        now_us = self._clock.now_us()
        steps = tuple(
            msgspec.structs.replace(step, state=state, ended_us=now_us) if step.state == "running" else step
            for step in self.run.steps
        )
        kind = type(error).__name__ if state in ("failed", "cancelled") else ""
        text = f"Stopped; {_next(self.run)}" if state == "interrupted" else error
        self.run = msgspec.structs.replace(
            self.run, state=state, ended_us=now_us, steps=steps, outcome=outcome or str(text or ""), error=kind
        )
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            self._catalog.write([self._put(), Remove(_CANCEL, self.run.id)])
            self._runs._clear(self.run.id)
        finally:
            lock.release()

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.end(error=error)
        except TrimtabError:  # the error that ended the work, such as a full disk, matters more
            if error is None:
                raise

    def _look_back(self, step: RunStep) -> None:
        """Find an interrupted run that has begun the same step, and record that this run resumes it."""
        if self.run.resumes is None and step.inputs_hash is not None:
            same = [run.id for run in self._before if _reached(run, self.run, step)]
            if same:
                self.run = msgspec.structs.replace(self.run, resumes=same[-1])

    def _change_step(self, name: str, **changes: object) -> None:
        steps = list(self.run.steps)
        for place in reversed(range(len(steps))):
            if steps[place].name == name:
                steps[place] = msgspec.structs.replace(steps[place], **changes)
                break
        self._change(steps=tuple(steps))

    def _change(self, **changes: object) -> None:
        self.run = msgspec.structs.replace(self.run, **changes)
        self._written = False
        self._write()

    def _write(self) -> None:
        if self._lock is not None and not self._written and time.monotonic() - self._written_s >= _WRITE_S:
            self._written_s = time.monotonic()
            self._catalog.write([self._put()])
            self._written = True

    def _put(self) -> Put:
        return Put(KIND, self.run.id, msgspec.json.encode(self.run))


def _decoded(record: Record) -> Run:
    return msgspec.json.decode(record.body, type=Run)


def _state_after(error: BaseException) -> State:
    if isinstance(error, Cancelled):
        return "cancelled"
    return "failed" if isinstance(error, Exception) else "interrupted"  # Ctrl-C, SIGTERM


def _interrupted(run: Run) -> Run:
    steps = tuple(
        msgspec.structs.replace(step, state="interrupted") if step.state == "running" else step for step in run.steps
    )
    text = f"{run.holder} ended before the run was done; {_next(run)}"
    return msgspec.structs.replace(run, state="interrupted", steps=steps, outcome=text)


def _next(run: Run) -> str:
    """Say where the next run of this kind begins.

    A promotion keeps no results of steps, because it must use the data that are known at its time.
    """
    kept = run.kind != "promote"
    return f"the next {run.kind} run " + (
        "continues after the steps that this one finished." if kept else "starts again."
    )


def step_key(run: Run, step: RunStep) -> str:
    """Return the key of the catalogue record of a run's finished step."""
    return f"{run.kind}.{step.name}/{step.inputs_hash}"


def _reached(run: Run, other: Run, step: RunStep) -> bool:
    same = (run.kind, run.model) == (other.kind, other.model)
    return same and any((s.name, s.inputs_hash) == (step.name, step.inputs_hash) for s in run.steps)
