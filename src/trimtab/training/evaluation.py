"""How good a fitted model is on rows it has not seen, beside baselines that anybody could have had."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import DAY_US
from trimtab.stats.bootstrap import metric_interval, resampled
from trimtab.stats.interval import Interval
from trimtab.stats.losses import row_losses
from trimtab.stats.scores import CalibrationBin, auc, calibration_curve, expected_calibration_error
from trimtab.store.ports import Blob
from trimtab.training.definitions import Metric, Model
from trimtab.training.fitted import Fitted
from trimtab.training.fitting import fit, fitted_values
from trimtab.training.sets import TrainingSet

_LINEAR_ROWS = 50_000  # the newest training rows that the linear baseline is fitted on
_LAST_LABELS = 100  # labels that the "last value" of a class is the mean of
_PERMUTED_ROWS = 2_000


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """One calendar month (UTC) of the holdout."""

    month: str  # "2013-07"
    rows: int
    value: float  # of the model's metric
    auc: float | None  # None for numbers, or with one class only
    mean_score: float
    mean_label: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What a model did on a holdout. `value` is the model's own metric; smaller is better."""

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


def evaluate(
    model: Model,
    fitted: Fitted,
    training_set: TrainingSet,
    *,
    rows: NDArray[np.bool_],
    train: NDArray[np.bool_],
    seed: int = 0,
    block: Literal["day", "week"] = "day",
) -> Evaluation:
    """Judge a fitted model on `rows` of a training set.

    Args:
        model: The recipe; the linear baseline uses its features.
        fitted: What is judged.
        training_set: Holds both sides.
        rows: The holdout, a mask; rows without a final label are left out.
        train: What the baselines may learn from, a mask.
        seed: For the bootstrap and for permutations.
        block: Rows of one block stand or fall together in the intervals.

    Raises:
        Misuse: The holdout has no labelled row, or a prediction is unfit.
    """
    chosen = np.flatnonzero(training_set.usable & rows)
    if not chosen.size:
        raise Misuse(f"evaluate {model.name!r}: no labelled row in the holdout. Widen it, or wait for labels.")
    labels, at_us = training_set.target[chosen], training_set.at_us[chosen]
    scores = fitted_values(fitted, training_set.features.values.take(chosen))
    blocks = at_us // (DAY_US if block == "day" else 7 * DAY_US)
    binary = model.task == "binary"
    losses = row_losses(model.metric, labels, scores)
    area = auc(labels, scores) if binary else None
    importance, kind = _importance(model, fitted, training_set, chosen, seed)
    return Evaluation(
        model=model.name,
        artifact=fitted.digest,
        metric=model.metric,
        rows=int(chosen.size),
        start_us=int(at_us.min()),
        end_us=int(at_us.max()),
        value=float(losses.mean()),
        interval=_interval(model, labels, scores, losses, blocks, seed),
        block=block,
        auc=area,
        auc_interval=_auc_interval(labels, scores, blocks, seed) if area is not None else None,
        calibration_error=expected_calibration_error(labels, scores) if binary else None,
        calibration=tuple(calibration_curve(labels, scores)) if binary else (),
        months=_months(model, labels, scores, at_us),
        baselines=_baselines(model, training_set, chosen, train, seed),
        importance=importance,
        importance_kind=kind,
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


def _interval(
    model: Model, labels: NDArray[Any], scores: NDArray[Any], losses: NDArray[Any], blocks: NDArray[Any], seed: int
) -> Interval | None:
    if np.unique(blocks).size < 2:
        return None
    return resampled(lambda weights: float(np.average(losses, weights=weights)), blocks, seed=seed)


def _auc_interval(labels: NDArray[Any], scores: NDArray[Any], blocks: NDArray[Any], seed: int) -> Interval | None:
    if np.unique(blocks).size < 2:
        return None
    try:
        return metric_interval("auc", labels, scores, blocks, seed=seed)
    except Misuse:  # most draws hold one class only: there is no interval to be had
        return None


def _months(model: Model, labels: NDArray[Any], scores: NDArray[Any], at_us: NDArray[Any]) -> tuple[Month, ...]:
    names = at_us.astype("datetime64[us]").astype("datetime64[M]")
    out = []
    for month in np.unique(names):
        here = names == month
        y, p = labels[here], scores[here]
        out.append(
            Month(
                month=str(month),
                rows=int(here.sum()),
                value=float(row_losses(model.metric, y, p).mean()),
                auc=auc(y, p) if model.task == "binary" else None,
                mean_score=float(p.mean()),
                mean_label=float(y.mean()),
            )
        )
    return tuple(out)


def _baselines(
    model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: NDArray[np.bool_], seed: int
) -> dict[str, float | None]:
    labels = training_set.target[chosen]
    learnt = training_set.target[training_set.usable & train]
    if not learnt.size:
        return {"constant": None, "last_value": None, "linear": None}
    middle = float(np.median(learnt)) if model.metric == "absolute_error" else float(learnt.mean())
    last = _last_values(model, training_set, training_set.at_us[chosen], middle)
    linear = _linear(model, training_set, chosen, train, seed)
    figures = {"constant": np.full(labels.size, middle), "last_value": last, "linear": linear}
    return {
        name: None if scores is None else float(row_losses(model.metric, labels, scores).mean())
        for name, scores in figures.items()
    }


def _last_values(model: Model, training_set: TrainingSet, at_us: NDArray[Any], start: float) -> NDArray[np.float64]:
    """For each moment the newest label known by then; of a class the mean of the newest hundred, pulled to `start`."""
    there = training_set.usable
    order = np.argsort(training_set.label_known_at_us[there], kind="stable")
    known_us = training_set.label_known_at_us[there][order]
    labels = training_set.target[there][order]
    seen = np.searchsorted(known_us, at_us, side="right")
    if model.task == "regression":
        return np.where(seen > 0, labels[np.maximum(seen, 1) - 1], start)
    sums = np.concatenate([[0.0], np.cumsum(labels)])
    first = np.maximum(seen - _LAST_LABELS, 0)
    mean: NDArray[np.float64] = (sums[seen] - sums[first] + start) / (seen - first + 1)
    return mean


def _linear(
    model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: NDArray[np.bool_], seed: int
) -> NDArray[np.float64] | None:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    make: Any = (lambda: LogisticRegression(max_iter=200)) if model.task == "binary" else Ridge
    numbers = np.flatnonzero(training_set.usable & train)
    newest = numbers[np.argsort(training_set.at_us[numbers], kind="stable")[-_LINEAR_ROWS:]]
    mask = np.zeros(training_set.rows, np.bool_)
    mask[newest] = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline may stop short of its optimum
            fitted = fit(msgspec.structs.replace(model, estimator=make), training_set, rows=mask, seed=seed)
    except Misuse:  # one class only, or fewer rows than features: the table says that there is none
        return None
    return fitted_values(fitted, training_set.features.values.take(chosen))


def _importance(
    model: Model, fitted: Fitted, training_set: TrainingSet, chosen: NDArray[Any], seed: int
) -> tuple[dict[str, float], Literal["library", "permutation"]]:
    if fitted.importance is not None:
        total = sum(fitted.importance.values()) or 1.0
        return {name: weight / total for name, weight in fitted.importance.items()}, "library"
    generator = np.random.default_rng(seed)
    sample = chosen[np.sort(generator.permutation(chosen.size)[:_PERMUTED_ROWS])]
    matrix, labels = fitted.matrix(training_set.features.values.take(sample)), training_set.target[sample]
    base = row_losses(model.metric, labels, fitted.scorer.predict(matrix)).mean()
    out: dict[str, float] = {}
    for at, name in enumerate(fitted.artifact.inputs):
        shuffled = matrix.copy()
        shuffled[:, at] = generator.permutation(shuffled[:, at])
        out[name] = float(row_losses(model.metric, labels, fitted.scorer.predict(shuffled)).mean() - base)
    return out, "permutation"
