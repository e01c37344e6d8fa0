"""A test that compares two models day by day, and may be repeated every day until it decides.

An ordinary test that is repeated each day finds a difference in the end, even if there is none. A confidence sequence
consists of intervals that are valid on all days together: the probability that any of them is ever wrong is at most
1 - level. On the n-th day, Student's t is computed from the mean differences of n days. The evidence is the likelihood
of this t for a true difference of some standard deviations, divided by its likelihood for a difference of 0, and
averaged over the differences in `SIZES`. If days are independent and normally distributed, the evidence is a test
martingale for any standard deviation. The mean of a day with hundreds of rows is nearly normal. Days that resemble the
day before carry less information, so the standard errors are increased accordingly.

An earlier comparison of similar versions shows how much the difference varies from day to day, but not how large it is
for the present models. With the days of such a comparison, the test may decide on the first day. Without them, it may
decide from the third day on.

Source: Lai (1976), "On confidence sequences"; Perez-Ortiz, Lardy, de Heide & Grunwald (2024), "E-statistics, group
invariance and anytime-valid testing".
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.interval import check_level

Verdict = Literal["promote", "hold", "reject"]
# the true differences over which the evidence is averaged, in standard deviations of a day
SIZES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# the assumed correlation of neighbouring days; the test stays valid up to a correlation of .4 (# D0199)
CORRELATION = 0.3


class PairedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence up to now about the loss of a new model (the successor) minus that of the champion."""

    days: int  # the number of days up to the decision, or up to now if there is none
    mean: float  # the mean of the daily differences; above 0, the successor is worse
    low: float  # the lower bound of the difference, valid on all days together; minus infinity: no bound yet
    high: float  # the upper bound of the difference, valid on all days together
    verdict: Verdict
    decided: int | None  # the day on which the test decided (1 = the first day); None while the verdict is "hold"


def paired_sequence(
    differences: ArrayLike,
    *,
    margin: float,
    tolerated: float = 0.0,
    earlier: ArrayLike = (),
    least: int = 1,
    level: float = 0.95,
) -> PairedSequence:
    """Decide from daily differences in loss whether a successor may take over. This may be called every day.

    Args:
        differences: For each day, the mean loss of the successor minus that of the champion; oldest first, shape
            (days,). Combine days with few rows before the call.
        margin: The successor may take over even if it is worse by less than this, in units of the loss.
        tolerated: A successor that is worse by at most this is not rejected, in units of the loss; below `margin`.
        earlier: Differences on earlier days, of a model similar to the successor. Their variation is used, but not
            their mean.
        least: The first day on which the verdict may be "promote" (1 = the first day), if all days together still prove
            it then. "reject" is possible on every day.
        level: The confidence level of each of the two bounds. If the models are equal, the probability that the
            successor is ever rejected is at most 1 - level.

    Returns:
        "reject" once it is proven that the successor is worse by more than `tolerated`, "promote" once it is proven
        that it is worse by less than `margin`, whichever comes first; else "hold".

    Raises:
        Misuse: A difference is not finite, `tolerated` is not in [0, margin), or the level is not between 0 and 1.

    Source: see the top of this file.

    >>> paired_sequence([0.031, 0.034, 0.029, 0.032], margin=0.01).verdict
    'reject'
    >>> paired_sequence([-0.011, -0.009, -0.012, -0.010, -0.011], margin=0.01).verdict
    'promote'
    >>> paired_sequence([0.004, -0.003], margin=0.01).verdict
    'hold'
    """
    x, before = np.asarray(differences, np.float64), np.asarray(earlier, np.float64)
    if x.ndim != 1 or before.ndim != 1 or not (np.isfinite(x).all() and np.isfinite(before).all()):
        raise Misuse(
            f"paired sequence: needs one finite number a day, found {x.tolist()} and (earlier) {before.tolist()}. "
            "Leave out empty days."
        )
    if not 0.0 <= tolerated < margin:
        raise Misuse(
            "paired sequence: needs a margin above 0, and a tolerated difference in [0, margin); found "
            f"{margin} and {tolerated}."
        )
    check_level(level)
    known, squares = max(0, before.size - 1), _squares(before)
    low, high = -math.inf, math.inf
    verdict: Verdict = "hold"
    decided = None
    for days in range(1, x.size + 1):
        freedom = days - 1 + known
        if not freedom:
            continue
        mean, spread = float(x[:days].mean()), math.sqrt((squares + _squares(x[:days])) / freedom)
        reach = distance_seen(days, spread, known=known, level=level)
        low, high = max(low, mean - reach), min(high, mean + reach)
        if low > tolerated or (mean + reach < margin and days >= least):
            verdict, decided = "reject" if low > tolerated else "promote", days
            break
    seen = x.size if decided is None else decided
    mean = float(x[:seen].mean()) if seen else 0.0
    return PairedSequence(days=seen, mean=mean, low=low, high=high, verdict=verdict, decided=decided)


