"""In which unit differences count: probabilities as they are, numbers against their own spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.stats.edetector import LOSS_CAP
from trimtab.stats.loss_names import PROBABILITIES, Loss, quantile_of

Floats = NDArray[np.float64]

_FAR = 3.0  # an error of three times the median error is the most that one row may count for
_REFIT_PROBABILITY = 0.1
_REFIT_NUMBER = 0.25


def label_unit(metric: Loss, labels: Floats) -> float:
    """What a difference of scores is divided by before it is called large.

    1 for probabilities; for a number the labels' standard deviation, so that euros and cents are judged alike.

    >>> label_unit("log_loss", np.array([0.0, 1.0])), label_unit("squared_error", np.array([100.0, 300.0]))
    (1.0, 100.0)
    """
    if metric in PROBABILITIES:
        return 1.0
    return float(labels.std()) or max(1.0, float(np.abs(labels).max(initial=0.0)))


def refit_distance(metric: Loss) -> float:
    """The mean |score| distance that a refit may have from the candidate that passed, in label units."""
    return _REFIT_PROBABILITY if metric in PROBABILITIES else _REFIT_NUMBER


def loss_cap(metric: Loss, losses: Floats) -> float:
    """The most that one row may cost a day, from the losses of a healthy reference.

    Three times the loss of a coin for probabilities. For a number: the loss of an error of three times the median
    error, so nine times the median squared error; of a quantile, of such an error on its costlier side. For a count
    nine times the usual deviance, the mean where most rows are none and cost next to nothing.

    >>> loss_cap("absolute_error", np.array([1.0, 2.0, 50.0])), loss_cap("squared_error", np.array([1.0, 4.0, 900.0]))
    (6.0, 36.0)
    """
    if metric in PROBABILITIES:
        return LOSS_CAP
    usual = float(np.median(losses)) if losses.size else 0.0
    mean = float(losses.mean()) if losses.size else 0.0
    usual = max(usual, mean) if metric == "poisson_deviance" else usual or mean  # 0: most rows are hit exactly
    cap = _far(metric) * usual
    return cap if usual > 0.0 and np.isfinite(cap) else LOSS_CAP


def calibration_gap(metric: Loss, labels: Floats, scores: Floats) -> float:
    """How far the answers are off as a whole, 0 or above: of a quantile the share of labels up to it against its own.

    Of all others the mean score against the mean label, in their unit.

    >>> calibration_gap("pinball(0.5)", np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 3.0))
    0.25
    """
    quantile = quantile_of(metric)
    if quantile is not None:
        return abs(float((labels <= scores).mean()) - quantile)
    return abs(float(scores.mean() - labels.mean()))


def gap_unit(metric: Loss, labels: Floats) -> float:
    """What an allowed calibration gap is a share of: 1 for probabilities and shares, else as `label_unit`."""
    return 1.0 if quantile_of(metric) is not None else label_unit(metric, labels)


def _far(metric: Loss) -> float:
    """The loss of an error three times the usual one, in usual losses."""
    quantile = quantile_of(metric)
    if quantile is not None:
        return _FAR * max(quantile, 1.0 - quantile) / min(quantile, 1.0 - quantile)
    return _FAR if metric == "absolute_error" else _FAR * _FAR
