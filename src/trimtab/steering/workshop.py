"""Where candidates are made: pinned set, candidate, gate, refit, registration, promotion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.ids import Ids
from trimtab.core.records import DayQuality, GateRecord
from trimtab.core.time import DAY_US, format_duration, format_moment
from trimtab.feedback import LabelReader
from trimtab.feedback.days import day_quality
from trimtab.registry import Registry, Version
from trimtab.stats.losses import row_losses
from trimtab.steering.controller import CHAMPION, Repair
from trimtab.steering.definitions import LEAST_WINDOW_US, Deployment
from trimtab.steering.gate import Window, judge
from trimtab.steering.recipes import Floats, Recipe, Rows
from trimtab.steering.scales import label_unit, loss_cap, refit_distance
from trimtab.store.ports import Blob
from trimtab.training.definitions import Model
from trimtab.training.fitted import Fitted
from trimtab.training.sets import TrainingSet, save_training_set

LEAST_DAYS = 5  # of a window that must have labels: a week without its weekend


class TrainingData(Protocol):
    """Gives pinned training sets; where they come from (history, logged predictions) is its own business."""

    def training_set(self, model: Model, *, cut_us: int) -> TrainingSet:
        """All request rows asked by `cut_us`, with features as of their time and the labels known at `cut_us`."""
        ...


class VersionWorkshop:
    """Makes and judges versions of one deployment, and registers them.

    The gate judges a recipe: candidate A, fitted on what was known when the window began, on the window. What goes in
    service is R, the same recipe fitted on the window too, with a pointer to A.

    Args:
        deployment: The rules.
        recipe: How its model is fitted and asked.
        data: Gives training sets.
        labels: Finds labels as they stood when a day was closed, as for live days.
        registry: Where versions and gate records go.
        blob: Where training sets go.
        clock: The moment of judging.
        ids: Names gate records.
        save: Stores a training set of which a version was made.
    """

    def __init__(
        self,
        deployment: Deployment,
        recipe: Recipe,
        data: TrainingData,
        labels: LabelReader,
        registry: Registry,
        blob: Blob,
        *,
        clock: Clock,
        ids: Ids,
        save: Callable[[TrainingSet, Blob], str] = save_training_set,
        evaluates: bool = True,
    ) -> None:
        self._deployment = deployment
        self._recipe = recipe
        self._data = data
        self._labels = labels
        self._registry = registry
        self._blob = blob
        self._clock = clock
        self._ids = ids
        self._save = save
        self._evaluates = evaluates
        self._kept: tuple[int, TrainingSet] | None = None  # from `blocked` to `repair` of the same cut

    def champion(self) -> str | None:
        version = self._champion()
        return None if version is None else version.id

    def blocked(self, cut_us: int) -> str | None:
        champion = self._rival()
        wait_us = self._deployment.model.label.wait_us
        closed_us = _closed_until(cut_us, wait_us)
        unseen_us = LEAST_WINDOW_US if champion is None else closed_us - (champion.cut_us - wait_us)
        if unseen_us < LEAST_WINDOW_US:
            days = _days(unseen_us)
            return f"Only {days} of closed days are unseen by the champion; needed are {_WEEK}. Wait for more labels."
        training_set = self._data.training_set(self._deployment.model, cut_us=cut_us)
        lack = self._lack(training_set, self._stretch(training_set, champion), champion)
        self._kept = (cut_us, training_set) if lack is None else None
        return lack

    def repair(self, cut_us: int, go_on: Callable[[], None]) -> Repair:
        model, recipe = self._deployment.model, self._recipe
        training_set = self._training_set(cut_us)
        champion = self._rival()
        stretch = self._stretch(training_set, champion)
        lack = self._lack(training_set, stretch, champion)
        if lack is not None:
            raise Misuse(f"repair of {model.name!r}: {lack}")
        candidate = recipe.fit(training_set, stretch.before)
        go_on()
        manifest = self._save(training_set, self._blob)
        rival = self._rival_scores(champion, training_set, stretch)
        judged = self._registry.register(
            candidate, training_set=manifest, evaluation=self._evaluation(candidate, training_set, stretch, rival)
        )
        scores = _finite(recipe.candidate_scores(candidate, training_set, stretch.rows), judged)
        gate = self._judge(judged, scores, training_set, stretch, rival)
        self._registry.put_gate(gate)
        successor, reason = None, gate.reason
        if gate.passed:
            refit = recipe.fit(training_set, training_set.usable)
            reason = self._too_far(refit, scores, training_set, stretch) or gate.reason
            if reason == gate.reason:
                successor = self._registry.register(refit, training_set=manifest, refit_of=judged.id).id
        cap = loss_cap(model.metric, row_losses(model.metric, training_set.target[stretch.rows], scores))
        return Repair(
            candidate=judged.id,
            gate=gate,
            successor=successor,
            reason=reason,
            reference=self._reference(judged, scores, training_set, stretch, cap),
            cut_us=cut_us,
            rows=candidate.rows,
            data_hash=training_set.manifest.data_hash,
            loss_cap=cap,
        )

    def promote(self, repair: Repair, why: str) -> str | None:
        assert repair.successor is not None  # the controller promotes only what passed
        return self._registry.move(
            self._deployment.name, CHAMPION, repair.successor, gate=repair.gate, why=why
        ).previous

    def _evaluation(
        self, candidate: Fitted, training_set: TrainingSet, stretch: _Stretch, rival: Floats | None
    ) -> str | None:
        """The candidate's evaluation on the window, stored; None where nobody asks for it (a replay)."""
        if not self._evaluates:
            return None
        from trimtab.training.evaluation import evaluate, save_evaluation  # here: it loads scikit-learn

        found = evaluate(
            self._deployment.model,
            candidate,
            training_set,
            rows=stretch.rows,
            train=stretch.before,
            seed=candidate.seed,
            champion_scores=rival,
            refit=lambda rows: self._recipe.fit(training_set, rows),
        )
        return save_evaluation(found, self._blob)

    def _champion(self) -> Version | None:
        return self._registry.alias(self._deployment.name, CHAMPION)

    def _training_set(self, cut_us: int) -> TrainingSet:
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == cut_us:
            return kept[1]
        return self._data.training_set(self._deployment.model, cut_us=cut_us)

    def _rival(self) -> Version | None:
        """The version in service, where it can be compared: one of other features cannot answer today's questions.

        Then a candidate has no rival, as at the first time: whoever changed the definitions chose to replace it.
        """
        champion = self._champion()
        return champion if champion is None or champion.features == self._deployment.model.features.hash else None

    def _stretch(self, training_set: TrainingSet, champion: Version | None) -> _Stretch:
        """The newest closed days that have labels, as far as the champion has not learnt from them."""
        wait_us = training_set.manifest.wait_us
        at_us, usable = training_set.at_us, training_set.usable
        labelled = at_us[usable & (at_us < _closed_until(training_set.manifest.cut_us, wait_us))]
        end_us = _closed_until(training_set.manifest.cut_us, wait_us)
        if labelled.size:
            end_us = int(labelled.max()) // DAY_US * DAY_US + DAY_US
        start_us = end_us - self._deployment.gate.window_us
        if champion is not None:
            start_us = max(start_us, champion.cut_us - wait_us)
        return _Stretch(
            start_us,
            end_us,
            rows=usable & (at_us >= start_us) & (at_us < end_us),
            before=usable & (at_us + wait_us <= start_us),
        )

    def _lack(self, training_set: TrainingSet, stretch: _Stretch, champion: Version | None) -> str | None:
        """What a candidate cannot be fitted or judged without, in one sentence; None when nothing is missing."""
        labelled = training_set.at_us[training_set.usable]
        if not labelled.size:
            states = ", ".join(f"{n} {state}" for state, n in training_set.manifest.by_state.items())
            return (
                f"None of {training_set.rows} requests has a label that its wait of "
                f"{format_duration(training_set.manifest.wait_us)} has made final ({states}). Load labels, or wait."
            )
        newest = format_moment(int(labelled.max()))[:10]
        if stretch.end_us - stretch.start_us < LEAST_WINDOW_US:
            days = _days(stretch.end_us - stretch.start_us)
            seen = (
                "" if champion is None else f", the champion has learnt all that was known at {_day(champion.cut_us)}"
            )
            return (
                f"The newest labels are of {newest}{seen}: {days} to judge on, needed are {_WEEK}. "
                "Load labels, or wait for more."
            )
        before, needed = int(stretch.before.sum()), max(1, len(self._deployment.model.features.names))
        if before < needed:
            found = (
                "There are no labels to learn from" if not before else f"Only {before} labels are there to learn from"
            )
            return (
                f"{found}, final from before {_day(stretch.start_us)}, where the days to judge on begin; "
                f"needed are {needed}. Load more history, or wait."
            )
        labelled_days = np.unique(training_set.at_us[stretch.rows] // DAY_US).size
        if labelled_days < LEAST_DAYS:
            return (
                f"Only {labelled_days} of the days from {_day(stretch.start_us)} to {newest} have labels, "
                f"needed are {LEAST_DAYS}. Load more, wait, or judge on more days: tt.beats_champion(window=...)."
            )
        return None

    def _rival_scores(self, champion: Version | None, training_set: TrainingSet, stretch: _Stretch) -> Floats | None:
        """What the version in service answered on the window; None where there is none to compare with."""
        if champion is None:
            return None
        loaded = self._registry.load(champion)
        return _finite(self._recipe.champion_scores(loaded, training_set, stretch.rows), champion)

    def _judge(
        self, judged: Version, scores: Floats, training_set: TrainingSet, stretch: _Stretch, rival: Floats | None
    ) -> GateRecord:
        model, rows = self._deployment.model, stretch.rows
        return judge(
            self._deployment.gate,
            Window(stretch.start_us, stretch.end_us, training_set.at_us[rows], training_set.target[rows]),
            gate_id=self._ids("gate"),
            model=model.name,
            metric=model.metric,
            candidate=judged.id,
            candidate_scores=scores,
            champion=self.champion(),
            champion_scores=rival,
            judged_at_us=self._clock.now_us(),
            loads=self._loads(judged),
        )

    def _too_far(self, refit: Fitted, scores: Floats, training_set: TrainingSet, stretch: _Stretch) -> str | None:
        """Why a refit is not the candidate that passed; None when it is near enough."""
        metric, rows = self._deployment.model.metric, stretch.rows
        away = np.abs(self._recipe.candidate_scores(refit, training_set, rows) - scores)
        distance = float(away.mean()) / label_unit(metric, training_set.target[rows])
        allowed = refit_distance(metric)
        if distance <= allowed:
            return None
        return f"Refused: the refit scores {distance:.3f} away from its candidate, allowed {allowed}."

    def _reference(
        self, judged: Version, scores: Floats, training_set: TrainingSet, stretch: _Stretch, cap: float
    ) -> tuple[DayQuality, ...]:
        """The candidate's days on the window, with the labels that live days would have closed with."""
        model, rows = self._deployment.model, stretch.rows
        at_us = training_set.at_us[rows]
        labels = self._labels(training_set.keys.take(rows), at_us, at_us + model.label.wait_us).values
        return tuple(day_quality(model.name, model.metric, judged.id, at_us, scores, labels, cap=cap))

    def _loads(self, version: Version) -> bool:
        """Whether the stored version is read back and repeats its golden predictions."""
        try:
            self._registry.load(version)
        except Corrupt:
            return False
        return True


_WEEK = format_duration(LEAST_WINDOW_US)


class _Stretch(msgspec.Struct, frozen=True, eq=False):
    """Where a candidate is judged, and on what it is fitted for that."""

    start_us: int
    end_us: int
    rows: NDArray[np.bool_]  # of the training set: labelled ones of the window
    before: Rows  # those whose labels were final when the window began


def _closed_until(cut_us: int, wait_us: int) -> int:
    return (cut_us - wait_us) // DAY_US * DAY_US


def _days(span_us: int) -> str:
    return f"{max(0, span_us // DAY_US)}d"


def _day(at_us: int) -> str:
    return format_moment(at_us)[:10]


def _finite(scores: Floats, version: Version) -> Floats:
    """Scores that can be compared.

    Raises:
        Misuse: Some are no number.
    """
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise Misuse(f"gate: {version.name} answers {bad} of {len(scores)} rows with no finite number. Mend its model.")
    return scores
