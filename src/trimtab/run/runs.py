"""Runs: what was asked for, the steps it went through, and how it ended; in the catalogue, for everybody to see."""

from __future__ import annotations

import contextlib
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
from trimtab.run.events import Cancelled, Event, Line, Progress, StepBegan, StepEnded
from trimtab.run.steps import KIND as STEP
from trimtab.store.durable_files import make_folder
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import Catalog, Put, Record, Remove

KIND = "run"
_CANCEL = "run_cancel"
_KEPT = 200  # runs; older ones are forgotten
_LINES = 200  # of a run: the newest
_LINE_LENGTH = 500
_END_BYTES = 4096  # the room for how a run ended, which is taken as it begins
_WRITE_S = 0.5  # between two writes of how far a run is

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]


class RunStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run."""

    name: str
    inputs_hash: str | None  # the content address of its inputs; None: it is always done
    state: State
    began_us: int
    ended_us: int | None = None
    cached: bool = False  # it was finished before, with the same inputs and code
    attempts: int = 0
    progress: float | None = None  # the share that is done, 0 to 1; None: nobody said


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run: who asked for what, its steps, and how it ended."""

    format: Literal[1] = 1
    id: str
    kind: str  # "train"
    model: str
    actor: str
    holder: str  # "process 412 on wheelhouse"
    state: State
    began_us: int
    ended_us: int | None = None
    outcome: str = ""  # what came of it, one sentence
    error: str = ""  # the kind of error that it failed with, e.g. "Misuse"
    resumes: str | None = None  # the interrupted run whose steps it goes on from
    steps: tuple[RunStep, ...] = ()
    lines: tuple[str, ...] = ()  # what was logged and printed, the newest two hundred

    @property
    def is_over(self) -> bool:
        return self.state not in ("queued", "running")

    @property
    def step(self) -> RunStep | None:
        """The step under way, of several within each other the innermost; None between two."""
        return next((step for step in reversed(self.steps) if step.state == "running"), None)


