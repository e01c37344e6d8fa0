"""Calibration in training: fit a recalibration map on out-of-fold scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.recalibration import Recalibration, RecalibrationKind, fit_recalibration, shift_level, shift_levels
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.folds import Mask, predict_forward

_FOLDS = 3  # over the newer half of the rows, so that calibration costs about two more fits  # D0040
_LEVEL_ROWS = 20_000  # rows of a fold's past; their mean score is compared with their mean label
Score = Callable[[Fitted, Any], NDArray[np.float64]]


def recalibrate(
    name: str,
    kind: RecalibrationKind,
    training_set: TrainingSet,
    among: Mask,
    fit_on: Callable[[Mask], Fitted],
    score: Score,
) -> Recalibration:
    """Walk forward over the newer half of the rows, and fit the map to the labels of the predicted parts.

    The mean label may change between a fold's past and its predicted part. This change is no error of the scores and is
    removed first. The map corrects the shape of the scores. It moves their mean only as far as the scores miss the mean
    label of their own training rows (as with `class_weight="balanced"`).  # D0040

    Args:
        name: The name of the model.
        kind: The kind of map.
        training_set: The set that holds the rows.
        among: The rows that the model is fitted on.
        fit_on: Fits the model without calibration on the rows that a mask selects.
        score: Returns a fitted model's scores of feature values.

    Raises:
        Misuse: There are too few rows, only one class occurs, or a fit fails.
    """
    # one offset per fold, in log odds; with several classes the logarithm of a factor for each class
    misses: list[Any] = []

    def fit_and_miss(past: Mask) -> Fitted:
        fitted = fit_on(past)
        misses.append(_level_missed(fitted, score, training_set, past))
        return fitted

    what = f"model {name!r}, calibration={kind!r}"
    found = predict_forward(fit_and_miss, score, training_set, among, folds=_FOLDS, first=0.5, what=what)
    scores = found.scores.copy()
    for number, missed in enumerate(misses):
        here = found.fold == number
        if here.any() and scores.ndim == 2:
            level = _shares(training_set.target[here], scores.shape[1]) * np.exp(missed)
            scores[here] = shift_levels(scores[here], level / level.sum())
        elif here.any():
            level = _log_odds(training_set.target[here]) + missed
            scores[here] = shift_level(scores[here], 1.0 / (1.0 + np.exp(-level)))
    there = found.fold >= 0
    try:
        return fit_recalibration(kind, training_set.target[there], scores[there])
    except Misuse as error:
        raise Misuse(f"model {name!r}: {error}") from error


def _level_missed(fitted: Fitted, score: Score, training_set: TrainingSet, past: Mask) -> Any:
    """The log odds of the mean score minus those of the mean label, on the training rows.

    With several classes: the logarithms of mean probabilities minus those of the classes' shares, shape (classes,).
    """
    rows = np.flatnonzero(training_set.usable & past)
    rows = rows[np.unique(np.linspace(0, rows.size - 1, _LEVEL_ROWS).astype(np.int64))]
    scores = score(fitted, training_set.features.values.take(rows))
    if scores.ndim == 2:
        width = scores.shape[1]
        means = (scores.sum(axis=0) + 0.5) / (rows.size + 0.5 * width)
        return np.log(means) - np.log(_shares(training_set.target[rows], width))
    return _log_odds(scores) - _log_odds(training_set.target[rows])


def _log_odds(values: NDArray[np.float64]) -> float:
    """The log odds of the mean of labels, with half a row of each label added."""
    mean = (float(values.sum()) + 0.5) / (values.size + 1.0)
    return float(np.log(mean / (1.0 - mean)))


def _shares(labels: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """The share of each class, with half a row of each class added."""
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    return np.asarray((counts + 0.5) / (labels.size + 0.5 * classes), np.float64)
