"""Baselines to compare a model with: a constant, the last value, the value of last week, a linear model."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.time import HOUR_US
from trimtab.stats.metrics.lists import unit_losses
from trimtab.stats.metrics.loss_names import quantile_of
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model, Task
from trimtab.training.fitting.fit import fit_unchecked
from trimtab.training.fitting.score_checks import fitted_values
from trimtab.training.judge.list_baselines import Scores, list_baseline_scores

_LINEAR_ROWS = 50_000  # the linear model is fitted on at most this many of the newest training rows
# the same for a quantile; it is smaller, because the optimization problem grows with the square of the number of rows
_QUANTILE_ROWS = 2_000
_LAST_LABELS = 100  # the "last value" of a class or a count is the mean of this many labels

_WEEK_H = 7 * 24
_WEEKS = 4  # how many weeks to go back to find one with known labels
BASELINES = ("constant", "last_value", "seasonal_naive", "linear")


def baselines(
    model: Model,
    training_set: TrainingSet,
    chosen: NDArray[Any],
    train: NDArray[np.bool_],
    *,
    champion_scores: Scores | None,
    seed: int,
) -> dict[str, float | None]:
    """Return the metric of each baseline on the rows `chosen`; None if a baseline cannot be computed.

    Args:
        model: The model with its metric and features.
        training_set: The training set that the rows belong to.
        chosen: The numbers of the rows to judge.
        train: The training rows, as a boolean array.
        champion_scores: The scores of the version in service for `chosen`. If given, it is a baseline as well.
        seed: The seed of the linear model.
    """
    labels = training_set.target[chosen]
    found = baseline_scores(model, training_set, chosen, train, seed=seed)
    if champion_scores is not None:
        found["champion"] = champion_scores
    lists = training_set.lists_of(chosen)
    return {
        name: None if scores is None else float(unit_losses(model.metric, labels, scores, lists)[0].mean())
        for name, scores in found.items()
    }


def baseline_scores(
    model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: NDArray[np.bool_], *, seed: int
) -> dict[str, Scores | None]:
    """Return the predictions of each baseline for the rows `chosen`; None if a baseline cannot be computed.

    "constant" is the best constant for the training rows. "last_value" is the newest label that is known at the time of
    the request; for classes and counts, it is the mean of the newest hundred. "seasonal_naive" is the mean label of the
    same hour a week earlier. If no label of that hour was known, it is taken from the newest of the last four weeks
    that has known labels. "linear" is a linear model of the features. For a quantile, "last_value" and "seasonal_naive"
    do not exist, because single labels do not estimate a quantile. Rankings have the baselines of
    `list_baseline_scores`.

    Args:
        model: The model with its metric and features.
        training_set: The training set that the rows belong to.
        chosen: The numbers of the rows to predict.
        train: The training rows, as a boolean array.
        seed: The seed of the linear model.
    """
    if training_set.lists is not None:
        return list_baseline_scores(model, training_set, chosen, train, partial(linear_scores, seed=seed))
    learnt = training_set.target[training_set.usable & train]
    learnt = learnt[np.isfinite(learnt)]
    constant = constant_scores(model, learnt, chosen.size)
    found: dict[str, Scores | None] = dict.fromkeys(BASELINES)
    found["constant"] = constant
    if constant is None:
        return found
    at_us = training_set.at_us[chosen]
    if model.task == "multiclass":
        found["last_value"] = _last_classes(training_set, at_us, constant[0])
    else:
        found["last_value"] = _last_values(model, training_set, at_us, _middle(model, learnt))
    found["seasonal_naive"] = _last_week(model, training_set, at_us, constant)
    found["linear"] = linear_scores(model, training_set, chosen, train, seed=seed)
    return found


def constant_scores(model: Model, learnt: Scores, rows: int) -> Scores | None:
    """Return the best constant prediction for the labels `learnt`, for `rows` rows; None if there are no labels.

    The shape is (rows,). For several classes it is (rows, classes).
    """
    learnt = learnt[np.isfinite(learnt)]
    if not learnt.size:
        return None
    if model.task == "multiclass":
        shares = np.bincount(learnt.astype(np.int64), minlength=len(model.label.classes)) / learnt.size
        return np.tile(shares, (rows, 1))
    return np.full(rows, _middle(model, learnt))


def _middle(model: Model, learnt: Scores) -> float:
    """Return the best constant prediction of labels, by the model's metric."""
    quantile = quantile_of(model.metric)
    if quantile is not None:
        return float(np.quantile(learnt, quantile))
    return float(np.median(learnt)) if model.metric == "absolute_error" else float(learnt.mean())


