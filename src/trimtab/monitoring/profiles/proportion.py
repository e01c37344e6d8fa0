"""Limits beyond which a number is called extreme, computed from the smallest and largest value of each day."""

from __future__ import annotations

import numpy as np

from trimtab.monitoring.profiles.profile_records import Floats

_BEYOND = 3.0  # the distance of the limit from the usual extremes, as a multiple of the range between these
_BEYOND_LOG = 1.0  # the same on a logarithmic scale, for columns with a long tail
# for a column that is mostly 0, such as rain: the limit as a multiple of the usual largest value of a day
_BEYOND_ZERO = 10.0
_SKEWED = 3.0  # a tail is long if the upper half of the values is this many times as wide as the lower half
_ALONE = 4.0  # the extreme of a day is left out if it is more than this many ranges beyond those of the other days
_ALONE_DAYS = 14  # at most one day in this many is left out


def limits(low: Floats, high: Floats, quantiles: tuple[float, float, float, float]) -> tuple[float, float]:
    """Return the smallest and the largest normal value of a column. They are infinite if all values are equal.

    The extreme of one day in fourteen is left out if it is far from those of the other days, as it may be an error.

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
    (-9.0, 30.0)
    """
    least, lower, middle, upper = quantiles
    if least >= 0.0 and middle == 0.0:
        usual = _usual(high, 0.0)
        return (-_BEYOND * usual, _BEYOND_ZERO * usual) if usual else (-np.inf, np.inf)
    if least >= 0.0 and upper - middle > _SKEWED * (middle - lower):
        most = _beyond(np.log1p(high / middle), float(np.log(2.0)), _BEYOND_LOG)
        return -_BEYOND * middle, middle * float(np.expm1(most))
    return -_beyond(-low, -middle, _BEYOND, high), _beyond(high, middle, _BEYOND, -low)


def _beyond(extremes: Floats, middle: float, ranges: float, other: Floats | None = None) -> float:
    """Return the usual extreme value of a day, plus a multiple of the range of values."""
    usual = _usual(extremes, middle)
    width = usual + _usual(other, -middle) if other is not None else usual - middle
    return usual + ranges * max(width, abs(usual) * 1e-6) if width else np.inf


def _usual(extremes: Floats, middle: float) -> float:
    ordered = np.sort(extremes)
    others = ordered[: ordered.size - max(1, ordered.size // _ALONE_DAYS)]
    if not others.size:
        return float(ordered[-1])
    usual = float(others[-1])
    within = ordered[ordered <= usual + _ALONE * (usual - middle)]
    return float(within[-1]) if within.size else usual
