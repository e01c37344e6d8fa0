"""Expected numbers of new units a day, from those of past days: their trend, and how the days of a week differ."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from trimtab.stats.ab.arms import FloatArray

_WEEK = 7
TREND_DAYS = 10  # with fewer days, a trend cannot be told from the days of a week
# A trend must change the units of a week by at least this share and this many standard errors (if units come
# independently), and explain at least this share of the variance of the weeks.
_CHANGE, _Z, _EXPLAINS = 0.2, 3.0, 0.8
# A constant number of units per day is added to a trend after so many days, if this reduces the squared errors to
# below this share.
_CONSTANT_DAYS, _CLOSER = 21, 1 / 3


def trend(units: FloatArray, days: int) -> tuple[FloatArray, bool]:
    """Return the expected units of each of `days` days, and whether they follow a trend; if not, each is the mean.

    New units become fewer if the same ones return. So a * exp(-b * day) + c is fitted to the means of all weeks; c are
    units that keep coming, 0 unless three weeks show them. If units become more, they are expected to stay as many as
    at the end of the past days.

    Args:
        units: The new units of each past day.
        days: The number of days, counted from the first past day; at least the number of past days.

    >>> expected, follows = trend(500.0 * 0.9 ** np.arange(28.0) + 20.0, 100)
    >>> follows, [round(float(expected[day])) for day in (0, 27, 99)]
    (True, [521, 49, 21])
    """
    mean = np.full(days, units.mean())
    if units.size < TREND_DAYS:
        return mean, False
    weeks = _by_week(units)
    first, last = weeks[0], weeks[-1]
    if abs(last - first) <= max(_CHANGE * max(first, last), _Z * ((first + last) / _WEEK) ** 0.5):
        return mean, False
    scale, sign = 1.0 / np.sqrt(np.maximum(weeks, 1.0)), 1.0 if last < first else -1.0
    day = np.arange(days) if last < first else np.minimum(np.arange(days), units.size - 1)

    def fitted(constant: float) -> tuple[float, FloatArray]:
        """Return the best curve, preceded by its weighted sum of squared errors."""
        fits = []
        for half in np.geomspace(1.0, 3.0 * units.size, 60):  # the days in which what changes is halved, or doubled
            curve = np.column_stack([np.exp2(-sign * day / half), np.full(days, constant)])
            curve[:, 0] /= curve[: units.size, 0].max()
            smooth = np.column_stack([_by_week(one) for one in curve[: units.size].T])
            found, off = nnls(smooth * scale[:, None], weeks * scale)
            fits.append((off**2, curve @ found))
        return min(fits, key=lambda one: one[0])

    off, expected = fitted(0.0)
    if units.size >= _CONSTANT_DAYS and (with_constant := fitted(1.0))[0] < _CLOSER * off:
        off, expected = with_constant
    flat = (weeks - np.average(weeks, weights=scale**2)) * scale
    return (expected, True) if off < (1.0 - _EXPLAINS) * float(flat @ flat) else (mean, False)


def courses(units: FloatArray, days: int) -> tuple[tuple[float, ...], ...]:
    """Return the expected units of each of `days` days, for a start on each day of the week.

    The differences between the newest past days (whole weeks, if there is one) are repeated, around the trend. If all
    past days are equal, the result is empty.
    """
    expected, follows = trend(units, max(days, units.size))
    if not follows and np.ptp(units) <= 1e-9 * units.mean():
        return ()
    size = units.size // _WEEK * _WEEK or units.size
    shape = (units / np.maximum(expected[: units.size], 1e-9))[units.size - size :]
    return tuple(
        tuple((expected[:days] * np.resize(np.roll(shape, -start), days)).tolist()) for start in range(min(_WEEK, size))
    )


def _by_week(values: FloatArray) -> FloatArray:
    """Return the means over each seven days in a row (they overlap)."""
    return np.convolve(values, np.full(_WEEK, 1.0 / _WEEK), "valid")
