"""How good a fitted model is on rows it has not seen, beside baselines that anybody could have had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import DAY_US
from trimtab.features.labels import LABELLED, LATE, MISSING, PENDING
from trimtab.stats.figures import Figure, score_figures
from trimtab.stats.interval import Interval
from trimtab.stats.losses import row_losses
from trimtab.stats.recalibration import RecalibrationKind
from trimtab.stats.scores import CalibrationBin, calibration_curve, expected_calibration_error
from trimtab.stats.thresholds import Thresholds, choose_threshold
from trimtab.store.ports import Blob
from trimtab.training.artifact import uncalibrated_scorer
from trimtab.training.baselines import baselines
from trimtab.training.definitions import Metric, Model, checked_costs, checked_slices
from trimtab.training.fitted import Fitted
from trimtab.training.fitting import checked_scores, fitted_values
from trimtab.training.importance import Permuted, permuted
from trimtab.training.learning_curve import CurvePoint, learning_curve
from trimtab.training.parts import Judged, Month, Slice, Week, mean_interval, months_of, slices_of, weeks_of
from trimtab.training.sets import TrainingSet

_REPEATS = (50, 200)  # draws of the bootstrap, at least and at most
_DRAWN = 40_000_000  # rows in all draws: above 200,000 rows there are fewer draws, and a million takes some 10 s


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What a model did on a holdout. `value` is the model's own metric; smaller is better.

    What an earlier trimtab did not compute is empty.
    """

    format: Literal[1] = 1
    model: str
    artifact: str
    metric: Metric
    rows: int
    start_us: int  # of the first row
    end_us: int  # of the last row
    value: float
    interval: Interval | None  # None: fewer than two blocks
    block: Literal["day", "week"]
    auc: float | None
    auc_interval: Interval | None
    calibration_error: float | None
    calibration: tuple[CalibrationBin, ...]
    months: tuple[Month, ...]
    baselines: dict[str, float | None]  # the metric of "constant", "last_value" and "linear"; None: could not be had
    importance: dict[str, float]
    importance_kind: Literal["library", "permutation"]
    figures: tuple[Figure, ...] = ()  # all of the model's kind, its metric first
    weeks: tuple[Week, ...] = ()
    slices: tuple[Slice, ...] = ()
    recalibration: RecalibrationKind | None = None  # what the scores are corrected by
    raw_calibration: tuple[CalibrationBin, ...] = ()  # before that
    raw_calibration_error: float | None = None
    permuted: tuple[Permuted, ...] = ()  # on the holdout, by feature and by view
    learning_curve: tuple[CurvePoint, ...] = ()  # the last one is the model itself
    thresholds: Thresholds | None = None  # where the model or the caller names costs
    left_out: dict[str, int] = {}  # rows of the holdout that could not be judged, by why


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
    costs: Mapping[str, float] | None = None,
    champion_scores: NDArray[np.float64] | None = None,
    refit: Callable[[NDArray[np.bool_]], Fitted] | None = None,
) -> Evaluation:
    """Judge a fitted model on `rows` of a training set.

    Args:
        model: The recipe; the linear baseline uses its features.
        fitted: What is judged.
        training_set: Holds both sides.
        rows: The holdout, a mask; rows without a final label, or with one that is no number, are counted and left out.
        train: What the baselines may learn from, a mask.
        seed: For the bootstrap and for permutations.
        block: Rows of one block stand or fall together in the intervals.
        slices: Columns and features to look at value by value; left out, the model's own.
        costs: {"false_positive": 1, "false_negative": 5} to look for the best threshold; left out, the model's own.
        champion_scores: What the version in service answered to the usable rows of the holdout, in order.
        refit: Fits the recipe on the rows of a mask; given, there is a learning curve.

    Raises:
        Misuse: The holdout has no labelled row, a prediction is unfit, or a slice or a cost makes no sense.
    """
    usable = np.flatnonzero(training_set.usable & rows)
    finite = np.isfinite(training_set.target[usable])
    chosen = usable[finite]
    left_out = _left_out(training_set, rows, int((~finite).sum()))
    if not chosen.size:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "it has no rows"
        raise Misuse(f"evaluate {model.name!r}: no labelled row in the holdout ({why}). Widen it, or wait for labels.")
    if champion_scores is not None and champion_scores.shape != usable.shape:
        raise Misuse(
            f"evaluate {model.name!r}: {champion_scores.size} scores of the champion for {usable.size} usable rows."
        )
    _check_labels(model, training_set.target[chosen])
    columns = model.slices if slices is None else checked_slices(model.name, model.request, model.features, slices)
    binary = model.task == "binary"
    priced = model.costs if costs is None else checked_costs(model.name, costs, binary=binary)
    values = training_set.features.values.take(chosen)
    judged = _judged(model, training_set, chosen, fitted)
    labels, scores, at_us = judged.labels, judged.scores, judged.at_us
    blocks = at_us // (DAY_US if block == "day" else 7 * DAY_US)
    repeats = min(max(_DRAWN // chosen.size, _REPEATS[0]), _REPEATS[1])
    figures = score_figures(model.metric, labels, scores, blocks, repeats=repeats, seed=seed)
    area = next((figure for figure in figures if figure.name == "auc"), None)
    shuffled = permuted(model, fitted, training_set, chosen, seed=seed)
    raw = _uncalibrated(fitted, values) if fitted.artifact.recalibration is not None else None
    return Evaluation(
        model=model.name,
        artifact=fitted.digest,
        metric=model.metric,
        rows=int(chosen.size),
        start_us=int(at_us.min()),
        end_us=int(at_us.max()),
        value=float(row_losses(model.metric, labels, scores).mean()),
        interval=figures[0].interval,
        block=block,
        auc=None if area is None else area.value,
        auc_interval=None if area is None else area.interval,
        calibration_error=expected_calibration_error(labels, scores) if binary else None,
        calibration=tuple(calibration_curve(labels, scores)) if binary else (),
        months=months_of(judged),
        baselines=baselines(
            model,
            training_set,
            chosen,
            train,
            champion_scores=None if champion_scores is None else champion_scores[finite],
            seed=seed,
        ),
        importance=_importance(fitted, shuffled),
        importance_kind="permutation" if fitted.importance is None else "library",
        figures=figures,
        weeks=weeks_of(judged),
        slices=slices_of(judged, model, training_set, chosen, columns),
        recalibration=None if fitted.artifact.recalibration is None else fitted.artifact.recalibration.kind,
        raw_calibration=() if raw is None else tuple(calibration_curve(labels, raw)),
        raw_calibration_error=None if raw is None else expected_calibration_error(labels, raw),
        permuted=shuffled,
        learning_curve=() if refit is None else _curve(model, training_set, chosen, train, refit, judged, fitted.rows),
        thresholds=None
        if priced is None
        else choose_threshold(
            labels,
            scores,
            blocks,
            false_positive=priced.false_positive,
            false_negative=priced.false_negative,
            seed=seed,
        ),
        left_out=left_out,
    )


def save_evaluation(evaluation: Evaluation, blob: Blob) -> str:
    """Store an evaluation; its hash, for the version that it is about."""
    return blob.put(msgspec.json.encode(evaluation))


def load_evaluation(digest: str, blob: Blob) -> Evaluation:
    """A stored evaluation.

    Raises:
        NotFound: It is not stored.
        Corrupt: Its blob is damaged.
    """
    try:
        return msgspec.json.decode(blob.get(digest), type=Evaluation)
    except msgspec.DecodeError as error:
        raise Corrupt(f"evaluation {digest}: its blob holds none: {error}") from error


def _check_labels(model: Model, labels: NDArray[np.float64]) -> None:
    """Refuse labels that the metric is not made for.

    Raises:
        Misuse: Others than 0 and 1 for a class, or a count below 0.
    """
    unfit = {"binary": ~np.isin(labels, (0.0, 1.0)), "count": labels < 0.0}.get(model.task)
    if unfit is not None and unfit.any():
        needed = "labels 0 and 1" if model.task == "binary" else "counts of at least 0"
        raise Misuse(
            f"evaluate {model.name!r}: metric {model.metric!r} needs {needed}; {int(unfit.sum())} of {labels.size} in "
            f"the holdout are none, e.g. {labels[unfit][0]:g}. Mend the label's expression."
        )


def _judged(model: Model, training_set: TrainingSet, chosen: NDArray[Any], fitted: Fitted) -> Judged:
    return Judged(
        metric=model.metric,
        binary=model.task == "binary",
        labels=training_set.target[chosen],
        scores=fitted_values(fitted, training_set.features.values.take(chosen)),
        at_us=training_set.at_us[chosen],
    )


def _left_out(training_set: TrainingSet, rows: NDArray[np.bool_], no_number: int) -> dict[str, int]:
    """Rows of the holdout that have no final label, by the state of their label, and those whose label is no number."""
    states = training_set.labels.state[rows & ~training_set.usable]
    counts: dict[str, int] = {
        "not final": int(np.isin(states, (LABELLED, LATE)).sum()),
        "pending": int((states == PENDING).sum()),
        "missing": int((states == MISSING).sum()),
        "no number": no_number,
    }
    return {reason: count for reason, count in counts.items() if count}


def _uncalibrated(fitted: Fitted, values: Any) -> NDArray[np.float64]:
    scorer = uncalibrated_scorer(fitted.artifact)
    return checked_scores(fitted.model, fitted.artifact.task, scorer, fitted.matrix(values))


def _importance(fitted: Fitted, shuffled: Sequence[Permuted]) -> dict[str, float]:
    """The library's view, as shares of all; where it has none, the rise of the metric."""
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
    def losses(of: Judged) -> NDArray[np.float64]:
        return row_losses(model.metric, of.labels, of.scores)

    points = learning_curve(
        refit, lambda fitted: _judged(model, training_set, chosen, fitted), losses, training_set, train
    )
    own = losses(judged)
    oldest = training_set.at_us[training_set.usable & train]
    return (
        *points,
        CurvePoint(
            rows=fitted_rows,
            since_us=int(oldest.min()) if oldest.size else int(training_set.at_us.min()),
            value=float(own.mean()),
            interval=mean_interval(own, judged.at_us),
        ),
    )
