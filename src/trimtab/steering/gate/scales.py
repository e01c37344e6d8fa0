"""Scales: units in which differences of scores are limited, and the largest loss that a row may count as."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import LOSS_CAP
from trimtab.stats.metrics.lists import list_places
from trimtab.stats.metrics.loss_names import CLASS_LOSSES, PROBABILITIES, PROBABILITY_LOSSES, Loss, quantile_of, top_of

Floats = NDArray[np.float64]

_FAR = 3.0  # a cap is at least the loss of an error that is this many times the median error
_KEPT_OF_MEAN = 0.95  # a cap that leaves less than this share of the mean loss is raised until it leaves this share
_FEW = 0.99  # for numbers, a cap is raised at most to this quantile of the losses
_FEW_ROWS = 20  # for probabilities, a cap is raised at most to a loss that this many rows reach
_REFIT_PROBABILITY = 0.1
_REFIT_NUMBER = 0.25
_REFIT_PLACES = 0.2


def label_unit(metric: Loss, labels: Floats) -> float:
    """Return the unit for differences of scores: for numbers the labels' standard deviation, otherwise 1.

    With this unit, amounts in euros and in cents are treated alike.

    >>> label_unit("log_loss", np.array([0.0, 1.0])), label_unit("squared_error", np.array([100.0, 300.0]))
    (1.0, 100.0)
    """
    if metric in PROBABILITY_LOSSES or top_of(metric) is not None:
        return 1.0
    return float(labels.std()) or max(1.0, float(np.abs(labels).max(initial=0.0)))


def refit_distance(metric: Loss) -> float:
    """Return the default limit for the mean distance between the scores of a candidate and of its refit on more data.

    It is in units of `label_unit`.
    """
    if top_of(metric) is not None:
        return _REFIT_PLACES
    return _REFIT_PROBABILITY if metric in PROBABILITY_LOSSES else _REFIT_NUMBER


def mean_distance(one: Floats, other: Floats, lists: NDArray[np.int64] | None = None) -> float:
    """Return the mean distance between the scores of two models.

    For several classes, the distance is that of the class that differs most, so that the number of classes does not
    matter (D0076). The scores of a ranking have no scale. Their distance is the mean number of positions by which a row
    moves, divided by the length of the list. Two random orders have a distance of a third (D0086).

    >>> mean_distance(np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]]))
    0.25
    """
    if lists is not None:
        return float(np.abs(list_places(one, lists) - list_places(other, lists)).mean())
    return float(np.abs(one - other).mean(axis=0).max())


def loss_cap(metric: Loss, losses: Floats, before: float | None = None) -> float:
    """Return the cap of a row's loss, from losses on reference days. In daily sums, larger losses count as the cap.

    For probabilities, it is c, three times the log loss of a coin toss. If this cuts off more than 5 % of the mean
    loss, because one class is rare, it is 2 k - c, where k is the cap that leaves 95 % of the mean loss (but at most
    the 20th largest loss). So a rise of the losses of rare rows is still seen after a change. For numbers, it is the
    loss of an error that is three times the median error: for squared errors nine times the median loss, and for a
    quantile the loss of such an error on its costlier side. For counts, it is nine times the median or mean deviance,
    whichever is larger, because most rows may be 0 and have nearly no loss. If this would cut off a large part of the
    losses, the cap is raised until 95 % of the mean loss remains, but not above the 99 % quantile of the losses.

    For the log loss of several classes, it is three times the mean loss, but at least the cap for probabilities. Other
    losses of several classes, and those of lists, cannot exceed a fixed value, which is the cap.

    Args:
        before: The cap of a healthy version in service. It is kept unless it is far off, because the mean losses of
            both versions are compared, and a higher cap makes a mean higher. # D0187

    >>> loss_cap("absolute_error", np.array([1.0, 2.0, 50.0])), loss_cap("squared_error", np.array([1.0, 4.0, 900.0]))
    (6.0, 36.0)
    """
    if top_of(metric) is not None:
        return 1.0
    least, found = _caps(metric, losses)
    return before if before is not None and least / 2.0 <= before <= 20.0 * least else found


def _caps(metric: Loss, losses: Floats) -> tuple[float, float]:
    """Return the cap that follows from the typical loss, and this cap raised if it cuts off a large part of losses."""
    if metric in PROBABILITIES:
        kept = min(_leaving(losses, _KEPT_OF_MEAN), np.sort(losses)[-_FEW_ROWS]) if losses.size >= _FEW_ROWS else 0.0
        return LOSS_CAP, max(LOSS_CAP, 2.0 * float(kept) - LOSS_CAP)
    typical = float(np.median(losses)) if losses.size else 0.0
    mean = float(losses.mean()) if losses.size else 0.0
    if metric in CLASS_LOSSES:
        found = max(LOSS_CAP, _FAR * mean) if metric == "multi_log_loss" else 2.0 if metric == "multi_brier" else 1.0
        return found, found
    # the median may be 0 for counts and other losses
    typical = max(typical, mean) if metric == "poisson_deviance" else typical or mean
    if not (typical > 0.0 and np.isfinite(_far(metric) * typical)):
        return LOSS_CAP, LOSS_CAP
    least, most = _far(metric) * typical, float(np.quantile(losses, _FEW, method="lower"))
    return least, max(least, min(_leaving(losses, _KEPT_OF_MEAN), most))


def _leaving(losses: Floats, share: float) -> float:
    """Return the smallest cap with which a given share of the mean loss remains."""
    ordered = np.sort(losses)
    # for each loss, the sum of all losses if this loss were the cap
    left = np.cumsum(ordered) + ordered * np.arange(ordered.size - 1, -1, -1)
    return float(ordered[np.searchsorted(left, share * left[-1])])


def calibration_residuals(metric: Loss, labels: Floats, scores: Floats) -> Floats:
    """Return how far each row's score is above its label, shape (rows,). The mean is the signed calibration gap.

    For a quantile, the mean is the share of labels at or below their score, minus the level of the quantile; labels
    equal to their score count on the side that makes the gap smaller. The absolute error is smallest for the median,
    which is far from the mean where labels are skewed, so it is treated as the quantile 0.5. For several classes, the
    class whose mean probability is furthest from its share of the labels counts.
    """
    quantile = _aim(metric)
    if quantile is not None:
        below, up_to = (np.asarray(one, np.float64) - quantile for one in (labels < scores, labels <= scores))
        return below if below.mean() > 0.0 else up_to if up_to.mean() < 0.0 else np.zeros(len(labels))
    if metric in CLASS_LOSSES:
        shares = np.bincount(labels.astype(np.int64), minlength=scores.shape[1]) / labels.size
        furthest = int(np.abs(scores.mean(axis=0) - shares).argmax())
        return np.asarray(scores[:, furthest] - (labels == furthest), np.float64)
    return np.asarray(scores - labels, np.float64)


def calibration_gap(metric: Loss, labels: Floats, scores: Floats) -> float:
    """Return the absolute mean of `calibration_residuals`: how far the mean score is from the mean label.

    >>> calibration_gap("pinball(0.5)", np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 3.5))
    0.25
    """
    return abs(float(calibration_residuals(metric, labels, scores).mean()))


def gap_unit(metric: Loss, labels: Floats) -> float:
    """Return the unit of a limit for the calibration gap: 1 if it is a share of labels (quantiles), or `label_unit`."""
    return 1.0 if _aim(metric) is not None else label_unit(metric, labels)


def _aim(metric: Loss) -> float | None:
    """Return the quantile of the labels that minimises the loss; None if another number does, such as the mean."""
    return 0.5 if metric == "absolute_error" else quantile_of(metric)


def _far(metric: Loss) -> float:
    """Return the largest loss that an error of three times the median error can have, divided by the median loss."""
    quantile = quantile_of(metric)
    if quantile is not None:
        return _FAR * max(quantile, 1.0 - quantile) / min(quantile, 1.0 - quantile)
    return _FAR if metric == "absolute_error" else _FAR * _FAR
