"""A lower bound of the calibration error, without the part of the error that is due to randomness."""

import numpy as np
from numpy.typing import ArrayLike

from trimtab.core.errors import Misuse
from trimtab.stats.interval import Interval, check_level
from trimtab.stats.scores import FloatArray, checked

_LEAST_BLOCKS = 3


def calibration_error_bound(
    labels: ArrayLike, scores: ArrayLike, blocks: ArrayLike, *, bins: int = 10, level: float = 0.95
) -> Interval:
    """Return the root mean squared distance between predicted and observed shares, with a lower confidence bound.

    The ordinary calibration error of a perfectly calibrated model is above 0, and larger for fewer rows, because the
    random part of a residual is squared. Here, residuals are only multiplied with those of other blocks, so that random
    parts cancel out on average. The bound is computed by leaving out one block at a time (a jackknife).

    Args:
        labels: 0 or 1, shape (rows,).
        scores: Probabilities, shape (rows,).
        blocks: The block of each row, for example its day, shape (rows,).
        bins: The number of bins. Bins have about equally many rows, and equal scores share a bin.
        level: The confidence level of the lower bound. The upper bound is infinite.

    Raises:
        Misuse: There are fewer than 3 blocks, the shapes differ, or labels or scores are not valid.

    Source: the debiased estimator of Kumar, Liang & Ma (2019), over blocks; jackknife, Efron & Tibshirani (1993).

    >>> days = np.repeat(np.arange(4), 50)
    >>> found = calibration_error_bound(np.tile([0, 1], 100), np.full(200, 0.9), days)
    >>> round(found.estimate, 3), round(found.low, 3)
    (0.4, 0.4)
    """
    check_level(level)
    from scipy.special import stdtrit  # imported here, because it takes a tenth of a second

    y, p = checked(labels, scores, "calibration error")
    if np.shape(blocks) != y.shape:
        raise Misuse(f"calibration error: needs one block for each row; found {np.shape(blocks)} for {y.shape}.")
    ids, block = np.unique(np.asarray(blocks), return_inverse=True)
    if ids.size < _LEAST_BLOCKS:
        raise Misuse(
            f"calibration error: needs rows of at least {_LEAST_BLOCKS} blocks, found {ids.size}. Wait for more days "
            "of labels."
        )
    edges = np.unique(np.quantile(p, np.arange(1, bins) / bins, method="inverted_cdf"))
    cell = np.searchsorted(edges, p, side="left") * ids.size + block
    shape, size = (edges.size + 1, ids.size), (edges.size + 1) * ids.size
    sums = np.bincount(cell, weights=p - y, minlength=size).reshape(shape)
    rows = np.bincount(cell, minlength=size).reshape(shape).astype(np.float64)
    squares = sums * sums
    estimate = _squared(sums.sum(1), squares.sum(1), rows.sum(1), ids.size)
    without = [
        _squared(
            sums.sum(1) - sums[:, n], squares.sum(1) - squares[:, n], rows.sum(1) - rows[:, n], blocks=ids.size - 1
        )
        for n in range(ids.size)
    ]
    error = float(np.std(without)) * float(np.sqrt(ids.size - 1))
    low = estimate - float(stdtrit(ids.size - 1, level)) * error
    return Interval(
        estimate=float(np.sqrt(max(estimate, 0.0))), low=float(np.sqrt(max(low, 0.0))), high=np.inf, level=level
    )


def _squared(sums: FloatArray, squares: FloatArray, rows: FloatArray, blocks: int) -> float:
    """Return the mean squared distance over the bins, computed only from products of residuals of different blocks."""
    there = rows > 0
    apart = (sums[there] ** 2 - squares[there]) * blocks / (blocks - 1)
    return float((apart / rows[there]).sum() / rows.sum())
