"""Find a sudden drop of a daily value, so that only the days after it are taken as normal."""

import math

import numpy as np
from numpy.typing import ArrayLike

BEFORE, AFTER = 7, 14  # there must be at least this many days before and after a drop
_PROVEN = 5.0  # the difference of the means must be this many standard errors; in healthy series, .3 % have that
_CORRELATION = 0.4  # the correlation of neighbouring days that the standard errors allow for
_SUDDEN = 0.75  # at least this share of the difference must be that between the week before and the week after


def since_drop(values: ArrayLike) -> int:
    """Return the index of the first value after the clearest sudden drop; 0 if there is no clear one.

    A slow fall, such as that of a season, is mostly no drop, because values may rise again as slowly (# D0234).

    >>> since_drop([5.0, 5.2, 4.9, 5.1, 5.0, 4.8, 5.1, 5.0, *[3.0, 3.1, 2.9, 3.2] * 4])
    8
    """
    x = np.asarray(values, np.float64)
    found, best = 0, _PROVEN
    least = 1e-9 * float(np.abs(x).max(initial=0.0))  # a smaller difference may be an error of rounding
    for place in range(BEFORE, x.size - AFTER + 1):
        before, after = x[:place], x[place:]
        difference = float(before.mean() - after.mean())
        if difference <= least:
            continue
        squares = float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())
        variance = squares / (x.size - 2) * (1.0 + _CORRELATION) / (1.0 - _CORRELATION)
        error = math.sqrt(variance * (1.0 / place + 1.0 / after.size))
        errors = difference / error if error else math.inf
        week = float(x[place - BEFORE : place].mean() - x[place : place + BEFORE].mean())
        if errors >= best and week >= _SUDDEN * difference:
            found, best = place, errors
    return found
