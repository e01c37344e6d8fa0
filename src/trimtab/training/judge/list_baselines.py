"""Baselines of rankings: random order, the order shown, the order of one feature, a linear model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.stats.metrics.lists import unit_losses
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

Scores = NDArray[np.float64]


def list_baseline_scores(
    model: Model,
    training_set: TrainingSet,
    chosen: NDArray[Any],
    train: NDArray[np.bool_],
    linear_scores: Callable[[Model, TrainingSet, NDArray[Any], NDArray[np.bool_]], Scores | None],
) -> dict[str, Scores | None]:
    """Return scores by which each baseline orders the rows `chosen`; None if a baseline cannot be computed.

    "random" gives all rows the same score, so the metric is the mean over all orders. "as_shown" is the order of the
    requests' times; requests of one time are in the order of the training set. "best_feature" is the ascending or
    descending order of one feature, whichever is best on the training rows. "linear" is a linear model of the relevance
    of each row.

    Args:
        chosen: The indices of the rows to order.
        train: The training rows, as a boolean array.
        linear_scores: Returns the scores of a linear model.
    """
    shown = np.empty(chosen.size)
    shown[np.argsort(training_set.at_us[chosen], kind="stable")] = -np.arange(chosen.size)
    learnt = np.flatnonzero(training_set.informative & train)
    best = _best_feature(model, training_set, learnt)
    return {
        "random": np.zeros(chosen.size),
        "as_shown": shown,
        "best_feature": None if best is None else _ordered_by(training_set, chosen, *best),
        "linear": linear_scores(model, training_set, chosen, train) if learnt.size else None,
    }


def _best_feature(model: Model, training_set: TrainingSet, learnt: NDArray[Any]) -> tuple[str, float] | None:
    """Return the feature and direction that order the training rows best. Texts, which have no order, are skipped."""
    if not learnt.size:
        return None
    losses = [
        (_loss(model, training_set, learnt, _ordered_by(training_set, learnt, name, sign)), number, name, sign)
        for number, name in enumerate(model.features.names)
        if training_set.features.values[name].dtype != "str"
        for sign in (1.0, -1.0)
    ]
    return min(losses)[2:] if losses else None


def _ordered_by(training_set: TrainingSet, rows: NDArray[Any], name: str, sign: float) -> Scores:
    """Return scores that put rows in the order of a feature. Nulls come last."""
    column = training_set.features.values[name].take(rows)
    values = sign * column.values.astype(np.float64)
    there = column.present() & ~np.isnan(values)
    lowest = float(values[there].min(initial=0.0))
    return np.where(there, values, lowest - 1.0)


def _loss(model: Model, training_set: TrainingSet, rows: NDArray[Any], scores: Scores) -> float:
    losses, _ = unit_losses(model.metric, training_set.target[rows], scores, training_set.lists_of(rows))
    return float(losses.mean())