def _last_values(model: Model, training_set: TrainingSet, at_us: NDArray[Any], start: float) -> Scores | None:
    """Return the newest label that is known at each time; for classes and counts, the mean of the newest hundred.

    For a quantile, return None.
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
    """Return the shares of classes at each time among the newest hundred known labels, and one further row of
    `start`.
    """
    labels, seen = _seen(training_set, at_us)
    ones = labels[:, None] == np.arange(start.size)
    sums = np.vstack([np.zeros(start.size), np.cumsum(ones, axis=0)])
    first = np.maximum(seen - _LAST_LABELS, 0)
    shares: Scores = (sums[seen] - sums[first] + start) / (seen - first + 1)[:, None]
    return shares


def _last_week(model: Model, training_set: TrainingSet, at_us: NDArray[Any], constant: Scores) -> Scores | None:
    """Return for each time the mean label of the same hour a week earlier. If none was known, return the constant.

    For classes and counts, the constant is included as one further label, so that few labels do not give extreme
    predictions. An hour only counts once all of its labels are known.
    """
    if model.task == "quantile":
        return None
    there = training_set.usable & np.isfinite(training_set.target)
    hours, place = np.unique(training_set.at_us[there] // HOUR_US, return_inverse=True)
    if not hours.size:
        return constant
    known_us = np.full(hours.size, -(2**62))
    np.maximum.at(known_us, place, training_set.label_known_at_us[there])
    target = training_set.target[there]
    several = model.task == "multiclass"
    columns = (target[:, None] == np.arange(constant.shape[1])).astype(np.float64) if several else target[:, None]
    sums = np.stack([np.bincount(place, column, hours.size) for column in columns.T], axis=1)
    counts = np.bincount(place, minlength=hours.size).astype(np.float64)[:, None]
    prior = 0.0 if model.task == "regression" else 1.0
    answers = np.array(constant if several else constant[:, None], np.float64)
    open_rows = np.ones(at_us.size, np.bool_)
    for week in range(1, _WEEKS + 1):
        wanted = at_us // HOUR_US - week * _WEEK_H
        found = np.minimum(np.searchsorted(hours, wanted), hours.size - 1)
        here = open_rows & (hours[found] == wanted) & (known_us[found] <= at_us)
        answers[here] = (sums[found[here]] + prior * answers[here]) / (counts[found[here]] + prior)
        open_rows &= ~here
    return answers if several else answers[:, 0]


def _seen(training_set: TrainingSet, at_us: NDArray[Any]) -> tuple[Scores, NDArray[np.int64]]:
    """Return the labels in the order in which they became known, and how many of them were known at each time."""
    there = training_set.usable & np.isfinite(training_set.target)
    order = np.argsort(training_set.label_known_at_us[there], kind="stable")
    known_us = training_set.label_known_at_us[there][order]
    return training_set.target[there][order], np.searchsorted(known_us, at_us, side="right")


def linear_scores(
    model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: NDArray[np.bool_], *, seed: int
) -> Scores | None:
    """Return the predictions of a linear model for `chosen`; None if it cannot be fitted.

    It is fitted on the newest training rows.
    """
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
            warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline does not need to converge
            fitted = fit_unchecked(plain, training_set, rows=mask, seed=seed)
        return fitted_values(fitted, training_set.features.values.take(chosen))
    except Misuse:  # there is only one class, or there are fewer rows than features
        return None


def _linear_estimator(task: Task, quantile: float | None) -> Any:
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, QuantileRegressor, Ridge

    if quantile is not None:
        return QuantileRegressor(quantile=quantile, alpha=0.0, solver="highs")
    if task == "count":
        return PoissonRegressor(max_iter=200)
    return LogisticRegression(max_iter=200) if task in ("binary", "multiclass") else Ridge()
