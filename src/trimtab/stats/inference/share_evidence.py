"""Evidence that shares differ, computed from counts and valid at every look.

Consider trials with probabilities p1, p2, ... and K successes among the first n. The product exp(tilt * K) / prod(1 - p
+ p * exp(tilt)) is 1 on average at all times, whatever each probability depends on. If each probability is replaced by
their mean, the product does not become larger, because log(1 - p + p * exp(tilt)) is concave in p. An average over
several tilts has the same property. So the probability that such evidence ever reaches 1 / a is at most a, over all
looks together, even if the probabilities change with time. The evidence of two independent counts is multiplied.

Source: Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences"
(the method of mixtures); Ville (1939).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse

_UP = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # tilts; 0 is among them so that evidence is never far below 1
_DOWN = (0.0, -0.25, -1.0, -4.0)
_CELLS = np.concatenate(
    ([0.0], np.geomspace(1e-5, 0.1, 160), np.linspace(0.1, 1.0, 181)[1:])
)  # number of values that are tried for the lower share

Floats = NDArray[np.float64]


def log_above(count: ArrayLike, total: ArrayLike, share: ArrayLike) -> Floats:
    """Logarithm of the evidence that `total` trials with `count` successes have a mean probability above `share`.

    Args:
        count: Number of successes, of any shape; the arguments are broadcast.
        total: Number of trials.
        share: In [0, 1].

    >>> bool(log_above(12, 200, 0.01) > math.log(100) > log_above(4, 200, 0.01))
    True
    """
    return _log_mixture(count, total, share, _UP)


def log_below(count: ArrayLike, total: ArrayLike, share: ArrayLike) -> Floats:
    """Logarithm of the evidence that the mean probability is below `share`; arguments as in `log_above`.

    >>> bool(log_below(0, 1_000, 0.01) > math.log(100) > log_below(9, 1_000, 0.01))
    True
    """
    return _log_mixture(count, total, share, _DOWN)


def log_higher(
    ours: tuple[int, int], theirs: tuple[int, int], bound: Callable[[Floats], Floats] = lambda share: share
) -> float:
    """Logarithm of the evidence that our share is higher than `bound` of the other share.

    Args:
        ours: Number of our successes and trials.
        theirs: Number of successes and trials of the group that we are compared with.
        bound: Returns the greatest allowed value of our share for a value of the other share; it must not decrease.

    Raises:
        Misuse: There are more successes than trials.

    >>> log_higher((30, 400), (20, 8_000), lambda share: share + 0.01) > math.log(1_000)
    True
    >>> log_higher((3, 400), (20, 8_000), lambda share: share + 0.01) < 0.0
    True
    """
    for count, total in (ours, theirs):
        if not 0 <= count <= total:
            raise Misuse(f"share evidence: {count} of {total}. Give successes and trials.")
    most = np.minimum(bound(_CELLS[1:]), 1.0)  # valid whatever the other share is within a cell
    return float((log_above(*ours, most) + log_below(*theirs, _CELLS[:-1])).min())


def _log_mixture(count: ArrayLike, total: ArrayLike, share: ArrayLike, tilts: tuple[float, ...]) -> Floats:
    k, n, p = np.broadcast_arrays(*(np.asarray(one, np.float64)[..., None] for one in (count, total, share)))
    tilt = np.array(tilts)
    logs = tilt * k - n * np.log1p(p * np.expm1(tilt))
    top = logs.max(axis=-1)
    found: Floats = top + np.log(np.exp(logs - top[..., None]).sum(axis=-1)) - math.log(len(tilts))
    return found
