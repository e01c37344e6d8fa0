"""Evidence that shares differ, from counts, valid at every look.

Of trials with probabilities p1, p2, ... and K successes among the first n, the product exp(tilt * K) / prod(1 - p + p *
exp(tilt)) is 1 on average at all times, whatever each probability depends on; with their mean in place of each it is no
more, since log(1 - p + p * exp(tilt)) is concave in p. An average over tilts keeps that. So the probability that such
evidence ever reaches 1 / a is at most a, over all looks together, also if the probabilities change with time. Evidence
of two independent counts is multiplied.

Source: Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences"
(the method of mixtures); Ville (1939).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse

_UP = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)  # tilts; with 0 among them evidence is never far below 1
_DOWN = (0.0, -0.25, -1.0, -4.0)
_CELLS = np.concatenate(
    ([0.0], np.geomspace(1e-5, 0.1, 160), np.linspace(0.1, 1.0, 181)[1:])
)  # values of the lower share

Floats = NDArray[np.float64]


def log_above(count: ArrayLike, total: ArrayLike, share: ArrayLike) -> Floats:
    """Logarithm of the evidence that the mean probability of `total` trials with `count` successes is above `share`.

    Args:
        count: Successes, of any shape; the arguments are broadcast.
        total: Trials.
        share: In [0, 1].

    >>> bool(log_above(12, 200, 0.01) > math.log(100) > log_above(4, 200, 0.01))
    True
    """
    return _log_mixture(count, total, share, _UP)


def log_below(count: ArrayLike, total: ArrayLike, share: ArrayLike) -> Floats:
    """Logarithm of the evidence that the mean probability is below `share`; as `log_above`.

    >>> bool(log_below(0, 1_000, 0.01) > math.log(100) > log_below(9, 1_000, 0.01))
    True
    """
    return _log_mixture(count, total, share, _DOWN)


def log_higher(
    ours: tuple[int, int], theirs: tuple[int, int], bound: Callable[[Floats], Floats] = lambda share: share
) -> float:
    """Logarithm of the evidence that our share is above `bound` of theirs.

    Args:
        ours: Successes and trials.
        theirs: Of the ones that they are compared with.
        bound: Gives the most that our share may be where theirs is so high; it does not fall.

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
    most = np.minimum(bound(_CELLS[1:]), 1.0)  # whatever their share within a cell
    return float((log_above(*ours, most) + log_below(*theirs, _CELLS[:-1])).min())


def _log_mixture(count: ArrayLike, total: ArrayLike, share: ArrayLike, tilts: tuple[float, ...]) -> Floats:
    k, n, p = np.broadcast_arrays(*(np.asarray(one, np.float64)[..., None] for one in (count, total, share)))
    tilt = np.array(tilts)
    logs = tilt * k - n * np.log1p(p * np.expm1(tilt))
    top = logs.max(axis=-1)
    found: Floats = top + np.log(np.exp(logs - top[..., None]).sum(axis=-1)) - math.log(len(tilts))
    return found