def distance_seen(days: int, spread: float, *, known: int = 0, level: float = 0.95) -> float:
    """Return how far the true difference may be from the observed mean after `days` days; may be infinite.

    If this exceeds the margin of a test, the test cannot tell a model that is worse by the margin from an equal one
    within this many days.

    Args:
        days: The number of days, at least 1.
        spread: The standard deviation of a day's difference.
        known: How many degrees of freedom earlier days add to the estimate of `spread`.
        level: The confidence level of the bound.

    >>> distance_seen(2, 0.01), distance_seen(14, 0.01) < distance_seen(7, 0.01) < 0.03
    (inf, True)
    """
    wider = math.sqrt((1.0 + CORRELATION) / (1.0 - CORRELATION))
    reach = critical_t(days, days - 1 + known, level) * wider * spread / math.sqrt(days)
    return math.inf if math.isnan(reach) else reach


@lru_cache(maxsize=4096)
def critical_t(days: int, freedom: int, level: float) -> float:
    """Return the smallest Student's t for which the evidence reaches 1 / (1 - level); infinite if there is none.

    >>> round(critical_t(5, 4, 0.95), 1) > round(critical_t(20, 19, 0.95), 1)
    True
    """
    if freedom < 1:
        return math.inf
    wanted = -math.log1p(-level)
    low, high = 0.0, 1.0
    below, above = -wanted, log_evidence(high, days, freedom) - wanted
    while above < 0.0:
        low, high, below = high, 2.0 * high, above
        if high > 1e6:
            return math.inf
        above = log_evidence(high, days, freedom) - wanted
    # the next point is where the secant between both ends is 0; the value of the end that stays is halved (Illinois)
    while high - low > 1e-6 * high:
        middle = high - above * (high - low) / (above - below)
        found = log_evidence(middle, days, freedom) - wanted
        if abs(found) < 1e-7:
            return middle
        if found > 0.0:
            high, above, below = middle, found, below / 2.0
        else:
            low, below, above = middle, found, above / 2.0
    return high


def log_evidence(t: float, days: int, freedom: int) -> float:
    """Return the logarithm of the evidence that the true difference is above 0, given Student's t of the days.

    Args:
        t: The mean of the days divided by its standard error.
        days: The number of days, at least 1.
        freedom: The degrees of freedom of the standard error, at least 1.

    >>> log_evidence(6.0, 10, 9) > math.log(20) > log_evidence(2.0, 10, 9)
    True
    """
    along = t / math.sqrt(freedom + t * t)  # t, mapped to the range from -1 to 1
    shifts = np.array(SIZES) * math.sqrt(days)
    y = np.linspace(0.0, math.sqrt(freedom) + float(shifts[-1]) + 12.0, 4_001)[1:]
    with np.errstate(divide="ignore"):
        plain = freedom * np.log(y) - y * y / 2.0
    shifted = plain[None, :] + shifts[:, None] * along * y[None, :] - shifts[:, None] ** 2 / 2.0
    return _log_sum(shifted) - math.log(len(SIZES)) - _log_sum(plain)


def _squares(x: NDArray[np.float64]) -> float:
    """Return the sum of squared differences from the mean."""
    return float(((x - x.mean()) ** 2).sum()) if x.size else 0.0


def _log_sum(logs: NDArray[np.float64]) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))
