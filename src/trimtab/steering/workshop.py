"""Where candidates are made: pinned set, candidate, gate, refit, registration, promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt
from trimtab.core.ids import Ids
from trimtab.core.time import DAY_US, format_duration
from trimtab.feedback.days import day_quality
from trimtab.registry import Registry, Version
from trimtab.steering.controller import CHAMPION, Repair
from trimtab.steering.definitions import Deployment
from trimtab.steering.gate import Window, judge
from trimtab.steering.recipes import Recipe
from trimtab.store.ports import Blob
from trimtab.training.definitions import Model
from trimtab.training.sets import TrainingSet, save_training_set

LEAST_WINDOW_US = 7 * DAY_US  # a gate on fewer days than this has a standard error above any useful margin
REFIT_DISTANCE = 0.1  # mean |score| distance that a refit may have from the candidate that passed


class TrainingData(Protocol):
    """Gives pinned training sets; where they come from (history, logged predictions) is its own business."""

    def training_set(self, model: Model, *, cut_us: int) -> TrainingSet:
        """All request rows asked by `cut_us`, with features as of their time and the labels known at `cut_us`."""
        ...


class VersionWorkshop:
    """Makes and judges versions of one deployment, and registers them.

    The gate judges a recipe: candidate A, fitted on what was known when the window began, on the window. What goes in
    service is R, the same recipe fitted on the window too, with a pointer to A.
    """

    def __init__(
        self,
        deployment: Deployment,
        recipe: Recipe,
        data: TrainingData,
        registry: Registry,
        blob: Blob,
        *,
        clock: Clock,
        ids: Ids,
        save: Callable[[TrainingSet, Blob], str] = save_training_set,
    ) -> None:
        self._deployment = deployment
        self._recipe = recipe
        self._data = data
        self._registry = registry
        self._blob = blob
        self._clock = clock
        self._ids = ids
        self._save = save

    def champion(self) -> str | None:
        version = self._champion()
        return None if version is None else version.id

    def blocked(self, cut_us: int) -> str | None:
        start_us, end_us = self._window(cut_us)
        if end_us - start_us >= LEAST_WINDOW_US:
            return None
        days = format_duration(max(0, end_us - start_us))
        return f"Only {days} of closed days are unseen by the champion; needed are {format_duration(LEAST_WINDOW_US)}."

    def repair(self, cut_us: int) -> Repair:
        model, recipe = self._deployment.model, self._recipe
        training_set = self._data.training_set(model, cut_us=cut_us)
        manifest = self._save(training_set, self._blob)
        start_us, end_us = self._window(cut_us)
        at_us, usable = training_set.at_us, training_set.usable
        rows = usable & (at_us >= start_us) & (at_us < end_us)
        candidate = recipe.fit(training_set, usable & (at_us + model.label.wait_us <= start_us))
        judged = self._registry.register(candidate, training_set=manifest)
        window = Window(start_us, end_us, at_us[rows], training_set.target[rows])
        scores = recipe.candidate_scores(candidate, training_set, rows)
        champion = self._champion()
        gate = judge(
            self._deployment.gate,
            window,
            gate_id=self._ids("gate"),
            model=model.name,
            metric=model.metric,
            candidate=judged.id,
            candidate_scores=scores,
            champion=None if champion is None else champion.id,
            champion_scores=None
            if champion is None
            else recipe.champion_scores(self._registry.load(champion), training_set, rows),
            judged_at_us=self._clock.now_us(),
            loads=self._loads(judged),
        )
        self._registry.put_gate(gate)
        successor, reason = None, gate.reason
        if gate.passed:
            refit = recipe.fit(training_set, usable)
            distance = float(np.abs(recipe.candidate_scores(refit, training_set, rows) - scores).mean())
            if distance <= REFIT_DISTANCE:
                successor = self._registry.register(refit, training_set=manifest, refit_of=judged.id).id
            else:
                reason = f"Refused: the refit scores {distance:.3f} away from its candidate, allowed {REFIT_DISTANCE}."
        return Repair(
            candidate=judged.id,
            gate=gate,
            successor=successor,
            reason=reason,
            reference=tuple(day_quality(model.name, model.metric, judged.id, window.at_us, scores, window.labels)),
            cut_us=cut_us,
            rows=candidate.rows,
            data_hash=training_set.manifest.data_hash,
        )

    def promote(self, repair: Repair, why: str) -> str | None:
        assert repair.successor is not None  # the controller promotes only what passed
        return self._registry.move(
            self._deployment.name, CHAMPION, repair.successor, gate=repair.gate, why=why
        ).previous

    def _champion(self) -> Version | None:
        return self._registry.alias(self._deployment.name, CHAMPION)

    def _window(self, cut_us: int) -> tuple[int, int]:
        """The newest closed days, as far as the champion has not learnt from them."""
        wait_us = self._deployment.model.label.wait_us
        end_us = (cut_us - wait_us) // DAY_US * DAY_US
        start_us = end_us - self._deployment.gate.window_us
        champion = self._champion()
        return (start_us if champion is None else max(start_us, champion.cut_us - wait_us)), end_us

    def _loads(self, version: Version) -> bool:
        """Whether the stored version is read back and repeats its golden predictions."""
        try:
            self._registry.load(version)
        except Corrupt:
            return False
        return True
