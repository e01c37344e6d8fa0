"""Judge a candidate by the rules of its deployment, and limit how far its refit on more data may differ from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.records import GateCheck, GateRecord
from trimtab.core.time import DAY_US
from trimtab.monitoring.quality.quality import KIND, Watch
from trimtab.registry import Version
from trimtab.registry.protection import CHAMPION
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.lists import unit_losses
from trimtab.stats.metrics.loss_names import CLASS_LOSSES
from trimtab.steering.candidates.comparison_targets import TargetScores
from trimtab.steering.candidates.plans import Made, Plan, of_window
from trimtab.steering.candidates.ports import Baselines, DeploymentParts
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.steering.candidates.stored import address_of_rows, address_of_scores, address_of_set
from trimtab.steering.candidates.windows import JudgingWindow, excluded_days
from trimtab.steering.gate.checks import rows_not_finite
from trimtab.steering.gate.gate import judge
from trimtab.steering.gate.repeated_comparisons import Judgement, comparisons_of, stricter
from trimtab.steering.gate.scales import label_unit, loss_cap, mean_distance, refit_distance
from trimtab.steering.gate.shadow import compared_days
from trimtab.steering.gate.slices import parts_of
from trimtab.steering.gate.version_checks import Proving, fast_enough, loads, loads_in_fresh_process
from trimtab.steering.gate.window import Window
from trimtab.steering.loop_state import PairedDay
from trimtab.store.ports import read_record
from trimtab.training.data.sets import TrainingSet
from trimtab.training.judge.baselines import baseline_scores

_STEADIER = "The model memorises single rows: make it smaller (fewer or smaller trees), or load more rows."


class Case(msgspec.Struct, frozen=True, eq=False):
    """The rows on which a candidate is judged, and the scores of the version with which it is compared."""

    training_set: TrainingSet
    window: JudgingWindow
    answered: TargetScores
    choices: int = 1  # from how many pairs of candidate and window the best was chosen
    folds: tuple[
        tuple[Rows, Rows], ...
    ] = ()  # for each fit, the rows that it scores and the rows that it learnt from; empty: there is one fit
    plan: str = ""  # a sentence that says which rows were learnt from and judged; "" if there was no choice of rows
    # whether the candidate is a scheduled refit: it has the recipe in service (definition and way of fitting), and no
    # change of the data is known
    refreshes: bool = False


class Side(msgspec.Struct, frozen=True, eq=False):
    """The version to judge, with its scores of the rows of a window."""

    judged: Version  # the version that gave the scores
    scores: Floats
    sample: Columns  # the features from which the scores were computed
    tried: Version  # the version that is loaded and timed: a new candidate itself, or the stored version to promote
    note: str = ""  # if another version than `tried` gave the scores: a sentence that says which


class Judge:
    """Judges candidates of one deployment by its rules.

    Args:
        proving: Loads candidates in a new process and measures their time; None in a replay, which does neither.
        baselines: Computes the scores of baselines.
    """

    def __init__(
        self, parts: DeploymentParts, proving: Proving | None = None, baselines: Baselines = baseline_scores
    ) -> None:
        self._parts = parts
        self._deployment = parts.deployment
        self._rules = parts.deployment.gate
        self._proving = proving
        self._scores_of_baselines = baselines
        # hashes of the rows that were judged last, and the baselines' scores of these rows
        self._kept: tuple[list[object], dict[str, Floats]] = ([], {})

    def best(
        self, training_set: TrainingSet, plan: Plan, made: Sequence[Made], answered: TargetScores
    ) -> tuple[Made, JudgingWindow]:
        """Return the candidate and the window with the strongest evidence.

        They have the smallest upper bound of the mean loss minus the target's or, without a target, the smallest mean
        loss. In the returned window, `before` has the rows that this candidate learnt from.
        """
        level = stricter(self._rules, 1, plan.choices).level

        def proof(pair: tuple[Made, JudgingWindow]) -> float:
            one, window = pair
            scores = of_window(one.scores, plan, window)
            if answered.scores is None:
                units = _gate_window(training_set, window)
                return float(units.losses(self._deployment.model.metric, scores)[0].mean())
            case = Case(training_set, window, TargetScores(of_window(answered.scores, plan, window), ""))
            return self.difference(case, scores, level, "upper").high

        windows = plan.windows if answered.scores is not None else plan.windows[:1]
        # candidates with a score that is not finite are left out; if none remains, `finite` reports it
        numbers = [one for one in made if np.isfinite(one.scores).all()] or made[:1]
        pairs = [(one, window) for one in numbers for window in windows]
        best, window = pairs[0] if len(pairs) == 1 else min(pairs, key=proof)
        return best, msgspec.structs.replace(window, before=plan.learnt(best.source, plan.folds[0]))

    def difference(self, case: Case, scores: Floats, level: float, side: Literal["both", "upper"] = "both") -> Interval:
        """Return the interval of the mean loss of some scores, minus that of the scores in `case.answered`."""
        assert case.answered.scores is not None
        units, metric = _gate_window(case.training_set, case.window), self._deployment.model.metric
        (losses, rows), (others, _) = units.losses(metric, scores), units.losses(metric, case.answered.scores)
        return paired_mean_bound(losses - others, units.at_us[rows] // DAY_US, level=level, side=side)

    def depends_on(self, side: Side, case: Case) -> list[object]:
        """Return everything that the result of a judgement depends on, as JSON values."""
        rows = address_of_rows(case.window.rows)
        against = [self._champion(), address_of_scores(case.answered.scores), rows, self._comparisons(side, case)]
        against += [] if case.choices == 1 else [case.choices, case.plan]
        against += ["refreshes"] if case.refreshes else []
        return [msgspec.to_builtins(self._rules), side.judged.id, address_of_set(case.training_set), *against]

    def record(self, side: Side, case: Case) -> GateRecord:
        """Judge a candidate, and return the gate record (the result of all checks)."""
        own_checks = self._own_checks(side)
        return self._judged(
            case,
            side.scores,
            gate_id=self._parts.ids("gate"),
            candidate=side.judged.id,
            loads=own_checks[0].verdict == "held",
            own_checks=own_checks,
            candidate_note=side.note,
            comparisons=self._comparisons(side, case),
        )

    def would_pass(self, scores: Floats, case: Case) -> bool:
        """Return whether a candidate with these scores would pass, if it can be loaded and is fast enough."""
        return self._judged(case, scores, gate_id="", candidate="", loads=True).passed

    def _judged(self, case: Case, scores: Floats, **about: Any) -> GateRecord:
        model, rows = self._deployment.model, case.window.rows
        return judge(
            self._rules,
            _gate_window(case.training_set, case.window),
            model=model.name,
            metric=model.metric,
            candidate_scores=scores,
            champion=self._champion(),
            champion_scores=case.answered.scores,
            judged_at_us=self._parts.clock.now_us(),
            parts=parts_of(self._rules.slices, model, case.training_set, rows),
            champion_note=case.answered.note,
            baselines=self.baselines(case),
            choices=case.choices,
            folds=max(1, len(case.folds)),
            plan=case.plan,
            left_out=excluded_days(case.training_set, model.name, case.window.start_us).strip(),
            refreshes=case.refreshes,
            **about,
        )

    def paired_days(self, scores: Floats, case: Case) -> tuple[PairedDay, ...]:
        """Return the comparison of candidate and champion by day; empty if there was no comparison."""
        if case.answered.scores is None:
            return ()
        window = _gate_window(case.training_set, case.window)
        return compared_days(self._deployment.model.metric, window, scores, case.answered.scores)

    def too_far(self, again: Floats, scores: Floats, case: Case) -> str | None:
        """Return why a refit is refused: its scores (`again`) differ too much from the candidate's. None: they do not.

        The limit is a declared distance or, if that is larger, a declared share (by default half) of the distance
        between candidate and champion. So after a large change of the data, two fits may differ more. # D0177
        """
        metric, rows = self._deployment.model.metric, case.window.rows
        lists, unit = case.training_set.lists_of(rows), label_unit(metric, case.training_set.target[rows])
        distance = mean_distance(again, scores, lists) / unit
        declared = self._rules.refit_distance
        allowed = refit_distance(metric) if declared is msgspec.UNSET else declared
        if case.answered.scores is not None:
            moved = mean_distance(case.answered.scores, scores, lists) / unit
            allowed = max(allowed, self._rules.share_of_change * moved)
        if distance <= allowed:
            return None
        reason = (
            f"Refused: the scores of the refit and its candidate differ by {distance:.3f}; {allowed:.3g} is allowed."
        )
        by_heart = metric in CLASS_LOSSES or self._deployment.model.task == "ranking"
        return f"{reason} {_STEADIER}" if by_heart else reason

    def cap(self, scores: Floats, case: Case) -> float:
        """Return the cap for the loss of a row (in a ranking, a list): in daily sums, larger losses count as this."""
        model, rows = self._deployment.model, case.window.rows
        target, lists = case.training_set.target[rows], case.training_set.lists_of(rows)
        watch = read_record(self._parts.catalog, KIND, model.name, Watch)
        healthy = watch is not None and not watch.alarming and not watch.slice_onsets
        before = watch.loss_cap if watch is not None and healthy and watch.metric == model.metric else None
        return loss_cap(model.metric, unit_losses(model.metric, target, scores, lists)[0], before)

    def baselines(self, case: Case) -> dict[str, Floats]:
        """Return the baselines' scores of the window's rows.

        Baselines that the rules leave out, or that cannot score all of these rows, are not included. The result is kept
        until other rows are judged.
        """
        rows = case.window.rows
        folds = case.folds or ((rows, case.window.before),)
        masks = [address_of_rows(mask) for mask in (rows, *(mask for fold in folds for mask in fold))]
        address = [address_of_set(case.training_set), *masks]
        if self._rules.baselines is False:
            return {}
        if address != self._kept[0]:
            self._kept = (address, self._baselines(case.training_set, rows, folds))
        return self._kept[1]

    def _baselines(
        self, training_set: TrainingSet, rows: Rows, folds: Sequence[tuple[Rows, Rows]]
    ) -> dict[str, Floats]:
        model, scores_of = self._deployment.model, self._scores_of_baselines
        parts = [
            (judged & rows, scores_of(model, training_set, np.flatnonzero(judged & rows), learnt, seed=0))
            for judged, learnt in folds
        ]
        found: dict[str, Floats] = {}
        for name in parts[0][1]:
            answers = [(where[rows], one.scores) for where, known in parts if (one := known[name]) is not None]
            if not self._rules.compares(name) or len(answers) < len(parts):
                continue
            found[name] = np.empty((int(rows.sum()), *answers[0][1].shape[1:]))
            for where, scores in answers:
                found[name][where] = scores
        return found

    def _champion(self) -> str | None:
        version = self._parts.registry.alias(self._deployment.name, CHAMPION)
        return None if version is None else version.id

    def _comparisons(self, side: Side, case: Case) -> float:
        """Return how many judgements were made on these days, this one included.

        An earlier judgement counts by the share of these days that it used; see `number_of`.
        """
        judgement = Judgement(side.judged.recipe, case.window.start_us, case.window.end_us)
        return comparisons_of(self._parts.registry, self._deployment.name, judgement)

    def _own_checks(self, side: Side) -> list[GateCheck]:
        """Check that the version itself can be loaded (the first result is "loads"), and that it is fast enough."""
        loaded, read_back = loads(self._parts.registry, side.tried)
        found = [read_back, loads_in_fresh_process(self._proving, side.tried)]
        if self._rules.latency_us is not None:
            found.append(fast_enough(self._proving, loaded, side.sample, self._rules.latency_us))
        return found


def among_known(scores: Floats, other: Floats, labels: Floats) -> tuple[Rows, Floats]:
    """Return which rows have a class that another version knows, and the scores of these rows.

    The other version knows a class if it gives it a probability above 0 in some row. The scores are probabilities given
    that the class is one of these. Otherwise a version that knows more classes would have a higher loss on these rows
    even if its scores were right, because it gives a part of the probability to the other classes.
    """
    if other.ndim == 1:
        return np.ones(len(labels), bool), scores
    known: Rows = np.any(other != 0.0, axis=0)
    if known.all():
        return np.ones(len(labels), bool), scores
    rows: Rows = known[labels.astype(np.int64)]
    found = scores[rows] * known
    return rows, found / np.maximum(found.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def with_known_labels(case: Case, scores: Floats, adds_classes: Callable[[], bool]) -> tuple[Case, Floats]:
    """Leave out rows with labels of classes to which the compared version always gives a probability of 0.

    With these rows, any candidate would be proved better, because their loss is huge. If the version does not know the
    classes because they were declared later, the candidate only must not be provably worse on the other rows. Its
    scores of these rows are those of `among_known`.
    """
    answers, rows = case.answered.scores, case.window.rows
    if answers is None:
        return case, scores
    known, found = among_known(scores, answers, case.training_set.target[rows])
    if known.all() or not known.any():
        return case, found if known.all() else scores
    kept = rows.copy()
    kept[rows] = known
    window, adds = msgspec.structs.replace(case.window, rows=kept), adds_classes()
    plan = f"{int((~known).sum())} rows with labels of classes that the compared version does not know are left out. "
    plan += "On the others, no proof that the candidate is better is required. " if adds else ""
    answered = TargetScores(answers[known], case.answered.note)
    values = {"window": window, "answered": answered, "plan": (plan + case.plan).strip()}
    return msgspec.structs.replace(case, **values, refreshes=case.refreshes or adds), found


def finite(scores: Floats, version: Version) -> Floats:
    """Return the scores, after a check that all are finite.

    Raises:
        Misuse: Some scores are not finite numbers.
    """
    bad = rows_not_finite(scores)
    if bad:
        raise Misuse(f"gate: {version.name} gives no finite number for {bad} of {len(scores)} rows. Repair its model.")
    return scores


def _gate_window(training_set: TrainingSet, window: JudgingWindow) -> Window:
    """Return the rows of a window in the form that a gate takes."""
    rows = window.rows
    where = (training_set.begun_us[rows], training_set.target[rows], training_set.lists_of(rows))
    return Window(window.start_us, window.end_us, *where)
