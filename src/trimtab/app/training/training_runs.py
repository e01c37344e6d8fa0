"""Record each training as a run, which can be cancelled. A child process does its steps.  # D53"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from trimtab.app.training.training_work import TrainingArguments, TrainingResult, What, Worker, answer, task
from trimtab.core.records import Decision
from trimtab.registry import Registry
from trimtab.registry.protection import CHAMPION
from trimtab.run import Event, Executor, Run, Runs, StepBegan, StepEnded, ThreadExecutor, Tracked
from trimtab.steering.candidates.builder import CandidateBuilder
from trimtab.steering.candidates.ports import Stored
from trimtab.steering.loop_state import Changes, PairedDay, Repair

_logger = logging.getLogger(__name__)
Kind = Literal["train", "promote"]
Watch = Callable[[Run], object]


class TrainingRuns:
    """Trains and evaluates candidates. Each long step is a task that another process may do.

    Args:
        builder: Does the steps that need no task.
        registry: Gives the names of versions, and the version in service.
        arguments: Returns the complete arguments of a task.
        worker: Does a task in this process if the project file was changed after this process read it, because a child
            process would read the changed file.
    """

    def __init__(
        self,
        builder: CandidateBuilder,
        *,
        runs: Runs,
        registry: Registry,
        model: str,
        arguments: Callable[..., TrainingArguments],
        executor: Callable[[], Executor],
        worker: Worker,
    ) -> None:
        self._builder = builder
        self._runs = runs
        self._registry = registry
        self._model = model
        self._arguments = arguments
        self._place = executor
        self._worker = worker
        self._executor: Executor | None = None
        self._watch: Watch = lambda run: None
        self._run = self._runs.track("train", self._model, actor="nobody")

    @contextmanager
    def turn(self, actor: str, watch: Watch | None = None, kind: Kind = "train") -> Iterator[Tracked]:
        """Record the trainings in the block as one run. If the block begins no training, no run is recorded."""
        self._run, self._watch = self._runs.track(kind, self._model, actor=actor), watch or (lambda run: None)
        try:
            with self._run:
                yield self._run
        finally:
            executor, self._executor = self._executor, None
            if executor is not None:
                executor.close()

    def ended(self, decisions: Sequence[Decision]) -> None:
        """Record how this training run ended."""
        last = next((d for d in reversed(decisions) if d.act in ("promote", "refuse", "ask", "shadow", "canary")), None)
        if last is not None:
            name = "" if last.version is None else self._registry.get(last.version).name
            said = {"promote": f"Promoted {name}.", "ask": f"{name} passed, and waits for approval."}
            said |= dict.fromkeys(("shadow", "canary"), f"{name} passed, and is in its rollout.")
            self._run.end(said.get(last.act) or f"{name} was {refusal(last.cause)}")

    def unchanged(self, cut_us: int) -> str | None:
        """Return why there is no need to train a candidate; None if there is.

        There are two such cases: training would give the deployed version again, or this call fitted the deployed
        version again, because its artifact was lost.
        """
        done, champion = self._done("same", cut_us), self._registry.alias(self._model, CHAMPION)
        if champion is None or (done.same is None and not done.put_back):
            return None
        again = "its artifact was lost, so it was fitted again, and the artifact was put back."
        if done.same is None:
            return f"{champion.name}: {again} Train again to get a candidate that is fitted on newer data."
        said = f"Unchanged: {done.same.name} is the result of this data and code. A new seed alone changes nothing."
        return f"{said} {again.capitalize()}" if done.put_back else said

    def champion(self) -> str | None:
        return self._builder.champion()

    def champion_cut(self) -> int:
        return self._builder.champion_cut()

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        return self._builder.comparisons.unseen(cut_us, changes) or self._done("blocked", cut_us, changes=changes).lack

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes) -> Repair:
        go_on()
        self._run.begin()
        try:
            repair = self._done("repair", cut_us, changes=changes).repair
        except Exception as error:  # recorded in the run, even if the loop continues
            self._run.end(error=error)
            raise
        assert repair is not None
        return repair

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        self._run.begin()
        repair = self._done("judge", cut_us, stored=stored, keep=keep).repair
        assert repair is not None
        return repair

    def shadow_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        return self._builder.shadow_days(repair, since_us, cut_us)

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        self._run.begin()
        self._hear(StepBegan("promote", None))
        replaced = self._builder.promote(repair, why, actor)
        self._hear(StepEnded("promote", cached=False, attempts=1))
        return replaced

    def _hear(self, event: Event) -> None:
        self._run.record(event)
        self._watch(self._run.run)

    def _done(self, what: What, cut_us: int, **more: Any) -> TrainingResult:
        arguments = self._arguments(what=what, cut_us=cut_us, **more)
        done = self._did(arguments)
        if done.changed:
            said = "%s: the project file was changed after it was read, so the model is trained in this process"
            _logger.warning(said, self._model)
            if self._executor is not None:
                self._executor.close()
            self._executor = ThreadExecutor({"loop": self._worker})
            done = self._did(arguments)
        return done

    def _did(self, arguments: TrainingArguments) -> TrainingResult:
        if self._executor is None:
            self._executor = self._place()
        return answer(self._executor.run(task(arguments), on_event=self._hear, cancelled=self._run.cancelled))


def refusal(cause: str) -> str:
    """Return the reason for a refusal, beginning with "refused", without repeating that word.

    >>> refusal("Refused, not better: log_loss 0.41 against 0.40.")
    'refused, not better: log_loss 0.41 against 0.40.'
    >>> refusal("No client answered.")
    'refused: No client answered.'
    """
    told = cause.removeprefix("Refused")
    return f"refused: {cause}" if told == cause else f"refused{told}"