class Runs:
    """The runs of a project, newest last. Any process may read them, and ask for one to end.

    A run whose process died is shown as interrupted: beside each run under way lies a locked file, which the system
    lets go when the process ends, however that happens.

    Args:
        catalog: Where they are.
        folder: Where the locked files are; made when there is none.
        clock: Stamps them.
        ids: Names them.
    """

    def __init__(self, catalog: Catalog, folder: Path, *, clock: Clock, ids: Ids) -> None:
        self._catalog = catalog
        self._folder = folder
        self._clock = clock
        self._ids = ids

    def all(self, model: str | None = None) -> list[Run]:
        """All runs, or those of one model, by the time they began."""
        found = [self._seen(_decoded(record)) for record in self._catalog.find(KIND)]
        return [run for run in found if model is None or run.model == model]

    def get(self, run_id: str) -> Run:
        """A run by its id, or by the beginning of it that no other has.

        Raises:
            NotFound: There is none.
            Misuse: Several begin like this.
        """
        found = self._catalog.find(KIND, run_id) if run_id.isprintable() else []
        if not found or not run_id:
            raise NotFound(f"run {run_id!r}: there is none. List them: trimtab runs")
        if len(found) > 1:
            raise Misuse(f"run {run_id!r}: {len(found)} runs begin like this. Give more of the id.")
        return self._seen(_decoded(found[0]))

    def cancel(self, run_id: str, *, actor: str) -> Run:
        """Ask for a run to end; its process does so within about a second. The run as it stands now.

        Raises:
            NotFound: There is none.
            Conflict: It is over.
        """
        run = self.get(run_id)
        if run.is_over:
            raise Conflict(f"run {run.id}: it is {run.state} already, so there is nothing to cancel.")
        self._catalog.write([Put(_CANCEL, run.id, msgspec.json.encode(f"Cancelled by {actor}."))])
        return run

    def track(self, kind: str, model: str, *, actor: str) -> Tracked:
        """A run that is about to begin; it is recorded once `begin` is called."""
        return Tracked(self, kind, model, actor)

    def _seen(self, run: Run) -> Run:
        """A run as it is now: one whose process died has no say in it any more."""
        if run.is_over or FileLock.is_held(self._lock_path(run.id)):
            return run
        return self._ended(run) or _interrupted(run)

    def _ended(self, run: Run) -> Run | None:
        """The run as it ended, where only the catalogue could not be told so; None where it never came to that."""
        try:
            return msgspec.json.decode(self._end_path(run.id).read_bytes(), type=Run)
        except (OSError, msgspec.DecodeError):  # none there, or still the room for it
            return None

    def _lock_path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.lock"

    def _end_path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.end"

    def _make_room(self, run_id: str) -> None:
        """Take now, on the disk, what saying how a run ended takes: by then the disk may be full."""
        with self._end_path(run_id).open("wb") as file:
            file.write(b" " * _END_BYTES)
            file.flush()
            os.fsync(file.fileno())

    def _note_end(self, run: Run) -> None:
        """Say beside the run's lock how it ended, in the room that was made; without it the run counts as stopped."""
        short = msgspec.structs.replace(run, lines=(), outcome=run.outcome[:_LINE_LENGTH])
        said = msgspec.json.encode(short)
        if len(said) > _END_BYTES:
            said = msgspec.json.encode(msgspec.structs.replace(short, steps=()))
        with contextlib.suppress(OSError), self._end_path(run.id).open("r+b") as file:
            file.write(said.ljust(_END_BYTES))
            file.flush()
            os.fsync(file.fileno())

    def _clear(self, run_id: str) -> None:
        """Remove what lay beside a run that is over."""
        self._end_path(run_id).unlink(missing_ok=True)
        self._lock_path(run_id).unlink(missing_ok=True)

    def _settle(self) -> list[Run]:
        """Write down which runs were interrupted, and forget the oldest; those that are interrupted."""
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
    """A run under way, as its own process sees it: hears of its steps, writes them down, and says how it ended."""

    def __init__(self, runs: Runs, kind: str, model: str, actor: str) -> None:
        self._runs = runs
        self._catalog, self._clock = runs._catalog, runs._clock
        self._lock: FileLock | None = None
        self._before: list[Run] = []
        self._cancelled: str | None = None
        self._written = True
        self._written_s = 0.0
        self._asked_s = 0.0
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
        """Record it, with what was heard so far; nothing happens the second time.

        Raises:
            Unavailable: The state folder cannot be written.
        """
        if self._lock is not None or self.run.is_over:
            return
        try:
            make_folder(self._runs._folder)
            self._before = self._runs._settle()
            self._lock = FileLock.take(self._runs._lock_path(self.run.id))
            self._runs._make_room(self.run.id)
        except OSError as error:
            raise Unavailable(f"{self._runs._folder}: cannot be written ({error}). Check space and access.") from error
        for step in self.run.steps:
            self._look_back(step)
        self._written_s = time.monotonic()
        self._catalog.write([self._put()])

    def hear(self, event: Event) -> None:
        """Take in what the work tells."""
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
        """Why it is to end; None while nobody asked for that. Call it now and then: what was heard is written, too."""
        self._write()
        if self._lock is not None and self._cancelled is None and time.monotonic() - self._asked_s >= _WRITE_S:
            self._asked_s = time.monotonic()
            record = self._catalog.get(_CANCEL, self.run.id)
            if record is not None:
                self._cancelled = f"run {self.run.id}: {msgspec.json.decode(record.body, type=str)}"
        return self._cancelled

    def end(self, outcome: str = "", *, error: BaseException | None = None) -> None:
        """Say how it ended; the first word counts. A run that was never begun leaves no trace."""
        if self.run.is_over:
            return
        state: State = "done" if error is None else _state_after(error)
        now_us = self._clock.now_us()
        steps = tuple(
            msgspec.structs.replace(step, state=state, ended_us=now_us) if step.state == "running" else step
            for step in self.run.steps
        )
        kind = type(error).__name__ if state in ("failed", "cancelled") else ""
        said = f"Stopped; {_next(self.run)}" if state == "interrupted" else error
        self.run = msgspec.structs.replace(
            self.run, state=state, ended_us=now_us, steps=steps, outcome=outcome or str(said or ""), error=kind
        )
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            self._catalog.write([self._put(), Remove(_CANCEL, self.run.id)])
            self._runs._clear(self.run.id)
        except TrimtabError:
            self._runs._note_end(self.run)
            raise
        finally:
            lock.release()

    def __enter__(self) -> Tracked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.end(error=error)
        except TrimtabError:  # a full disk ended the work: what it raised says more
            if error is None:
                raise

    def _look_back(self, step: RunStep) -> None:
        """Whether an interrupted run had come to this very step."""
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
    said = f"{run.holder} ended before it was done; {_next(run)}"
    return msgspec.structs.replace(run, state="interrupted", steps=steps, outcome=said)


def _next(run: Run) -> str:
    """What the next run of this kind does: a promotion keeps no step, it judges what is known when it is asked for."""
    kept = run.kind != "promote"
    return f"the next {run.kind} " + ("goes on from its finished steps." if kept else "begins anew.")


def step_key(run: Run, step: RunStep) -> str:
    """Under which key the catalogue has a run's step once it is finished."""
    return f"{run.kind}.{step.name}/{step.inputs_hash}"


def _reached(run: Run, other: Run, step: RunStep) -> bool:
    same = (run.kind, run.model) == (other.kind, other.model)
    return same and any((s.name, s.inputs_hash) == (step.name, step.inputs_hash) for s in run.steps)
