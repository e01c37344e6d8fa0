"""Evaluate a fitted model on rows that it was not fitted on, and compare it with baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US
from trimtab.features.labels import LABELLED, LATE, MISSING, PENDING, UNLISTED
from trimtab.report import Picture
from trimtab.run.progress import listening, report
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.choices import Choices, compare_choices
from trimtab.stats.metrics.loss_names import top_of
from trimtab.stats.metrics.metric_value import MetricValue
from trimtab.stats.metrics.metrics import score_metrics
from trimtab.stats.metrics.multiclass import ClassMetrics, confusion_table, metrics_by_class, top_class
from trimtab.stats.metrics.ranking import ranking_metrics
from trimtab.stats.metrics.thresholds import Thresholds, choose_threshold
from trimtab.stats.recalibration import RecalibrationKind
from trimtab.stats.scores import CalibrationBin, calibration_curve, expected_calibration_error
from trimtab.store.ports import Blob
from trimtab.training.data.leakage import Leak, as_allowed, find_leaks
from trimtab.training.data.sets import TrainingSet
from trimtab.training.data.weights import Balance, balance_of
from trimtab.training.definitions import ClassCosts, Costs, GivenCosts, Metric, Model, checked_costs, checked_slices
from trimtab.training.fitting.artifact import uncalibrated_scorer
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.score_checks import checked_scores, fitted_values
from trimtab.training.judge.backtest import FOLDS, Fold, backtest
from trimtab.training.judge.baselines import JudgedBaseline, baselines
from trimtab.training.judge.evaluation_plots import calibration_picture, metric_by_day, metric_by_week
from trimtab.training.judge.importance import Permuted, permuted
from trimtab.training.judge.influence import Influence, influences
from trimtab.training.judge.learning_curve import SHARES, CurvePoint, learning_curve
from trimtab.training.judge.parts import (
    Day,
    Judged,
    Month,
    Slice,
    Week,
    days_of,
    mean_interval,
    months_of,
    slices_of,
    weeks_of,
)
from trimtab.training.judge.train_test_overlap import Sides, group_leaks, group_slices, repeated_rows

_REPEATS = (50, 200)  # the smallest and the largest number of bootstrap draws
# rows times draws, within `_REPEATS`: above 200,000 rows there are fewer draws, so a million rows take about 10 s
_DRAWN = 40_000_000
_PARTS = 4  # the steps of an evaluation, apart from fits: metrics, importance, contributions, baselines


class Evaluation(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The evaluation of a model on a holdout. `value` is the model's own metric; smaller is better."""

    format: Literal[1] = 1
    model: str
    artifact: str
    metric: Metric
    rows: int
    start_us: int  # the time of the first row
    end_us: int  # the time of the last row
    value: float
    interval: Interval | None  # None: there are fewer than two blocks
    block: Literal["day", "week", "list"]
    auc: float | None  # for several classes, the mean AUC of each class against all others
    auc_interval: Interval | None
    calibration_error: float | None
    calibration: tuple[CalibrationBin, ...]  # for several classes, the calibration of the likeliest class
    months: tuple[Month, ...]
    # The metric of each baseline: "constant", "last_value", "seasonal_naive", "last_year" and "linear"; for a ranking
    # "random", "as_shown", "best_feature" and "linear"; and "champion", if its scores were given. None: the baseline
    # cannot be computed.
    baselines: dict[str, float | None]
    importance: dict[str, float]
    importance_kind: Literal["library", "permutation"]
    figures: tuple[MetricValue, ...] = ()  # all metrics for models with this task, beginning with the model's own
    classes: tuple[ClassMetrics, ...] = ()  # for several classes, the metrics of each class against all others
    # for each true class, how many of its rows have each predicted class (the likeliest one); in the order of `classes`
    confusion: tuple[tuple[int, ...], ...] = ()
    weeks: tuple[Week, ...] = ()
    slices: tuple[Slice, ...] = ()
    recalibration: RecalibrationKind | None = None  # how the model is calibrated
    raw_calibration: tuple[CalibrationBin, ...] = ()  # the calibration of the scores before they were corrected
    raw_calibration_error: float | None = None
    # how much the metric rises if one feature is shuffled, or all features of one view
    permuted: tuple[Permuted, ...] = ()
    learning_curve: tuple[CurvePoint, ...] = ()  # the last point is the model itself
    thresholds: Thresholds | None = None  # only if there are costs
    choices: Choices | None = None  # only if there are costs, and several classes
    left_out: dict[str, int] = {}  # for each reason, how many rows of the holdout were not judged
    leaks: tuple[Leak, ...] | None = None  # possible leaks; None: they were not searched for
    balance: tuple[Balance, ...] = ()  # the rows of each class, in training and in the holdout
    folds: tuple[Fold, ...] = ()  # the backtest on the rows before the holdout
    influences: tuple[Influence, ...] = ()  # SHAP values on the holdout, beginning with the largest
    no_influences: str = ""  # why there are no SHAP values; "": there are some
    # the baselines that could be computed, each with its metric and the columns of its key (see `Baseline.by`)
    judged_baselines: dict[str, JudgedBaseline] = {}
    days: tuple[Day, ...] = ()  # the metric by day; empty: there are more than 400 days

    def plot(self) -> Picture:
        """Return a picture of the evaluation: its calibration, where there are probabilities, and its metric by day.

        Raises:
            Misuse: There is nothing to draw.
        """
        plots, metric = [], str(self.metric)
        if self.calibration:
            plots.append(calibration_picture(self.model, self.calibration, self.raw_calibration))
        if self.days:
            plots.append(metric_by_day(metric, self.days))
        elif self.weeks:  # there are many days, or the evaluation was made before days were stored
            plots.append(metric_by_week(metric, self.weeks))
        return Picture(tuple(plots))


