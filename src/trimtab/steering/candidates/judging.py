"""How a candidate is judged: against whom, and on which days."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from trimtab.core.clock import Clock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.ids import Ids
from trimtab.core.records import GateCheck, GateRecord
from trimtab.core.time import DAY_US
from trimtab.registry import Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.stats.metrics.lists import unit_losses
from trimtab.stats.metrics.loss_names import CLASS_LOSSES
from trimtab.steering.candidates.comparison_targets import Answered
from trimtab.steering.candidates.plans import Made, Plan, of_window
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.steering.candidates.shadowing import compared_days
from trimtab.steering.candidates.stored import address_of_rows, address_of_scores, address_of_set
from trimtab.steering.candidates.windows import Stretch
from trimtab.steering.definitions import Deployment
from trimtab.steering.gate.gate import judge
from trimtab.steering.gate.repeated_comparisons import Judgement, comparisons_of, stricter
from trimtab.steering.gate.scales import label_unit, loss_cap, mean_distance, refit_distance
from trimtab.steering.gate.slices import parts_of
from trimtab.steering.gate.version_checks import Proving, fast_enough, loads, loads_in_fresh_process
from trimtab.steering.gate.window import Window
from trimtab.steering.loop_state import PairedDay
from trimtab.training.data.sets import TrainingSet
from trimtab.training.judge.baselines import baseline_scores

_STEADIER = "It learns single rows by heart: take a smaller model (fewer or smaller trees), or load more rows."


class Case(msgspec.Struct, frozen=True, eq=False):
    """The rows that a candidate is judged on, and who answers against it."""

    training_set: TrainingSet
    window: Stretch
    answered: Answered
    choices: int = 1  # of how many candidates and windows this pair proves most
    folds: tuple[tuple[Rows, Rows], ...] = ()  # what each fit answers and has learnt from; none: the window, by one fit
    plan: str = ""  # in words, where it is not the usual one
    refreshes: bool = False  # the recipe in service, refitted for no other reason than that time has passed


class Side(msgspec.Struct, frozen=True, eq=False):
    """The version that is put forward, on the rows of a window."""

    judged: Version  # who answered
    scores: Floats
    sample: Columns  # the features that it was given
    tried: Version  # who is to go in service: the one that answered, or its refit
    said: str = ""  # who answered, where that is not simply the version as it is


class Judge:
    """Holds candidates of one deployment against its rules.

    Args:
        deployment: The rules.
        registry: Has the champion, and earlier gate records.
        clock: The time of judging.
        ids: Names gate records.
        proving: How a candidate is tried in a new process and timed; left out (in virtual time), it is not.
    """

    def __init__(
        self,
        deployment: Deployment,
        registry: Registry,
        *,
        clock: Clock,
        ids: Ids,
        proving: Proving | None = None,
    ) -> None:
        self._deployment = deployment
        self._registry = registry
        self._clock = clock
        self._ids = ids
        self._proving = proving

    def best(
        self, training_set: TrainingSet, plan: Plan, made: Sequence[Made], answered: Answered
    ) -> tuple[Made, Stretch]:
        """The source and the window that prove most; the window's `before` is what that candidate has learnt."""
        metric, rules = self._deployment.model.metric, self._deployment.gate

        def proof(pair: tuple[Made, Stretch]) -> float:
            one, window = pair
            units = _window(training_set, window)
            losses, _ = units.losses(metric, of_window(one.scores, plan, window))
            if answered.scores is None:
                return float(losses.mean())
            against, rows = units.losses(metric, of_window(answered.scores, plan, window))
            level = stricter(rules, 1, plan.choices).level
            return paired_mean_bound(losses - against, units.at_us[rows] // DAY_US, level=level, side="upper").high

        windows = plan.windows if answered.scores is not None else plan.windows[:1]
        numbers = [one for one in made if np.isfinite(one.scores).all()] or made[:1]  # `finite` refuses it
        pairs = [(one, window) for one in numbers for window in windows]
        best, window = pairs[0] if len(pairs) == 1 else min(pairs, key=proof)
        return best, msgspec.structs.replace(window, before=plan.learnt(best.source, plan.folds[0]))

    def depends_on(self, side: Side, case: Case) -> list[object]:
        """All that a judgement depends on, as JSON values."""
        rows = address_of_rows(case.window.rows)
        against = [self._champion(), address_of_scores(case.answered.scores), rows, self._tries(side.judged, case)]
        against += [] if case.choices == 1 else [case.choices, case.plan]
        against += ["refreshes"] if case.refreshes else []
        rules = msgspec.to_builtins(self._deployment.gate)
        return [rules, side.judged.id, address_of_set(case.training_set), *against]

    def record(self, side: Side, case: Case) -> GateRecord:
        """The evidence for or against letting a candidate take over."""
        model, rows, rules = self._deployment.model, case.window.rows, self._deployment.gate
        trials = self._trials(side.tried, side.sample)
        return judge(
            rules,
            _window(case.training_set, case.window),
            gate_id=self._ids("gate"),
            model=model.name,
            metric=model.metric,
            candidate=side.judged.id,
            candidate_scores=side.scores,
            champion=self._champion(),
            champion_scores=case.answered.scores,
            judged_at_us=self._clock.now_us(),
            loads=trials[0].verdict == "held",
            parts=parts_of(rules.slices, model, case.training_set, rows),
            trials=trials,
            rival=case.answered.said,
            stand_in=side.said,
            baselines=self._baselines(case),
            tries=self._tries(side.judged, case),
            choices=case.choices,
            folds=max(1, len(case.folds)),
            plan=case.plan,
            refreshes=case.refreshes,
        )

    def paired_days(self, scores: Floats, case: Case) -> tuple[PairedDay, ...]:
        """Candidate and champion by day on what was judged; none where nothing was compared."""
        if case.answered.scores is None:
            return ()
        window = _window(case.training_set, case.window)
        return compared_days(self._deployment.model.metric, window, scores, case.answered.scores)

    def too_far(self, again: Floats, scores: Floats, case: Case) -> str | None:
        """Why a refit, which scores `again`, is not the candidate that passed; None when it is near enough.

        The larger the change that is repaired, the further two fits of the same recipe may be apart: at most the
        declared share (half) of the candidate's distance from the champion, where that is more than the bound.  # D0177
        """
        metric, rows = self._deployment.model.metric, case.window.rows
        lists, unit = case.training_set.lists_of(rows), label_unit(metric, case.training_set.target[rows])
        rules = self._deployment.gate
        distance = mean_distance(again, scores, lists) / unit
        allowed = refit_distance(metric) if rules.refit_distance is msgspec.UNSET else rules.refit_distance
        if case.answered.scores is not None:
            moved = mean_distance(case.answered.scores, scores, lists) / unit
            allowed = max(allowed, rules.share_of_change * moved)
        if distance <= allowed:
            return None
        said = f"Refused: the refit scores {distance:.3f} away from its candidate, allowed {allowed:.3g}."
        by_heart = metric in CLASS_LOSSES or self._deployment.model.task == "ranking"
        return f"{said} {_STEADIER}" if by_heart else said

    def cap(self, scores: Floats, case: Case) -> float:
        """The most that a row, of a ranking a list, may cost a day."""
        metric, rows = self._deployment.model.metric, case.window.rows
        target, lists = case.training_set.target[rows], case.training_set.lists_of(rows)
        return loss_cap(metric, unit_losses(metric, target, scores, lists)[0])

    def _baselines(self, case: Case) -> dict[str, Floats]:
        """What each baseline that the rules name answers to the window's rows; none that could not be had."""
        model, rules, rows = self._deployment.model, self._deployment.gate, case.window.rows
        parts = [
            (judged & rows, baseline_scores(model, case.training_set, np.flatnonzero(judged & rows), learnt, seed=0))
            for judged, learnt in case.folds or ((rows, case.window.before),)
        ]
        found: dict[str, Floats] = {}
        for name in parts[0][1]:
            answers = [(where, scores[name]) for where, scores in parts]
            if not rules.compares(name) or any(scores is None for _, scores in answers):
                continue
            whole = [(where[rows], scores) for where, scores in answers if scores is not None]
            found[name] = np.empty((int(rows.sum()), *whole[0][1].shape[1:]))
            for where, scores in whole:
                found[name][where] = scores
        return found

    def _champion(self) -> str | None:
        version = self._registry.alias(self._deployment.name, CHAMPION)
        return None if version is None else version.id

    def _tries(self, judged: Version, case: Case) -> float:
        """The number of this judgement among those that were made on its days: 1 and more."""
        asked = Judgement(judged.recipe, case.window.start_us, case.window.end_us)
        return comparisons_of(self._registry, self._deployment.name, asked)

    def _trials(self, judged: Version, sample: Columns) -> list[GateCheck]:
        """What the stored candidate shows by itself, whether it loads first."""
        limit_us = self._deployment.gate.latency_us
        loaded, read_back = loads(self._registry, judged)
        found = [read_back, loads_in_fresh_process(self._proving, judged)]
        if limit_us is not None:
            found.append(fast_enough(self._proving, loaded, sample, limit_us))
        return found


def finite(scores: Floats, version: Version) -> Floats:
    """Scores that can be compared.

    Raises:
        Misuse: Some are no number.
    """
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise Misuse(
            f"gate: {version.name} answers {bad} of {len(scores)} rows with no finite number. Repair its model."
        )
    return scores


def _window(training_set: TrainingSet, stretch: Stretch) -> Window:
    """The rows of some days as a gate judges them."""
    rows = stretch.rows
    where = (training_set.begun_us[rows], training_set.target[rows], training_set.lists_of(rows))
    return Window(stretch.start_us, stretch.end_us, *where)
