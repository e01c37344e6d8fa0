"""In which unit differences count: probabilities as they are, numbers against their own spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.stats.edetector import LOSS_CAP
from trimtab.stats.losses import Loss

Floats = NDArray[np.float64]

PROBABILITIES: tuple[Loss, ...] = ("log_loss", "brier")
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
    error, so nine times the median squared error.

    >>> loss_cap("absolute_error", np.array([1.0, 2.0, 50.0])), loss_cap("squared_error", np.array([1.0, 4.0, 900.0]))
    (6.0, 36.0)
    """
    if metric in PROBABILITIES:
        return LOSS_CAP
    usual = float(np.median(losses)) if losses.size else 0.0
    usual = usual or (float(losses.mean()) if losses.size else 0.0)  # most rows are hit exactly
    far = _FAR if metric == "absolute_error" else _FAR * _FAR
    return far * usual if usual > 0.0 and np.isfinite(usual) else LOSS_CAP
