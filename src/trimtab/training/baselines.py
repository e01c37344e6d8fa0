"""What anybody could have answered: the constant, the last value, a linear model, the version in service."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.loss_names import quantile_of
from trimtab.stats.losses import row_losses
from trimtab.training.definitions import Model, Task
from trimtab.training.fitting import fit_unchecked, fitted_values
from trimtab.training.sets import TrainingSet

_LINEAR_ROWS = 50_000  # the newest training rows that the linear baseline is fitted on
_QUANTILE_ROWS = 2_000  # of a quantile: its linear programme grows with the square
_LAST_LABELS = 100  # labels that the "last value" of a class or a count is the mean of

Scores = NDArray[np.float64]


def baselines(
    model: Model,
    training_set: TrainingSet,
    chosen: NDArray[Any],
    train: NDArray[np.bool_],
    *,
    champion_scores: Scores | None,
    seed: int,
) -> dict[str, float | None]:
    """The metric of each baseline on the rows `chosen`; None for one that could not be had.

    Args:
        model: Its metric and features.
        training_set: Where the rows are.
        chosen: The numbers of the rows that are judged.
        train: What may be learnt from.
        champion_scores: What the version in service answered to `chosen`; left out, it is no baseline.
        seed: Of the linear model.
    """
    labels = training_set.target[chosen]
    learnt = training_set.target[training_set.usable & train]
    learnt = learnt[np.isfinite(learnt)]
    constant = constant_scores(model, learnt, labels.size)
    found: dict[str, Scores | None] = {"constant": constant, "last_value": None, "linear": None}
    if learnt.size and model.task == "multiclass":
        shares = np.bincount(learnt.astype(np.int64), minlength=len(model.label.classes)) / learnt.size
        found["last_value"] = _last_classes(training_set, training_set.at_us[chosen], shares)
        found["linear"] = linear_scores(model, training_set, chosen, train, seed)
    elif learnt.size:
        found["last_value"] = _last_values(model, training_set, training_set.at_us[chosen], _middle(model, learnt))
        found["linear"] = linear_scores(model, training_set, chosen, train, seed)
    if champion_scores is not None:
        found["champion"] = champion_scores
    return {
        name: None if scores is None else float(row_losses(model.metric, labels, scores).mean())
        for name, scores in found.items()
    }


def constant_scores(model: Model, learnt: Scores, rows: int) -> Scores | None:
    """What the best constant of the labels `learnt` answers to so many rows; None where there are none.

    Shape (rows,), of several classes (rows, classes).
    """
    learnt = learnt[np.isfinite(learnt)]
    if not learnt.size:
        return None
    if model.task == "multiclass":
        shares = np.bincount(learnt.astype(np.int64), minlength=len(model.label.classes)) / learnt.size
        return np.tile(shares, (rows, 1))
    return np.full(rows, _middle(model, learnt))


def _middle(model: Model, learnt: Scores) -> float:
    """The best constant."""
    quantile = quantile_of(model.metric)
    if quantile is not None:
        return float(np.quantile(learnt, quantile))
    return float(np.median(learnt)) if model.metric == "absolute_error" else float(learnt.mean())


def _last_values(model: Model, training_set: TrainingSet, at_us: NDArray[Any], start: float) -> Scores | None:
    """For each moment the newest label known by then; of classes and counts the mean of the newest hundred.

    None for a quantile, of which no single label tells anything.
    """
    if model.task == "quantile":
        return None
    labels, seen = _seen(training_set, at_us)
    if model.task == "regression":
        return np.where(seen > 0, labels[np.maximum(seen, 1) - 1], start)
    sums = np.concatenate([[0.0], np.cumsum(labels)])
    first = np.maximum(seen - _LAST_LABELS, 0)
    mean: Scores = (sums[seen] - sums[first] + start) / (seen - first + 1)
    return mean


def _last_classes(training_set: TrainingSet, at_us: NDArray[Any], start: Scores) -> Scores:
    """For each moment the shares of the classes among the newest hundred labels known by then, and one of `start`."""
    labels, seen = _seen(training_set, at_us)
    ones = labels[:, None] == np.arange(start.size)
    sums = np.vstack([np.zeros(start.size), np.cumsum(ones, axis=0)])
    first = np.maximum(seen - _LAST_LABELS, 0)
    shares: Scores = (sums[seen] - sums[first] + start) / (seen - first + 1)[:, None]
    return shares


def _seen(training_set: TrainingSet, at_us: NDArray[Any]) -> tuple[Scores, NDArray[np.int64]]:
    """Labels in the order in which they became known, and how many of them were known at each moment."""
    there = training_set.usable & np.isfinite(training_set.target)
    order = np.argsort(training_set.label_known_at_us[there], kind="stable")
    known_us = training_set.label_known_at_us[there][order]
    return training_set.target[there][order], np.searchsorted(known_us, at_us, side="right")


def linear_scores(
    model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: NDArray[np.bool_], seed: int
) -> Scores | None:
    """What a linear model of the newest rows to learn from answers to `chosen`; None where none could be fitted."""
    from sklearn.exceptions import ConvergenceWarning

    most = _QUANTILE_ROWS if model.task == "quantile" else _LINEAR_ROWS
    numbers = np.flatnonzero(training_set.usable & train)
    newest = numbers[np.argsort(training_set.at_us[numbers], kind="stable")[-most:]]
    mask = np.zeros(training_set.rows, np.bool_)
    mask[newest] = True
    plain = msgspec.structs.replace(
        model,
        estimator=partial(_linear_estimator, model.task, quantile_of(model.metric)),
        calibration=None,
        weights=None,
        sample=None,
        search=None,
        chosen=None,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline may stop short of its optimum
            fitted = fit_unchecked(plain, training_set, rows=mask, seed=seed)
        return fitted_values(fitted, training_set.features.values.take(chosen))
    except Misuse:  # one class only, or fewer rows than features: the table says that there is none
        return None


def _linear_estimator(task: Task, quantile: float | None) -> Any:
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, QuantileRegressor, Ridge

    if quantile is not None:
        return QuantileRegressor(quantile=quantile, alpha=0.0, solver="highs")
    if task == "count":
        return PoissonRegressor(max_iter=200)
    return LogisticRegression(max_iter=200) if task in ("binary", "multiclass") else Ridge()
