"""Calibration: learn how to correct scores, from predictions for rows that the model was not fitted on."""

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

_FOLDS = 3  # three fits, on 50 %, 67 % and 83 % of the rows: together as much work as two fits on all rows  # D0040
_LEVEL_ROWS = 20_000  # a model's mean score and mean label are compared on this many of its training rows
Score = Callable[[Fitted, Any], NDArray[np.float64]]


def recalibrate(
    name: str,
    kind: RecalibrationKind,
    training_set: TrainingSet,
    among: Mask,
    fit_on: Callable[[Mask], Fitted],
    score: Score,
) -> Recalibration:
    """Predict the newer half of the rows, walking forward in time, and fit the correction on these predictions.

    Between the rows that a model was fitted on and those that it predicts, the mean label may change. This change is
    not an error of the scores, so the scores of each fold are first shifted to the mean label of the fold. But some
    models have a wrong mean score even on their own training rows (for example with `class_weight="balanced"`). That is
    an error of the scores: the shifted scores keep it, and the correction learns to remove it. # D0040

    Args:
        among: The rows that the model is fitted on, as a boolean array.
        fit_on: Fits the model without calibration on the rows in a boolean array.
        score: Scores feature values with a fitted model.

    Raises:
        Misuse: There are too few rows, only one class occurs, or a fit fails.
    """
    misses: list[Any] = []  # for each fold, the result of `_level_missed`

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
    """Return the log odds of the mean score minus those of the mean label, on the rows that the model was fitted on.

    For several classes, return the logarithm of each class's mean probability minus that of its share, shape
    (classes,).
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
    """Return the log odds of the mean of labels or scores.

    Half a row with 0 and half a row with 1 are added first, so that the log odds are finite.
    """
    mean = (float(values.sum()) + 0.5) / (values.size + 1.0)
    return float(np.log(mean / (1.0 - mean)))


def _shares(labels: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Return the share of each class, after half a row of each class was added."""
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    return np.asarray((counts + 0.5) / (labels.size + 0.5 * classes), np.float64)
