"""Which numbers are out of all proportion to those before: limits beyond the usual extremes of days."""

from __future__ import annotations

import numpy as np

from trimtab.monitoring.profile_records import Floats

_BEYOND = 3.0  # ranges beyond the usual extremes of a day from which on a value is out of all proportion
_BEYOND_LOG = 1.0  # of columns with a long tail, on the scale of orders of magnitude
_SKEWED = 3.0  # the upper half is so many times as wide as the lower one


def limits(low: Floats, high: Floats, quantiles: tuple[float, float, float, float]) -> tuple[float, float]:
    """The limits of a column of numbers; days whose extremes stand alone do not count, for they may be faulty.

    Args:
        low: The least value of each day.
        high: The greatest value of each day.
        quantiles: Of all values: the least one, the 3 %, 50 % and 97 % quantile.

    >>> low = np.array([0.0, 1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0])
    >>> high = np.array([10.0, 12.0, 1000.0, 9.0, 11.0, 10.0, 12.0, 11.0])
    >>> limits(low, high, (0.0, 1.0, 5.0, 9.0))
    (-36.0, 48.0)
    """
    least, lower, middle, upper = quantiles
    if least >= 0.0 and middle > 0.0 and upper - middle > _SKEWED * (middle - lower):
        most = _beyond(np.log1p(high / middle), float(np.log(2.0)), _BEYOND_LOG)
        return -_BEYOND * middle, middle * float(np.expm1(most))
    return -_beyond(-low, -middle, _BEYOND, high), _beyond(high, middle, _BEYOND, -low)


def _beyond(extremes: Floats, middle: float, ranges: float, other: Floats | None = None) -> float:
    """The usual extreme of a day, and some ranges more."""
    usual = _usual(extremes, middle)
    width = usual + _usual(other, -middle) if other is not None else usual - middle
    return usual + ranges * max(width, abs(usual) * 1e-6, 1e-300)


def _usual(extremes: Floats, middle: float) -> float:
    first, second, third = np.quantile(extremes, (0.25, 0.5, 0.75))
    step = max(float(third - first), float(second - middle))
    return float(extremes[extremes <= second + 4.0 * step].max())
