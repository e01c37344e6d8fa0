"""The loss of each row, for each metric. Gates, alarms and reports use it."""

import numpy as np
from numpy.typing import ArrayLike

from trimtab.core.errors import Misuse
from trimtab.core.records import LOSS_CAP
from trimtab.stats.metrics.loss_names import CLASS_LOSSES, PROBABILITY_LOSSES, loss_kind, quantile_of
from trimtab.stats.metrics.loss_names import Loss as Loss
from trimtab.stats.scores import CLIP, FloatArray, checked_probabilities, log_loss_rows

# the smallest predicted count: a prediction of 0 is raised to it, so that its loss is large but finite
LEAST_RATE = 1e-9


def row_losses(metric: Loss, labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Return the loss of each row, shape (rows,). Smaller is better. The mean loss is the metric.

    Args:
        metric: A name from `LOSSES` or `CLASS_LOSSES`, or `pinball(q)`. For losses of lists use `unit_losses`.
        labels: Labels, shape (rows,). They are 0 or 1 for binary losses, at least 0 for the Poisson deviance, and class
            indices for several classes.
        scores: Scores, shape (rows,). For several classes the shape is (rows, classes). A predicted count below 1e-9
            counts as 1e-9.

    Raises:
        Misuse: The metric does not exist or is one of rankings. For log loss and several classes: shapes differ, or
            values are out of range. For the Poisson deviance: a label is negative. Other metrics check nothing.

    >>> row_losses("absolute_error", [1.0, 2.0], [1.5, 2.0]).tolist()
    [0.5, 0.0]
    >>> row_losses("pinball(0.75)", [2.0, 0.0], [1.0, 1.0]).tolist()
    [0.75, 0.25]
    >>> row_losses("error_rate", [2, 0], [[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]).tolist()
    [0.0, 1.0]
    """
    if metric == "log_loss":
        return log_loss_rows(labels, scores)
    if metric in CLASS_LOSSES:
        return _class_losses(metric, labels, scores)
    y, p = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if metric == "poisson_deviance":
        return _poisson_deviance(y, p)
    gap: FloatArray = y - p
    quantile = quantile_of(metric)
    if quantile is not None:
        return np.maximum(quantile * gap, (quantile - 1.0) * gap)
    if loss_kind(metric) == "ranking":  # this also raises an error for an unknown name
        raise Misuse(f"{metric}: a single row of a list has no loss. Compute the losses of whole lists: unit_losses.")
    return np.abs(gap) if metric == "absolute_error" else gap * gap


def expected_losses(metric: Loss, scores: ArrayLike, cap: float) -> FloatArray | None:
    """Return the loss that each row would have on average if its label were drawn from its scores, shape (rows,).

    Losses are capped at `cap` and divided by it. For log loss, this is the entropy of the predicted probabilities. If
    the observed losses are larger than this on average, the model is wrong. If observed losses are high, but not larger
    than this, the outcomes are merely hard to predict.

    Args:
        metric: A metric as in `row_losses`.
        scores: Scores, shape (rows,). For several classes the shape is (rows, classes).
        cap: Larger losses count as this.

    Returns:
        None for a metric whose scores are not probabilities, because a single number says nothing about the spread.

    Source: DeGroot & Fienberg (1983), the refinement part of a proper score.

    >>> expected_losses("brier", [0.5, 1.0], cap=1.0).tolist()
    [0.25, 0.0]
    >>> expected_losses("squared_error", [0.5, 1.0], cap=1.0) is None
    True
    """
    if metric not in PROBABILITY_LOSSES:
        return None
    p = np.asarray(scores, np.float64)
    by_class = p.T if p.ndim == 2 else np.stack([1.0 - p, p])
    expected = np.zeros(len(p))
    for label, share in enumerate(by_class):
        expected += share * bounded_losses(row_losses(metric, np.full(len(p), label), p), cap)
    return expected


def bounded_losses(losses: ArrayLike, cap: float = LOSS_CAP) -> FloatArray:
    """Return losses of rows, capped and scaled to [0, 1], so that one row cannot change the mean of a day much.

    >>> bounded_losses([0.0, np.log(2), 34.5]).round(3).tolist()
    [0.0, 0.333, 1.0]
    """
    scaled: FloatArray = np.minimum(np.asarray(losses, dtype=np.float64), cap) / cap
    return scaled


def _class_losses(metric: Loss, labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Return the loss of each row with a probability for each class, by the given metric.

    "multi_log_loss" is minus the logarithm of the true class's probability. "multi_brier" is the squared distance from
    the probabilities that are 1 for the true class and 0 for others. "error_rate" is 1 if another class is likelier.
    """
    y, p = checked_probabilities(labels, scores, metric)
    if metric == "error_rate":
        return np.asarray(np.argmax(p, axis=1) != y, np.float64)
    true = p[np.arange(y.size), y]
    if metric == "multi_log_loss":
        return np.asarray(-np.log(np.clip(true, CLIP, 1.0 - CLIP)), np.float64)
    squared: FloatArray = (p * p).sum(axis=1) - 2.0 * true + 1.0
    return np.maximum(squared, 0.0)  # rounding could give -1e-16


def _poisson_deviance(y: FloatArray, p: FloatArray) -> FloatArray:
    """Return the Poisson deviance: twice the difference in log likelihood to a prediction of the exact counts."""
    from scipy.special import xlogy  # imported here, because it takes a tenth of a second

    bad = np.flatnonzero(y < 0.0)
    if bad.size:
        raise Misuse(
            f"poisson_deviance: labels must be counts of at least 0; row {bad[0]} of {y.size} holds {y[bad[0]]}. "
            "Correct the label, or choose squared_error or absolute_error."
        )
    rate = np.maximum(p, LEAST_RATE)
    losses: FloatArray = 2.0 * (xlogy(y, y / rate) - y + rate)
    return np.maximum(losses, 0.0)  # rounding could give -1e-16 if both are equal
