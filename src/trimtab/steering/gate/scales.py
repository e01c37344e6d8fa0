"""In which unit differences count: probabilities as they are, numbers against their own spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import LOSS_CAP
from trimtab.stats.metrics.lists import list_places
from trimtab.stats.metrics.loss_names import CHANCES, CLASS_LOSSES, PROBABILITIES, Loss, quantile_of, top_of

Floats = NDArray[np.float64]

_FAR = 3.0  # an error of three times the median error is the most that one row may count for, at least
_KEPT_OF_MEAN = 0.95  # of the mean loss that a cap leaves, where rows differ that much
_FEW = 0.99  # but one row in a hundred is always capped
_REFIT_PROBABILITY = 0.1
_REFIT_NUMBER = 0.25
_REFIT_PLACES = 0.2


def label_unit(metric: Loss, labels: Floats) -> float:
    """What a difference of scores is divided by before it is called large.

    1 for probabilities; for a number the labels' standard deviation, so that euros and cents are judged alike.

    >>> label_unit("log_loss", np.array([0.0, 1.0])), label_unit("squared_error", np.array([100.0, 300.0]))
    (1.0, 100.0)
    """
    if metric in CHANCES or top_of(metric) is not None:
        return 1.0
    return float(labels.std()) or max(1.0, float(np.abs(labels).max(initial=0.0)))


def refit_distance(metric: Loss) -> float:
    """The mean |score| distance that a refit may have from the candidate that passed, in label units."""
    if top_of(metric) is not None:
        return _REFIT_PLACES
    return _REFIT_PROBABILITY if metric in CHANCES else _REFIT_NUMBER


def mean_distance(one: Floats, other: Floats, lists: NDArray[np.int64] | None = None) -> float:
    """How far two models' answers are apart in the mean; of several classes that of the class that moved most.

    So it is on the scale of one chance, however many classes there are. # D76 Of a ranking, whose scores have no scale,
    by how many places a row is listed elsewhere, as a share of its list: a third for any two orders. # D86

    >>> mean_distance(np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]]))
    0.25
    """
    if lists is not None:
        return float(np.abs(list_places(one, lists) - list_places(other, lists)).mean())
    return float(np.abs(one - other).mean(axis=0).max())


def loss_cap(metric: Loss, losses: Floats) -> float:
    """The most that one row may cost a day, from the losses of a healthy reference.

    Three times the loss of a coin for probabilities. For a number: the loss of an error of three times the median
    error, so nine times the median squared error; of a quantile, of such an error on its costlier side. For a count
    nine times the usual deviance, the mean where most rows are none and cost next to nothing. Where rows differ so much
    that such a cap would hide a part of the loss, it is what leaves 95 % of it, but at most what 99 in 100 rows cost.

    For chances of several classes three times the mean log loss, at least that of a coin; the others, and those of
    lists, are bounded as they are.

    >>> loss_cap("absolute_error", np.array([1.0, 2.0, 50.0])), loss_cap("squared_error", np.array([1.0, 4.0, 900.0]))
    (6.0, 36.0)
    """
    if metric in PROBABILITIES:
        return LOSS_CAP
    if top_of(metric) is not None:
        return 1.0
    usual = float(np.median(losses)) if losses.size else 0.0
    mean = float(losses.mean()) if losses.size else 0.0
    if metric in CLASS_LOSSES:
        return max(LOSS_CAP, _FAR * mean) if metric == "multi_log_loss" else 2.0 if metric == "multi_brier" else 1.0
    usual = max(usual, mean) if metric == "poisson_deviance" else usual or mean  # 0: most rows are hit exactly
    if not (usual > 0.0 and np.isfinite(_far(metric) * usual)):
        return LOSS_CAP
    most = float(np.quantile(losses, _FEW, method="lower"))
    return max(_far(metric) * usual, min(_leaving(losses, _KEPT_OF_MEAN), most))


def _leaving(losses: Floats, share: float) -> float:
    """The least cap that leaves a share of the mean loss."""
    ordered = np.sort(losses)
    left = np.cumsum(ordered) + ordered * np.arange(ordered.size - 1, -1, -1)  # of the sum, by a cap at each row
    return float(ordered[np.searchsorted(left, share * left[-1])])


def calibration_gap(metric: Loss, labels: Floats, scores: Floats) -> float:
    """How far the answers are off as a whole, 0 or above: of a quantile the share of labels up to it against its own.

    Of several classes the class whose mean chance is furthest from its share of the labels; of all others the mean
    score against the mean label, in their unit.

    >>> calibration_gap("pinball(0.5)", np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 3.0))
    0.25
    """
    quantile = quantile_of(metric)
    if quantile is not None:
        return abs(float((labels <= scores).mean()) - quantile)
    if metric in CLASS_LOSSES:
        shares = np.bincount(labels.astype(np.int64), minlength=scores.shape[1]) / labels.size
        return float(np.abs(scores.mean(axis=0) - shares).max())
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
