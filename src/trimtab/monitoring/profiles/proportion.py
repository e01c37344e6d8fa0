"""Limits beyond which a number is extreme, computed from the smallest and the largest value of each day."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from trimtab.monitoring.profiles.profile_records import Floats

_BEYOND = 3.0  # a value is extreme if it is this many ranges (see `_beyond`) beyond the usual extreme of a day
_BEYOND_LOG = 1.0  # the same on a log scale, for columns with a long tail
_SKEWED = 3.0  # a tail is long if the upper half is this many times as wide as the lower half
_ALONE = 4.0  # a day's extreme may be faulty if it is this many ranges beyond the other days' extremes
_ALONE_DAYS = 14  # one day in this many may be faulty
_FALSE = 0.1  # this many values a year may exceed the estimate of `next_excess`
# the limit of rare values is between these multiples of the largest of them
_LEAST_TAIL, _MOST_TAIL = 10.0, 1000.0


def limits(low: Floats, high: Floats, quantiles: tuple[float, float, float, float]) -> tuple[float, float]:
    """Return the smallest and the largest normal value of a column. They are infinite if all values are equal.

    One day in fourteen is ignored if its extreme lies far from the others, because it may be faulty. If about half of
    the values or more are equal (for rain, 0), the others are rare, and a few weeks do not show how large they can
    become. Then `_rare` estimates the limit. For a column without negative values that has a long tail, the upper limit
    is computed on a log scale.

    Args:
        low: The smallest value of each day, shape (days,).
        high: The largest value of each day, shape (days,).
        quantiles: The smallest value, and the 3 %, 50 % and 97 % quantiles, of all values.

    >>> low = np.array([0.0, 1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0])
    >>> high = np.array([10.0, 12.0, 1000.0, 9.0, 11.0, 10.0, 12.0, 11.0])
    >>> limits(low, high, (0.0, 1.0, 5.0, 9.0))
    (-36.0, 48.0)
    >>> rain = np.array([0.0, 0.0, 3.0, 0.0, 0.5, 0.0, 1.0, 0.0])
    >>> limits(np.zeros(8), rain, (0.0, 0.0, 0.0, 1.0))
    (-9.0, 3000.0)
    """
    least, lower, middle, upper = quantiles
    lowest, highest = -_beyond(-low, -middle, _BEYOND, high), _beyond(high, middle, _BEYOND, -low)
    if upper == middle > low.min():
        lowest = middle - _rare(middle - low)
    if lower == middle < high.max():
        highest = middle + _rare(high - middle)
    elif least >= 0.0 and upper - middle > _SKEWED * (middle - lower):
        most = _beyond(np.log1p(high / middle), float(np.log(2.0)), _BEYOND_LOG)
        return -_BEYOND * middle, middle * float(np.expm1(most))
    return lowest, highest


def next_excess(excesses: Floats, days: float) -> float:
    """Estimate the value that is exceeded once in ten years, from one or more positive values in a number of days.

    The values are assumed to be independent and exponential with an unknown mean. Then another value is above x with
    the probability (1 + x / s) ** -k, where s is the sum of the k values.

    Source: Lawless, A prediction problem concerning samples from the exponential distribution (Technometrics, 1971).

    >>> round(next_excess(np.ones(10), 365.0), 1), round(next_excess(np.ones(1000), 36500.0), 1)
    (5.8, 4.6)
    """
    a_year = 365.0 * excesses.size / days
    return float(excesses.sum() * (max(a_year / _FALSE, 1.0) ** (1.0 / excesses.size) - 1.0))


def without_faulty(values: Floats, limit: Callable[[Floats], float]) -> Floats:
    """Sort values, and leave out those that may be faulty, so that a fault in the reference does not hide the next one.

    Values are left out above the limit that `limit` computes from all but the greatest fourteenth (at least one value).
    """
    ordered = np.sort(values)
    return ordered[ordered <= limit(ordered[: ordered.size - max(1, ordered.size // _ALONE_DAYS)])]


def _rare(excesses: Floats) -> float:
    """Return a limit for the excesses.

    An excess is how far the extreme of a day is from the value that about half of the rows have.

    The limit is infinite if fewer than two excesses are above 0. The upper half of these is assumed to follow a power
    law. Then the logarithms of their ratios to the largest excess of the lower half are exponential. 1 is added to the
    sum of the logarithms, because a few equal excesses do not prove that the next one is equal.

    Source: Weissman, Estimation of parameters and large quantiles based on the k largest observations (JASA, 1978).
    """

    def limit(some: Floats) -> float:
        there = np.sort(some[some > 0.0])[::-1]
        count = there.size // 2
        if not count:
            return math.inf
        logs = np.log(there[:count] / there[count]) + 1.0 / count
        ratio = next_excess(logs, some.size) - math.log(there[0] / there[count])
        return float(there[0]) * min(max(math.exp(min(ratio, 99.0)), _LEAST_TAIL), _MOST_TAIL)

    return limit(without_faulty(excesses, limit))


def _beyond(extremes: Floats, middle: float, ranges: float, other: Floats | None = None) -> float:
    """Return the usual extreme of a day, plus a multiple of the range of values.

    Given `other` (the extremes on the other side, with the opposite sign), the range is the distance between the usual
    extremes of both sides. Otherwise it is the distance from the usual extreme to the middle.
    """
    usual = _usual(extremes, middle)
    width = usual + _usual(other, -middle) if other is not None else usual - middle
    return usual + ranges * max(width, abs(usual) * 1e-6) if width else np.inf


def _usual(extremes: Floats, middle: float) -> float:
    """Return the largest extreme of a day, without days whose extreme is far beyond that of all others."""
    ordered = np.sort(extremes)
    others = ordered[: ordered.size - max(1, ordered.size // _ALONE_DAYS)]
    if not others.size:
        return float(ordered[-1])
    usual = float(others[-1])
    within = ordered[ordered <= usual + _ALONE * (usual - middle)]
    return float(within[-1]) if within.size else usual