def evaluate(
    model: Model,
    fitted: Fitted,
    training_set: TrainingSet,
    *,
    rows: NDArray[np.bool_],
    train: NDArray[np.bool_],
    seed: int = 0,
    block: Literal["day", "week"] = "day",
    slices: Sequence[str] | None = None,
    costs: GivenCosts | None = None,
    champion_scores: NDArray[np.float64] | None = None,
    refit: Callable[[NDArray[np.bool_]], Fitted] | None = None,
) -> Evaluation:
    """Evaluate a fitted model on the rows `rows` of a training set.

    Args:
        model: The model's declaration. The linear baseline uses its features.
        rows: The holdout, as a boolean array. Rows without a final label, or with a label that is not a number, are
            left out.
        train: The training rows, as a boolean array, for the baselines.
        seed: The seed of the bootstrap and of shuffles.
        block: The blocks for the intervals: rows of one day or week may depend on each other. In a ranking, lists are
            blocks.
        slices: Columns and features whose values are evaluated separately; by default those of the model.
        costs: {"false_positive": 1, "false_negative": 5} to find the best threshold; for several classes the costs of
            wrong predictions by true class. By default those of the model.
        champion_scores: The scores of the version in service for the usable rows of the holdout, in row order.
        refit: Fits the model on the rows in a boolean array. If given, a learning curve and a backtest are computed.

    Raises:
        Misuse: The holdout has no labelled row, or a prediction, a slice or a cost is invalid.
    """
    usable = np.flatnonzero(training_set.usable & rows)
    finite = np.isfinite(training_set.target[usable])
    kept = finite & training_set.informative[usable]
    chosen = usable[kept]
    left_out = _left_out(training_set, rows, int((~finite).sum()), int((finite & ~kept).sum()))
    if not chosen.size:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "it has no rows"
        raise Misuse(
            f"evaluate {model.name!r}: no labelled row in the holdout ({why}). Widen the holdout, or wait for labels."
        )
    if champion_scores is not None and len(champion_scores) != usable.size:
        raise Misuse(
            f"evaluate {model.name!r}: got {len(champion_scores)} scores of the champion for {usable.size} usable rows."
        )
    _check_labels(model, training_set.target[chosen])
    columns = model.slices if slices is None else checked_slices(model.name, model.request, model.features, slices)
    binary = model.task == "binary"
    priced = model.costs if costs is None else checked_costs(model.name, costs, binary=binary, label=model.label)
    values = training_set.features.values.take(chosen)
    judged = _judged(model, training_set, chosen, fitted)
    labels, scores, at_us = judged.labels, judged.scores, judged.at_us
    blocks = at_us // (DAY_US if block == "day" else 7 * DAY_US)
    # each draw sorts the rows once per class, so models of eight or more classes get fewer draws
    drawn = chosen.size * max(1, len(model.label.classes) // 4)
    repeats = min(max(_DRAWN // drawn, _REPEATS[0]), _REPEATS[1])
    if judged.lists is None:
        figures = score_metrics(model.metric, labels, scores, blocks, repeats=repeats, seed=seed)
    else:
        top = top_of(model.metric) or 1
        figures = ranking_metrics(labels, scores, judged.lists, top=top, repeats=repeats, seed=seed)
    steps = _Steps(_PARTS + (0 if refit is None else len(SHARES) + FOLDS))
    steps.one_more()
    several = model.task == "multiclass"
    area = next((figure for figure in figures if figure.name in ("auc", "macro_auc")), None)
    predicted, observed = top_class(labels, scores) if several else (scores, labels)
    shuffled = permuted(model, fitted, training_set, chosen, seed=seed)
    steps.one_more()
    moved, why_none = influences(fitted, training_set, chosen, seed=seed)
    steps.one_more()
    raw = _uncalibrated(fitted, values, labels) if fitted.artifact.recalibration is not None else None
    sides = Sides(np.flatnonzero(training_set.usable & train & np.isfinite(training_set.target)), chosen)
    grouped = group_slices(model, training_set, sides, judged)
    known = baselines(
        model,
        training_set,
        chosen,
        train,
        judged=judged,
        champion_scores=None if champion_scores is None else champion_scores[kept],
        seed=seed,
    )
    steps.one_more()
    again = None if refit is None else steps.each(refit)
    return Evaluation(
        model=model.name,
        artifact=fitted.digest,
        metric=model.metric,
        rows=int(chosen.size),
        start_us=int(at_us.min()),
        end_us=int(at_us.max()),
        value=float(judged.losses()[0].mean()),
        interval=figures[0].interval,
        block=block if judged.lists is None else "list",
        auc=None if area is None else area.value,
        auc_interval=None if area is None else area.interval,
        calibration_error=expected_calibration_error(observed, predicted) if binary or several else None,
        calibration=tuple(calibration_curve(observed, predicted)) if binary or several else (),
        months=months_of(judged),
        baselines={name: None if one is None else one.value for name, one in known.items()},
        judged_baselines={name: one for name, one in known.items() if one is not None},
        importance=_importance(fitted, shuffled),
        importance_kind="permutation" if fitted.importance is None else "library",
        figures=figures,
        classes=metrics_by_class(model.label.class_names, labels, scores, blocks, repeats=repeats, seed=seed)
        if several
        else (),
        confusion=tuple(tuple(row) for row in confusion_table(labels, scores).tolist()) if several else (),
        weeks=weeks_of(judged),
        days=days_of(judged),
        slices=(*slices_of(judged, model, training_set, chosen, columns), *grouped),
        recalibration=None if fitted.artifact.recalibration is None else fitted.artifact.recalibration.kind,
        raw_calibration=() if raw is None else tuple(calibration_curve(*raw)),
        raw_calibration_error=None if raw is None else expected_calibration_error(*raw),
        permuted=shuffled,
        learning_curve=() if again is None else _curve(model, training_set, chosen, train, again, judged, fitted.rows),
        thresholds=None
        if not isinstance(priced, Costs)
        else choose_threshold(
            labels,
            scores,
            blocks,
            false_positive=priced.false_positive,
            false_negative=priced.false_negative,
            seed=seed,
        ),
        choices=compare_choices(labels, scores, priced.rows, blocks, seed=seed)
        if isinstance(priced, ClassCosts)
        else None,
        left_out=left_out,
        leaks=(
            *find_leaks(model, training_set, sides.learnt),
            *as_allowed(model, group_leaks(model, training_set, sides, grouped)),
            *as_allowed(model, repeated_rows(model, fitted, training_set, sides)),
        ),
        balance=balance_of(model, training_set, train, labels),
        folds=()
        if again is None
        else backtest(again, lambda past, numbers: _judged(model, training_set, numbers, past), training_set, train),
        influences=moved,
        no_influences=why_none,
    )


class _Steps:
    """The progress of an evaluation. Each part and each fit counts as one step."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._done = 0

    def one_more(self) -> None:
        self._done += 1
        report(self._done, self._parts)

    def each(self, refit: Callable[[NDArray[np.bool_]], Fitted]) -> Callable[[NDArray[np.bool_]], Fitted]:
        """Return a function that calls `refit` and counts the call as a step of the evaluation."""

        def counted(rows: NDArray[np.bool_]) -> Fitted:
            try:
                with listening(None):  # the fit's own progress must not be taken for that of the evaluation
                    return refit(rows)
            finally:  # a fit that fails also counts as a step
                self.one_more()

        return counted


def save_evaluation(evaluation: Evaluation, blob: Blob) -> str:
    """Store an evaluation and return its hash."""
    return blob.put(msgspec.json.encode(evaluation))


def load_evaluation(digest: str, blob: Blob) -> Evaluation:
    """Load a stored evaluation.

    Raises:
        NotFound: No evaluation with this hash is stored.
        Corrupt: The evaluation's blob is damaged.
    """
    try:
        return msgspec.json.decode(blob.get(digest), type=Evaluation)
    except msgspec.DecodeError as error:
        raise Corrupt(f"evaluation {digest}: its blob cannot be read: {error}") from error


def _check_labels(model: Model, labels: NDArray[np.float64]) -> None:
    """Refuse labels that are invalid for the model's metric."""
    unfit = {"binary": ~np.isin(labels, (0.0, 1.0)), "count": labels < 0.0, "ranking": labels < 0.0}.get(model.task)
    if unfit is not None and unfit.any():
        needed = {"binary": "labels 0 and 1", "count": "counts of at least 0"}.get(model.task, "labels of at least 0")
        raise Misuse(
            f"evaluate {model.name!r}: metric {model.metric!r} needs {needed}; {int(unfit.sum())} of {labels.size} "
            f"labels in the holdout are something else, e.g. {labels[unfit][0]:g}. Change the label's expression."
        )


def _judged(model: Model, training_set: TrainingSet, chosen: NDArray[Any], fitted: Fitted) -> Judged:
    return Judged(
        metric=model.metric,
        binary=model.task == "binary",
        labels=training_set.target[chosen],
        scores=fitted_values(fitted, training_set.features.values.take(chosen)),
        at_us=training_set.begun_us[chosen],
        lists=training_set.lists_of(chosen) if model.task == "ranking" else None,
    )


def _left_out(training_set: TrainingSet, rows: NDArray[np.bool_], no_number: int, alike: int) -> dict[str, int]:
    """Return for each reason how many rows of the holdout are not judged.

    Reasons: the label is not final, has not arrived ("pending", "missing"), is none of the declared classes
    ("unlisted"), or no number. In a ranking also: the row is in no list, or in one with missing or only equal labels.
    """
    out = rows & ~training_set.usable
    states = training_set.labels.state[out]
    labelled = np.isin(states, (LABELLED, LATE))
    lists = training_set.lists_of(out)
    listed = labelled if lists is None else np.zeros(states.size, np.bool_)
    counts: dict[str, int] = {
        "not final": int(listed.sum()),
        "in no list": 0 if lists is None else int((labelled & (lists < 0)).sum()),
        "in lists with missing labels": 0 if lists is None else int((labelled & (lists >= 0)).sum()),
        "in lists whose labels are all equal": alike,
        "pending": int((states == PENDING).sum()),
        "missing": int((states == MISSING).sum()),
        "unlisted": int((states == UNLISTED).sum()),
        "no number": no_number,
    }
    return {reason: count for reason, count in counts.items() if count}


def _uncalibrated(fitted: Fitted, values: Any, labels: NDArray[np.float64]) -> tuple[Any, Any]:
    """Return the labels, and the scores before calibration.

    For several classes, return whether each row has its likeliest class as label, and the probability of that class.
    """
    scorer, classes = uncalibrated_scorer(fitted.artifact), len(fitted.artifact.class_names)
    scores = checked_scores(fitted.model, fitted.artifact.task, scorer, fitted.matrix(values), classes=classes)
    return top_class(labels, scores)[::-1] if classes else (labels, scores)


def _importance(fitted: Fitted, shuffled: Sequence[Permuted]) -> dict[str, float]:
    """Return the importance of each feature.

    It is the feature's share of the importances computed by the library. If the library computes none, it is the rise
    of the metric when the feature is shuffled.
    """
    if fitted.importance is None:
        return {one.name: one.rise for one in shuffled if one.features == (one.name,)}
    total = sum(fitted.importance.values()) or 1.0
    return {name: weight / total for name, weight in fitted.importance.items()}


def _curve(
    model: Model,
    training_set: TrainingSet,
    chosen: NDArray[Any],
    train: NDArray[np.bool_],
    refit: Callable[[NDArray[np.bool_]], Fitted],
    judged: Judged,
    fitted_rows: int,
) -> tuple[CurvePoint, ...]:
    points = learning_curve(refit, lambda fitted: _judged(model, training_set, chosen, fitted), training_set, train)
    own, own_us = judged.losses()
    oldest = training_set.at_us[training_set.usable & train]
    return (
        *points,
        CurvePoint(
            rows=fitted_rows,
            since_us=int(oldest.min()) if oldest.size else int(training_set.at_us.min()),
            value=float(own.mean()),
            interval=mean_interval(own, own_us),
        ),
    )
