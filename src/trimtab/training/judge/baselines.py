"""Baselines to compare a model with: a constant, labels of the past, a linear model."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.loss_names import quantile_of
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model, Task
from trimtab.training.fitting.fit import fit_unchecked
from trimtab.training.fitting.score_checks import fitted_values
from trimtab.training.judge.list_baselines import Scores, list_baseline_scores
from trimtab.training.judge.parts import Judged, mean_interval
from trimtab.training.judge.past_labels import PastLabels, groupings

_LINEAR_ROWS = 50_000  # the linear model is fitted on at most this many of the newest training rows
# the same limit for a quantile, whose optimization problem grows with the square of the number of rows
_QUANTILE_ROWS = 2_000
BASELINES = ("constant", "last_value", "seasonal_naive", "last_year", "linear")


class Baseline(msgspec.Struct, frozen=True, eq=False):
    """The predictions of a baseline."""

    scores: Scores
    by: tuple[str, ...] = ()  # the columns of the key by which past labels were looked up; empty: all rows together


class JudgedBaseline(msgspec.Struct, frozen=True):
    """The metric of a baseline on the judged rows."""

    value: float
    interval: Interval | None  # None: there are fewer than three days
    by: tuple[str, ...] = ()  # as in `Baseline`


def baselines(
    model: Model,
    training_set: TrainingSet,
    chosen: NDArray[Any],
    train: NDArray[np.bool_],
    *,
    judged: Judged,
    champion_scores: Scores | None,
    seed: int,
) -> dict[str, JudgedBaseline | None]:
    """Return the metric of each baseline on the rows `chosen`; None if a baseline cannot be computed.

    Args:
        chosen: The indices of the rows to judge.
        train: The training rows, as a boolean array.
        judged: The labels and times of the rows `chosen`, with the scores of the model.
        champion_scores: The scores of the version in service for `chosen`. If given, they are a baseline as well.
        seed: The seed of the linear model.
    """
    found = baseline_scores(model, training_set, chosen, train, seed=seed)
    if champion_scores is not None:
        found["champion"] = Baseline(champion_scores)

    def judge(one: Baseline) -> JudgedBaseline:
        losses, at_us = msgspec.structs.replace(judged, scores=one.scores).losses()
        return JudgedBaseline(float(losses.mean()), mean_interval(losses, at_us), one.by)

    return {name: None if one is None else judge(one) for name, one in found.items()}


def baseline_scores(
    model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: NDArray[np.bool_], *, seed: int
) -> dict[str, Baseline | None]:
    """Return the predictions of each baseline for the rows `chosen`; None if a baseline cannot be computed.

    "constant" is the best constant for the training rows. "last_value" is the newest label that is known at the time of
    the request; for classes and counts, it is the mean of the newest hundred. "seasonal_naive" is the mean label of the
    same hour in the newest earlier week whose labels were known. "last_year" is the mean label of the same hour 52
    weeks earlier, or on the same date a year earlier. These three use the labels of all rows, or those of rows with the
    same key (`groupings`), whichever is better on the training rows. Models of a quantile do not have these three,
    because single labels do not estimate a quantile. "linear" is a linear model of the features. Rankings have the
    baselines of `list_baseline_scores`.

    Args:
        chosen: The indices of the rows to predict.
        train: The training rows, as a boolean array.
    """
    if training_set.lists is not None:
        ordered = list_baseline_scores(model, training_set, chosen, train, partial(linear_scores, seed=seed))
        return {name: None if scores is None else Baseline(scores) for name, scores in ordered.items()}
    learnt = np.flatnonzero(training_set.usable & train)
    constant = constant_scores(model, training_set.target[learnt], 1)
    found: dict[str, Baseline | None] = dict.fromkeys(BASELINES)
    if constant is None:
        return found
    found["constant"] = Baseline(np.repeat(constant, chosen.size, axis=0))
    if model.task != "quantile":
        past = PastLabels(model, training_set, constant)
        for name, (scores, by) in past.baselines(groupings(model, training_set), chosen, learnt).items():
            found[name] = None if scores is None else Baseline(scores, by)
    linear = linear_scores(model, training_set, chosen, train, seed=seed)
    found["linear"] = None if linear is None else Baseline(linear)
    return found


def constant_scores(model: Model, learnt: Scores, rows: int) -> Scores | None:
    """Return the constant that predicts the labels `learnt` best, once for each of `rows` rows; None: no labels.

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
    """Return the constant that predicts the labels best by the model's metric."""
    quantile = quantile_of(model.metric)
    if quantile is not None:
        return float(np.quantile(learnt, quantile))
    return float(np.median(learnt)) if model.metric == "absolute_error" else float(learnt.mean())


def linear_scores(
    model: Model, training_set: TrainingSet, chosen: NDArray[Any], train: NDArray[np.bool_], *, seed: int
) -> Scores | None:
    """Return the predictions of a linear model for `chosen`; None if it cannot be fitted.

    It is fitted on the newest training rows: 50,000, or for a quantile 2,000.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

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
        # with few columns, a second thread of the BLAS library costs more than it saves (measured: 8 times more)
        with warnings.catch_warnings(), threadpool_limits(1, "blas"):
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
