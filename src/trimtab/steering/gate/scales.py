"""Units of score differences: probabilities are compared as they are, numbers relative to the spread of the labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import LOSS_CAP
from trimtab.stats.metrics.lists import list_places
from trimtab.stats.metrics.loss_names import CLASS_LOSSES, PROBABILITIES, PROBABILITY_LOSSES, Loss, quantile_of, top_of

Floats = NDArray[np.float64]

_FAR = 3.0  # a cap is at least the loss of an error of three times the median error
_KEPT_OF_MEAN = 0.95  # share of the mean loss that must remain under a cap when the losses of rows differ widely
_FEW = 0.99  # losses above this quantile are always capped
_REFIT_PROBABILITY = 0.1
_REFIT_NUMBER = 0.25
_REFIT_PLACES = 0.2


def label_unit(metric: Loss, labels: Floats) -> float:
    """The unit of differences of scores: 1 for probabilities, for numbers the standard deviation of the labels.

    With this unit, amounts in euros and in cents are judged alike.

    >>> label_unit("log_loss", np.array([0.0, 1.0])), label_unit("squared_error", np.array([100.0, 300.0]))
    (1.0, 100.0)
    """
    if metric in PROBABILITY_LOSSES or top_of(metric) is not None:
        return 1.0
    return float(labels.std()) or max(1.0, float(np.abs(labels).max(initial=0.0)))


def refit_distance(metric: Loss) -> float:
    """The greatest mean distance of a refit's scores from those of the candidate that passed, in label units."""
    if top_of(metric) is not None:
        return _REFIT_PLACES
    return _REFIT_PROBABILITY if metric in PROBABILITY_LOSSES else _REFIT_NUMBER


def mean_distance(one: Floats, other: Floats, lists: NDArray[np.int64] | None = None) -> float:
    """The mean distance of two models' answers.

    For several classes it is the distance of the class that moved most, so that the scale is that of one probability,
    whatever the number of classes. # D0076 The scores of a ranking have no scale. Its distance is the mean number of
    places by which a row moved, as a share of the list: two random orders are a third apart. # D0086

    >>> mean_distance(np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]]))
    0.25
    """
    if lists is not None:
        return float(np.abs(list_places(one, lists) - list_places(other, lists)).mean())
    return float(np.abs(one - other).mean(axis=0).max())


def loss_cap(metric: Loss, losses: Floats) -> float:
    """The loss at which one row is capped in the daily sums, from the losses of a healthy reference.

    For probabilities the cap is three times the log loss of a coin. For numbers it is the loss of an error of three
    times the median error: nine times the median squared error; for a quantile, the loss of such an error on its
    costlier side. For counts it is nine times the median deviance, or nine times the mean deviance where that is
    larger, because most rows may be 0 and have nearly no loss. If rows differ so much that such a cap would hide a part
    of the loss, the cap is raised until 95 % of the mean loss remains, but never above the 99 % quantile of the losses.

    For the log loss of several classes the cap is three times the mean, at least the loss of a coin. The other losses
    of several classes, and those of lists, are bounded already.

    >>> loss_cap("absolute_error", np.array([1.0, 2.0, 50.0])), loss_cap("squared_error", np.array([1.0, 4.0, 900.0]))
    (6.0, 36.0)
    """
    if metric in PROBABILITIES:
        return LOSS_CAP
    if top_of(metric) is not None:
        return 1.0
    typical = float(np.median(losses)) if losses.size else 0.0
    mean = float(losses.mean()) if losses.size else 0.0
    if metric in CLASS_LOSSES:
        return max(LOSS_CAP, _FAR * mean) if metric == "multi_log_loss" else 2.0 if metric == "multi_brier" else 1.0
    typical = max(typical, mean) if metric == "poisson_deviance" else typical or mean  # 0: most are exact
    if not (typical > 0.0 and np.isfinite(_far(metric) * typical)):
        return LOSS_CAP
    most = float(np.quantile(losses, _FEW, method="lower"))
    return max(_far(metric) * typical, min(_leaving(losses, _KEPT_OF_MEAN), most))


def _leaving(losses: Floats, share: float) -> float:
    """The smallest cap under which a given share of the mean loss remains."""
    ordered = np.sort(losses)
    left = np.cumsum(ordered) + ordered * np.arange(ordered.size - 1, -1, -1)  # sums with each loss as the cap
    return float(ordered[np.searchsorted(left, share * left[-1])])


def calibration_residuals(metric: Loss, labels: Floats, scores: Floats) -> Floats:
    """By row, how far the score is above the label, shape (rows,); their mean is the signed calibration gap.

    For a quantile, the mean is the share of labels at or below the score minus the level of the quantile. For several
    classes, it is that of the class whose mean probability is furthest from its share of the labels.
    """
    quantile = quantile_of(metric)
    if quantile is not None:
        return np.asarray((labels <= scores) - quantile, np.float64)
    if metric in CLASS_LOSSES:
        shares = np.bincount(labels.astype(np.int64), minlength=scores.shape[1]) / labels.size
        furthest = int(np.abs(scores.mean(axis=0) - shares).argmax())
        return np.asarray(scores[:, furthest] - (labels == furthest), np.float64)
    return np.asarray(scores - labels, np.float64)


def calibration_gap(metric: Loss, labels: Floats, scores: Floats) -> float:
    """The distance of mean score and mean label, 0 or above, in the labels' unit: see `calibration_residuals`.

    >>> calibration_gap("pinball(0.5)", np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 3.0))
    0.25
    """
    return abs(float(calibration_residuals(metric, labels, scores).mean()))


def gap_unit(metric: Loss, labels: Floats) -> float:
    """The unit of an allowed calibration gap: 1 for probabilities and quantiles, else as `label_unit`."""
    return 1.0 if quantile_of(metric) is not None else label_unit(metric, labels)


def _far(metric: Loss) -> float:
    """The loss of an error of three times the median error, in median losses."""
    quantile = quantile_of(metric)
    if quantile is not None:
        return _FAR * max(quantile, 1.0 - quantile) / min(quantile, 1.0 - quantile)
    return _FAR if metric == "absolute_error" else _FAR * _FAR
