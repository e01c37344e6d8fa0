"""Quantiles of a value per unit, such as the median or the 95 % quantile of a waiting time, from mergeable counts.

Values are counted in bins of equal relative width, so that the counts of days can be added up. To compare quantiles,
each unit's value is replaced: by quantile - (1 - q) / density if it is below the quantile of its variant, and otherwise
by quantile + q / density, where density is that of the values at the quantile. The mean of the new values is the
quantile, and their standard error is about that of the quantile. So every rule that compares means can be used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.ab.arms import Arm, FloatArray

WIDTH = 0.01  # the relative width of a bin; a quantile is off by at most this
SMALLEST = 1e-9  # values closer to 0 than this count as 0
Histogram = Mapping[int, int]  # the number of units in each bin
_STEP = math.log1p(WIDTH)
# `_slope` looks at two intervals around q. These are their half-widths, in standard errors of the share below q
_SCORES = (1.96, 3.0)
_JUMP = 1.7  # the quantile is at a jump if the steepest slope is this many times the slope over the narrower interval


def bins_of(values: FloatArray) -> NDArray[np.int64]:
    """Return the bin of each value. Values of 0 are in bin 0, negative values have negative bins.

    Raises:
        Misuse: A value is not finite.

    >>> bins_of(np.array([0.0, 1.0, 1.001, 1.02, -1.0]))
    array([    0,  2083,  2083,  2085, -2083])
    """
    if not np.isfinite(values).all():
        raise Misuse(f"bins: {int((~np.isfinite(values)).sum())} values are not finite. Leave them out.")
    sizes = np.maximum(np.abs(values), SMALLEST)
    bins = np.floor(np.log(sizes / SMALLEST) / _STEP).astype(np.int64) + 1
    found: NDArray[np.int64] = np.where(np.abs(values) <= SMALLEST, 0, np.sign(values).astype(np.int64) * bins)
    return found


def bin_edges(bins: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Return the lower and the upper edge of each bin.

    >>> low, high = bin_edges(bins_of(np.array([250.0])))
    >>> bool(low[0] <= 250.0 < high[0]), round(float(high[0] / low[0]), 6)
    (True, 1.01)
    """
    sizes = np.abs(bins)
    near = np.where(sizes > 0, SMALLEST * np.exp((sizes - 1) * _STEP), 0.0)
    far = np.where(sizes > 0, SMALLEST * np.exp(sizes * _STEP), 0.0)
    return np.where(bins < 0, -far, near), np.where(bins < 0, -near, far)


def quantile_arm(histograms: Sequence[Histogram], q: float, weights: FloatArray | None = None) -> Arm:
    """Return the sums of one variant's replaced values (see the top of this file), whose mean is the quantile.

    Args:
        histograms: The counts of each block, the oldest block first.
        q: The quantile, between 0 and 1.
        weights: The weight of a unit in each block; by default 1. With the weights of `day_weights`, a day has the same
            weight in both variants, even if the variants' shares of the units change from day to day.

    Raises:
        Misuse: The quantile is not between 0 and 1.

    Source: the linear form of a quantile, Bahadur (1966); the density from two quantiles around q, Woodruff (1952).

    >>> arm = quantile_arm([{2083: 50, 2100: 50}, {2083: 10, 2090: 80, 2100: 10}], 0.5)
    >>> round(float(arm.y.sum() / arm.units.sum()), 2)
    1.07
    """
    if not 0.0 < q < 1.0:
        raise Misuse(f"quantile: needs a share between 0 and 1 such as 0.95, found {q}.")
    bins = np.array(sorted({one for histogram in histograms for one in histogram}), np.int64)
    counts = np.array([[histogram.get(int(one), 0) for one in bins] for histogram in histograms], np.float64)
    counts = counts.reshape(len(histograms), bins.size)
    units = counts.sum(1)
    total = float(units.sum())
    if not total:
        return Arm(units=units, y=units, yy=units)
    mixed = counts.sum(0) if weights is None else weights @ counts
    low, high = bin_edges(bins)
    below = np.concatenate([[0.0], np.cumsum(mixed)]) / float(mixed.sum())

    def value_at(share: float) -> float:
        """Return the value below which a share of the units lies, as if units were evenly spread within a bin."""
        place = int(np.clip(np.searchsorted(below, share, side="left") - 1, 0, bins.size - 1))
        inside = (share - below[place]) / max(below[place + 1] - below[place], 1e-300)
        return float(low[place] + min(max(inside, 0.0), 1.0) * (high[place] - low[place]))

    value = value_at(q)
    slope = _slope(value_at, q, total)
    place = int(np.clip(np.searchsorted(below, q, side="left") - 1, 0, bins.size - 1))
    # this part of the quantile's bin counts as below the quantile, so that the mean is `value`
    inside = (q - below[place]) / max(below[place + 1] - below[place], 1e-300)
    under = counts[:, :place].sum(1) + inside * counts[:, place]
    rest = units - under
    if_under, if_over = value - (1.0 - q) * slope, value + q * slope
    return Arm(units=units, y=if_under * under + if_over * rest, yy=if_under**2 * under + if_over**2 * rest)


def _slope(value_at: Callable[[float], float], q: float, units: float) -> float:
    """Return an estimate of 1 / density at a quantile.

    Usually it is the slope of `value_at` over the narrower of two intervals around q. But if many units have the same
    value, the quantile may jump to another value when q changes a little. A jump is assumed if the slope over the
    wider interval, or on one side of q, is much steeper. Then the steepest slope is returned.
    """
    value, slopes = value_at(q), list[float]()
    for score in _SCORES:
        reach = score * math.sqrt(q * (1.0 - q) / units)
        up, down = min(reach, 0.999 * (1.0 - q)), min(reach, 0.999 * q)
        above, below = value_at(q + up) - value, value - value_at(q - down)
        slopes += [(above + below) / (up + down), above / up, below / down]
    return max(slopes) if max(slopes) > _JUMP * slopes[0] else slopes[0]
