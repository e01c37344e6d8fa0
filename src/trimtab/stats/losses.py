"""What one row costs, by metric: the currency of gates, alarms and tables."""

import numpy as np
from numpy.typing import ArrayLike

from trimtab.core.errors import Misuse
from trimtab.stats.loss_names import CLASS_LOSSES, loss_kind, quantile_of
from trimtab.stats.loss_names import Loss as Loss
from trimtab.stats.scores import CLIP, FloatArray, checked_chances, log_loss_rows

LEAST_RATE = 1e-9  # a foretold count of 0 costs what this one does: finite, and no estimator's idea of a good answer


def row_losses(metric: Loss, labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """The loss of each row, shape (rows,); smaller is better, the mean is the metric.

    Args:
        metric: A name from `LOSSES` or `CLASS_LOSSES`, or `pinball(q)`. Of lists see `unit_losses`.
        labels: Shape (rows,): 0 and 1 for log loss, at least 0 for the Poisson deviance, the number of its class where
            there are several.
        scores: Shape (rows,), of several classes (rows, classes). A foretold count below 1e-9 is taken for 1e-9.

    Raises:
        Misuse: Shapes that differ, labels outside their range, a metric that does not exist.

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
    if loss_kind(metric) == "ranking":  # refuses a name that does not exist, too
        raise Misuse(f"{metric}: a row of a list has no loss of its own. Ask for those of lists: unit_losses.")
    return np.abs(gap) if metric == "absolute_error" else gap * gap


def _class_losses(metric: Loss, labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """Minus the log of the true class's chance; the squared distance to it; 1 where another is the likeliest."""
    y, p = checked_chances(labels, scores, metric)
    if metric == "error_rate":
        return np.asarray(np.argmax(p, axis=1) != y, np.float64)
    true = p[np.arange(y.size), y]
    if metric == "multi_log_loss":
        return np.asarray(-np.log(np.clip(true, CLIP, 1.0 - CLIP)), np.float64)
    squared: FloatArray = (p * p).sum(axis=1) - 2.0 * true + 1.0
    return np.maximum(squared, 0.0)  # rounding may leave -1e-16


def _poisson_deviance(y: FloatArray, p: FloatArray) -> FloatArray:
    """Twice the log likelihood that is lost against foretelling each count itself."""
    from scipy.special import xlogy  # here: it takes a tenth of a second to load

    bad = np.flatnonzero(y < 0.0)
    if bad.size:
        raise Misuse(
            f"poisson_deviance: labels must be counts of at least 0; row {bad[0]} of {y.size} holds {y[bad[0]]}. "
            "Mend the label, or choose squared_error or absolute_error."
        )
    rate = np.maximum(p, LEAST_RATE)
    losses: FloatArray = 2.0 * (xlogy(y, y / rate) - y + rate)
    return np.maximum(losses, 0.0)  # rounding may leave -1e-16 where both are equal
