"""Evidence that shares differ, computed from counts. It stays valid if it is looked at repeatedly.

Trials succeed with the probabilities p1, p2, ..., and the first n trials have K successes. For any number `tilt`, the
quotient exp(tilt * K) / prod(1 - p + p * exp(tilt)) is 1 on average after each trial, even if each probability depends
on earlier trials. The quotient does not become larger if each p is replaced by the mean probability, because
log(1 - p + p * exp(tilt)) is concave in p. Nor does it if the mean probability is then replaced by a `share` that is at
least as large (for a negative `tilt`: at most as large). The evidence that the mean probability is above (below)
`share` is the average of the quotients with `share` over several tilts. If the mean probability is not above (below)
`share`, the evidence is at most 1 on average. Therefore the probability that it ever reaches 1 / a is at most a, for
all looks together, even if the probabilities change over time. If two counts are independent, their evidence is
multiplied.

Source: Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences"
(the method of mixtures); Ville (1939).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse

# values of `tilt`: above 0 for too many successes, below 0 for too few. For 0, the quotient is always 1, so the average
# over the eight (four) values is at least 1 / 8 (1 / 4)
_UP = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
_DOWN = (0.0, -0.25, -1.0, -4.0)
_CELLS = np.concatenate(
    ([0.0], np.geomspace(1e-5, 0.1, 160), np.linspace(0.1, 1.0, 181)[1:])
)  # the edges of cells that together cover all values that the other group's unknown share may have

Floats = NDArray[np.float64]


def log_above(count: ArrayLike, total: ArrayLike, share: ArrayLike) -> Floats:
    """Return the logarithm of the evidence that trials succeed with a mean probability above `share`.

    Args:
        count: The number of successes, of any shape. The arguments are broadcast.
        total: The number of trials.
        share: The probability to compare with, in [0, 1].

    >>> bool(log_above(12, 200, 0.01) > math.log(100) > log_above(4, 200, 0.01))
    True
    """
    return _log_mixture(count, total, share, _UP)


def log_below(count: ArrayLike, total: ArrayLike, share: ArrayLike) -> Floats:
    """Return the logarithm of the evidence that trials succeed with a mean probability below `share`; see `log_above`.

    >>> bool(log_below(0, 1_000, 0.01) > math.log(100) > log_below(9, 1_000, 0.01))
    True
    """
    return _log_mixture(count, total, share, _DOWN)


def log_higher(
    ours: tuple[int, int], theirs: tuple[int, int], bound: Callable[[Floats], Floats] = lambda share: share
) -> float:
    """Return the logarithm of the evidence that our share is above `bound(share)`, where `share` is another group's.

    The other group's share is unknown. The result is the smallest evidence over all values that it may have.

    Args:
        ours: Our number of successes, and our number of trials.
        theirs: The other group's number of successes and number of trials.
        bound: Returns the largest allowed value of our share, given the other group's share. It must not decrease.

    Raises:
        Misuse: There are more successes than trials, or fewer than 0.

    >>> log_higher((30, 400), (20, 8_000), lambda share: share + 0.01) > math.log(1_000)
    True
    >>> log_higher((3, 400), (20, 8_000), lambda share: share + 0.01) < 0.0
    True
    """
    for count, total in (ours, theirs):
        if not 0 <= count <= total:
            raise Misuse(
                f"share evidence: found {count} successes in {total} trials. Give no more successes than trials, and "
                "none below 0."
            )
    # the bound at the upper end of each cell, so that the evidence is valid for all shares in the cell
    most = np.minimum(bound(_CELLS[1:]), 1.0)
    return float((log_above(*ours, most) + log_below(*theirs, _CELLS[:-1])).min())


def _log_mixture(count: ArrayLike, total: ArrayLike, share: ArrayLike, tilts: tuple[float, ...]) -> Floats:
    k, n, p = np.broadcast_arrays(*(np.asarray(one, np.float64)[..., None] for one in (count, total, share)))
    tilt = np.array(tilts)
    logs = tilt * k - n * np.log1p(p * np.expm1(tilt))
    top = logs.max(axis=-1)
    found: Floats = top + np.log(np.exp(logs - top[..., None]).sum(axis=-1)) - math.log(len(tilts))
    return found
