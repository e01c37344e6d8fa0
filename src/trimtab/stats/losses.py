"""What one row costs, by metric: the currency of gates, alarms and tables."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from trimtab.stats.scores import FloatArray, log_loss_rows

Loss = Literal["log_loss", "brier", "squared_error", "absolute_error"]


def row_losses(metric: Loss, labels: ArrayLike, scores: ArrayLike) -> FloatArray:
    """The loss of each row, shape (rows,); smaller is better, the mean is the metric.

    Raises:
        Misuse: Shapes that differ, or (for log loss) labels other than 0 and 1.

    >>> row_losses("absolute_error", [1.0, 2.0], [1.5, 2.0]).tolist()
    [0.5, 0.0]
    """
    if metric == "log_loss":
        return log_loss_rows(labels, scores)
    gap: FloatArray = np.asarray(labels, np.float64) - np.asarray(scores, np.float64)
    return np.abs(gap) if metric == "absolute_error" else gap * gap
