"""Runs of hours in which a column has too many nulls, and the longest run that is still normal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.monitoring.profiles.profile_records import Floats
from trimtab.monitoring.profiles.proportion import next_excess, without_faulty

GRADED_ROWS = 40  # hours are merged until a window has this many rows
GROSS = 0.95  # from this share of nulls on, nearly all rows are null
# A share of nulls is too high if it exceeds the highest normal share (`usual`) by this or, if that is less, by 0.4 of
# the distance from the highest normal share to 1.
MARGIN = 0.2
_BETWEEN = 1  # a run goes on over this many normal windows
_MOST_H = 12.0  # longer runs are only normal if at least `_LONG` were longer, so that a fault is found within a day
_LONG, _LONGER = 3, 1.5  # then runs are normal up to `_LONGER` times the longest one


def null_runs(rows: NDArray[np.int64], nulls: NDArray[np.int64], usual: Floats) -> list[float]:
    """Return the lengths of the runs of hours with too many nulls, newest run first.

    The length of a run is the sum of the shares of nulls in its hours: an hour in which half of the values are null
    counts half. Hours are merged into windows with enough rows. A run goes on over a single normal window.

    Args:
        rows: The number of rows of each hour, newest hour first.
        nulls: The number of nulls of each hour.
        usual: The highest normal share of nulls of each hour.

    >>> null_runs(np.full(9, 50), np.array([0, 50, 25, 0, 50, 0, 0, 30, 0]), np.zeros(9))
    [2.5, 0.6]
    """
    runs: list[float] = []
    normal = _BETWEEN + 1  # number of normal windows since the last one with too many nulls
    window_rows, window_nulls, lost, high = 0, 0, 0.0, 0.0
    for of_hour, null, most in zip(rows.tolist(), nulls.tolist(), usual.tolist(), strict=True):
        if not of_hour:
            continue
        window_rows, window_nulls = window_rows + of_hour, window_nulls + null
        lost, high = lost + null / of_hour, max(high, most)
        if window_rows < GRADED_ROWS:
            continue
        if window_nulls > (high + min(MARGIN, 0.4 * (1.0 - high))) * window_rows:
            if normal > _BETWEEN:
                runs.append(0.0)
            runs[-1] += lost
            normal = 0
        elif window_nulls < GROSS * window_rows:  # if nearly all rows are null, the run goes on, even if this is normal
            normal += 1
        window_rows, window_nulls, lost, high = 0, 0, 0.0, 0.0
    return runs


def normal_run(runs: list[float], days: float) -> float:
    """Estimate the length that a run exceeds once in ten years, from the runs of some days.

    The result is at most twelve hours or, if at least three runs were longer, 1.5 times the longest one. It is 0 if
    there were no runs, or a single one, which may have been a fault.
    """

    def limit(some: Floats) -> float:
        if not some.size:
            return 0.0
        most = _LONGER * float(some.max()) if np.count_nonzero(some > _MOST_H) >= _LONG else _MOST_H
        return min(next_excess(some, days), most)

    return limit(without_faulty(np.array(runs), limit))
