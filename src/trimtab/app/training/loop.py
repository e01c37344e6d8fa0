"""The training loop of one deployment: it reads predictions, monitors quality, and trains and promotes versions."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.data.loop_labels import LoopLabels
from trimtab.app.data.recent_events import RecentEvents
from trimtab.app.data.training_data import LivingData
from trimtab.app.data.training_pin import Pin
from trimtab.app.features.project_spec import ProjectSpec, executor
from trimtab.app.features.source_counts import store_counts
from trimtab.app.state.lease import Lease
from trimtab.app.state.loop_turn import KIND, Doing, LoopActivity, last_activity
from trimtab.app.state.state import kept_from
from trimtab.app.system import System
from trimtab.app.training.fresh_process import loads_in_new_process
from trimtab.app.training.training_runs import TrainingRuns, Watch
from trimtab.app.training.training_work import TrainingArguments, TrainingResult
from trimtab.core.clock import SystemClock
from trimtab.core.errors import Conflict
from trimtab.core.ids import TimeIds
from trimtab.core.records import Decision, GateRecord
from trimtab.monitoring.inputs.monitor import InputMonitor
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.registry import Version
from trimtab.run import Recorded, Workplace
from trimtab.serving.answer.answering import PAST
from trimtab.steering.candidates.builder import CandidateBuilder
from trimtab.steering.candidates.ports import CandidateOptions, DeploymentParts, Stored
from trimtab.steering.candidates.stored import Recording
from trimtab.steering.definitions import Deployment
from trimtab.steering.gate.version_checks import Proving
from trimtab.steering.loop.loop import Loop
from trimtab.steering.loop.triggering import declares
from trimtab.store.ports import Put
from trimtab.training.data.sets import TrainingSet
from trimtab.training.environment import current_environment

_OWN_TIME = ("live", "online", "replay")  # answers in these modes were given at the time of their requests


class DeploymentLoop:
    """Monitors the quality of one deployment, and trains and promotes its versions.

    Any number of processes and threads may call `tick` and `train`. A lease lets only one of them work at a time, and
    each of them first reads what the others have stored. If a process loses the lease to another one while it works,
    its writes fail, because they expect an older revision of the stored state.
    """

    def __init__(self, system: System, deployment: Deployment, data: LivingData) -> None:
        self.deployment = deployment
        self._system = system
        self._catalog = catalog = system.state.catalog
        self._clock = system.clock
        self._profiles = Profiles(catalog, system.state.blob, system.clock)
        self._labels = LoopLabels(system, deployment.model)
        self._steps = Recorded("train", catalog, system.state.blob, clock=system.clock)
        config = system.config
        pin = Pin(data, lambda: system.asked_history, catalog, kept_from=partial(kept_from, catalog))
        parts = DeploymentParts(
            deployment=deployment,
            data=data,
            labels=self._labels,
            registry=system.registry,
            catalog=catalog,
            blob=system.state.blob,
            clock=system.clock,
            ids=TimeIds(system.clock),
        )
        options = CandidateOptions(
            seed=config.seed,
            threads=config.training.threads,
            recording=Recording(self._steps, pin, self._made_by),
            proving=self._proving(),
            profile=self._profiles.make,
        )
        self._loop = Loop(parts, options, live=self, outside=self._outside, predictions=system.predictions)
        self.monitor = self._loop.monitor
        self.controller = self._loop.controller
        self._ticked = False  # whether the last tick closed all days that were due
        self._inputs_read = False  # whether the input monitor has read the predictions of hours that are not closed
        self._reading = threading.Lock()  # held while the sums of open days change

    @cached_property
    def inputs(self) -> InputMonitor:
        """The monitor of the model inputs of the deployed version."""
        monitor = InputMonitor(
            self._catalog,
            self.deployment.model,
            profiles=self._profiles,
            registry=self._system.registry,
            frame_of=self._system.part(RecentEvents).frame,
            now_us=self._clock.now_us(),
            owner=self.deployment.owner,
        )
        monitor.estimates_red = declares(self.deployment, "estimate")
        return monitor

    @property
    def deployment_hash(self) -> str:
        return self.deployment.hash

    def tick(self, busy: Callable[[str], object] | None = None) -> list[Decision]:
        """Do a regular pass: close the days that are due, check their quality, and act on it.

        A day is due when the wait for its labels is over. When it is closed, its results are stored, and no longer
        change. If another process or thread is using the loop, nothing is done.

        Args:
            busy: Called with a text about another process that uses the loop, if there is one.
        """
        with self._turn("tick") as mine:
            ticked, self._ticked = self._ticked, False
            if not mine:
                if busy is not None:
                    busy(str(self._at_work("tick")))
                return []
            # only with the lease, because this would end a training of another thread
            with self._training.turn("the loop"):
                return self._tick(ticked)

    def _tick(self, ticked: bool) -> list[Decision]:
        # inputs are only checked up to this time, because later predictions may be missing in what is read below
        read_us = self._clock.now_us()
        self.catch_up()
        decisions = self._loop.controller.finish()
        with self._reading:
            self._read_predictions()
            unseen = [] if ticked else self.inputs.unseen_days(self._loop.closed_until_us)
            self._loop.close_days()
            self.inputs.look(read_us, [*unseen, *self._loop.newly_closed])
            self._ticked = True
        self._loop.compare_arms()
        decisions += self._loop.controller.tick()
        self._training.ended(decisions)
        self.inputs.follow()
        return decisions

    def train(self, actor: str, watch: Watch | None = None) -> list[Decision]:
        """Train a candidate now, and decide whether to promote it.

        No candidate is trained if the present data and code would give the deployed version again.

        Args:
            watch: Called with the training run whenever it makes progress.

        Raises:
            Cancelled: The run was cancelled.
            Conflict: Another process uses the loop (the message names it), automation is frozen, or a candidate waits
                for approval or is in its rollout.
            Unavailable, Misuse: No candidate can be judged on the present data, or none can be made.
        """
        with self._own_turn("train"):
            self.controller.check_frozen()
            with self._training.turn(actor, watch) as run:
                run.begin()
                decisions = self.controller.finish()
                unchanged = self._training.unchanged(self._clock.now_us())
                if unchanged is not None:
                    run.end(unchanged)
                    return decisions
                decisions += self.controller.train(actor)
                self._training.ended(decisions)
                return decisions

    def promote(
        self, version: Version, actor: str, why: str, *, seen_until_us: int | None, watch: Watch | None = None
    ) -> list[Decision]:
        """Evaluate a stored version, and promote it if it passes. If it is the champion already, do nothing.

        Args:
            why: The reason, for the ledger of decisions and for the history of the alias.
            seen_until_us: The end of the version's training data, if the caller knows it better than the record does.
            watch: Called with the run whenever it makes progress.

        Raises:
            Unavailable: There is no window of labelled data to evaluate on. The message says when there will be one.
            Misuse: The version cannot be loaded here, or cannot score the rows of this model.
            Conflict: Another process uses the loop (the message names it), automation is frozen, or a candidate waits
                for approval or is in its rollout.
        """
        with self._own_turn("promote"):
            if seen_until_us is not None:  # stored even if the version does not pass
                self._system.registry.set_training_cut(version, seen_until_us, actor=actor)
            with self._training.turn(actor, watch, "promote"):
                stored = Stored(version=version.id, seen_until_us=seen_until_us)
                decisions = self.controller.promote(stored, actor, why)
                self._training.ended(decisions)
                return decisions

    def judge_stored(
        self, version: Version, actor: str, *, seen_until_us: int | None, watch: Watch | None = None
    ) -> GateRecord:
        """Evaluate a stored version without promoting it. Only the run keeps the result. Errors: as in `promote`."""
        with self._own_turn("promote"), self._training.turn(actor, watch, "promote") as run:
            stored = Stored(version=version.id, seen_until_us=seen_until_us)
            gate = self._training.judge_stored(stored, self._clock.now_us(), keep=False).gate
            run.end(f"Only judged: {version.name}. {gate.reason}")
            return gate

    def work(self, arguments: TrainingArguments, place: Workplace) -> TrainingResult:
        """Do one task of a training. This may be called in a child process that opened the project for the task."""
        self._steps.on_event = place.emit
        builder, cut_us = self._loop.builder, arguments.cut_us
        match arguments.what:
            case "same":
                artifact = builder.artifact
                lost = artifact.lost()
                artifact.put_back()
                same = artifact.same(cut_us)
                return TrainingResult(same=same, put_back=lost and not artifact.lost())
            case "blocked":
                return TrainingResult(lack=builder.blocked(cut_us, arguments.changes))
            case "repair":
                check = self.controller.check_frozen
                return TrainingResult(repair=builder.repair(cut_us, check, arguments.changes, arguments.actor))
            case "judge":
                assert arguments.stored is not None  # this kind of task names a version
                return TrainingResult(repair=builder.judge_stored(arguments.stored, cut_us, keep=arguments.keep))

    def searchable(self, cut_us: int) -> tuple[TrainingSet, NDArray[np.bool_], int]:
        """Return the data, known at `cut_us`, that a parameter search may use; see `Comparisons.searchable`."""
        return self._loop.builder.comparisons.searchable(cut_us)

    def answer(self, what: Literal["approve", "reject"], actor: str, why: str) -> list[Decision]:
        """Approve the candidate that waits for approval, or reject one that waits or is in its rollout.

        Args:
            why: The reason, for the ledger. It is required to reject a candidate.

        Raises:
            Misuse: No reason is given.
            Conflict: No candidate waits, its time has run out, the champion has changed, automation is frozen (only
                for "approve"), or another process is using the loop.
        """
        with self._own_turn(what):
            if what == "reject":
                return self.controller.reject(actor, why)
            with self._training.turn(actor):
                decisions = self.controller.approve(actor, why)
                self._training.ended(decisions)
                return decisions

    def scores_of(self, keys: list[object], *, version: str, since_us: int) -> NDArray[np.float64]:
        """Return the first live score that a version gave to each request since a time; NaN if it gave none.

        Precomputed and degraded answers, batches and requests about the past are ignored, because they say nothing
        about quality in service.
        """
        name = self.deployment.name
        scores: dict[str, float] = {}
        for block, _ in self._system.predictions.blocks(
            self._system.predictions.positions_before(since_us), model=name
        ):
            for p in block:
                own = p.mode in _OWN_TIME and p.at_us >= p.made_at_us and PAST not in p.flags and not p.is_degraded
                if own and p.version == version and p.at_us >= since_us:
                    scores.setdefault(p.request_id, p.score)
        return np.array([scores.get(str(key), np.nan) for key in keys], np.float64)

    def complete_until(self, now_us: int) -> int:
        """Return the time up to which the known labels are complete; see `LoopLabels.complete_until`."""
        return self._labels.complete_until(now_us)

    @property
    def closed_until_us(self) -> int:
        """The end of the newest closed day, of whichever version."""
        return self._loop.closed_until_us

    def catch_up(self) -> None:
        """Count the new records for the status, and read the state that other processes have stored."""
        store_counts(self._system)
        with self._reading:
            if self._loop.reload():
                self._inputs_read = False

    def read_ahead(self) -> None:
        """Read new predictions, so that the next tick has less to do.

        Nothing is read before the first tick, during a tick, or after a tick that failed to close its days.
        """
        if self._reading.acquire(blocking=False):
            try:
                if self._ticked:
                    self._read_predictions()
            finally:
                self._reading.release()

    def _at_work(self, what: Doing) -> Conflict:
        turn = last_activity(self._catalog, self.deployment.name)
        over = turn is None or turn.ended_us is not None  # the holder of the lease has not recorded its work yet
        who = "another process" if turn is None or over else f"{turn.holder} (its {turn.doing})"
        return Conflict(
            f"{what} {self.deployment.name!r}: {who} is working on this deployment. Try again when it is done."
        )

    def _outside(self, builder: CandidateBuilder) -> TrainingRuns:
        self._training = TrainingRuns(
            builder,
            runs=self._system.recorded,
            registry=self._system.registry,
            model=self.deployment.name,
            arguments=self._arguments,
            executor=partial(executor, self._system.config.training, self._clock, {"loop": self}),
            worker=self,
        )
        return self._training

    def _arguments(self, **what: Any) -> TrainingArguments:
        """Return the arguments of a training task, with those that all tasks share."""
        return TrainingArguments(
            **what,
            actor=self.controller.state.asked_by or "policy",
            model=self.deployment.name,
            deployment=self.deployment_hash,
            project=ProjectSpec.of(self._system.config, self._system.state_folder),
        )

    def _proving(self) -> Proving | None:
        """Return how candidates are tested before promotion (loaded in a new process, timed); None in virtual time."""
        if not isinstance(self._clock, SystemClock):
            return None
        return Proving(
            partial(loads_in_new_process, self._system.config, self._system.state_folder), time.perf_counter_ns
        )

    def _made_by(self) -> object:
        """Return everything that determines a trained version except the data, as JSON values."""
        made_in = msgspec.to_builtins(current_environment())
        return [
            self.deployment.model.hash,
            self.deployment.learn,
            self._system.config.seed,
            self._system.config.training.threads,
            made_in,
        ]

    def _read_predictions(self) -> None:
        seen = self._loop.positions
        if seen is None:  # a new project
            seen = self._system.predictions.positions_before(self._loop.closed_until_us)
        if not self._inputs_read:
            self._read_inputs_again(seen)
        for block, reached in self._system.predictions.blocks(seen, model=self.deployment.name):
            self._loop.add(block, before=seen, reached=reached)
            self.inputs.add(block)
            seen = reached

    def _read_inputs_again(self, until: Mapping[str, int]) -> None:
        """Give the input monitor the predictions of its open hours that the loop has already read."""
        self.inputs.reload()
        for name, after in self._system.predictions.positions_before(self.inputs.read_from_us).items():
            for block in self._system.predictions.between(name, after, until.get(name, 0), model=self.deployment.name):
                self.inputs.add(block)
        self._inputs_read = True

    @contextmanager
    def _own_turn(self, doing: Doing) -> Iterator[None]:
        """As `_turn`, but raise Conflict if another process or thread is using the loop. Otherwise catch up first."""
        with self._turn(doing) as mine:
            if not mine:
                raise self._at_work(doing)
            self.catch_up()
            yield

    @contextmanager
    def _turn(self, doing: Doing) -> Iterator[bool]:
        """Keep other processes and threads from using the loop during the block, and record the activity.

        The block gets False if another process or thread is using the loop.
        """
        name, who = self.deployment.name, f"process {os.getpid()} on {platform.node()}"
        # each use takes a new lease, so that threads exclude each other, too
        lease = Lease(self._catalog, f"loop.{name}", self._system.state_folder)
        if not lease.take():
            yield False
            return
        try:
            before = last_activity(self._catalog, name)
            turn = LoopActivity(
                doing=doing,
                holder=who,
                began_us=self._clock.now_us(),
                ended_us=None,
                last_tick_us=None if before is None else before.last_tick_us,
                last_error=None if before is None else before.last_error,
            )
            self._note(turn)
            try:
                yield True
            except BaseException as error:
                said = f"{type(error).__name__}: {error}" if doing == "tick" else turn.last_error
                self._note(msgspec.structs.replace(turn, ended_us=self._clock.now_us(), last_error=said))
                raise
            now_us = self._clock.now_us()
            well = {"last_tick_us": now_us, "last_error": None} if doing == "tick" else {}
            self._note(msgspec.structs.replace(turn, ended_us=now_us, **well))
        finally:
            lease.release()

    def _note(self, turn: LoopActivity) -> None:
        self._catalog.write([Put(KIND, self.deployment.name, msgspec.json.encode(turn))])
