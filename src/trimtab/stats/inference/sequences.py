"""Confidence sequence of the daily difference of two models on the same rows, valid at every day.

A test that is repeated each day until it succeeds will succeed by chance in the end. A confidence sequence is valid at
all days at once: the probability that it is ever wrong is at most 1 - level. The evidence on the n-th day is the
likelihood ratio of Student's t of the daily mean differences, averaged over true differences of a quarter to eight
standard deviations of a day. Such an average is a test martingale if days are independent and normally distributed,
whatever their spread. The mean of a day over hundreds of rows is nearly normal. Days that resemble the day before carry
less information, so standard errors are widened accordingly.

Earlier days on which two such models differed show how much the difference varies from day to day, but not how large it
is for these two models. With earlier days the first day may already decide; without them, the third day is the
earliest.

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

Verdict = Literal["promote", "hold", "reject"]
# the true differences that the evidence is averaged over, in standard deviations of a day
SIZES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
CORRELATION = 0.3  # assumed correlation of neighbouring days; the evidence stays valid up to .4 (# D0199)


class PairedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence from the days so far about the loss of the successor minus that of the champion."""

    days: int
    mean: float  # mean of the daily differences; above 0 the successor is worse
    low: float  # lower bound, valid at all days with the stated level; minus infinity before the second day
    high: float  # upper bound, valid at all days with the stated level
    verdict: Verdict
    decided: int | None  # the day on which the test decided, 1 for the first day; None while the verdict is "hold"


def paired_sequence(
    differences: ArrayLike,
    *,
    margin: float,
    earlier: ArrayLike = (),
    least: int = 1,
    level: float = 0.95,
    correlation: float = CORRELATION,
) -> PairedSequence:
    """Decide from each day's mean loss difference whether a successor may take over; may be called every day.

    Args:
        differences: For each day, the mean over its rows of the successor's loss minus the champion's, oldest first,
            shape (days,). Merge days with few rows before the call.
        margin: How much worse the successor may be and still take over, in units of the loss.
        earlier: Differences of earlier days, by a model much like the successor. Only their spread is used, not their
            mean.
        least: The first day on which the verdict may be "promote", 1 for the first day. A verdict of "reject" has no
            such limit.
        level: The level of each of the two bounds. The probability that an equal successor is ever rejected is at most
            1 - level.
        correlation: The correlation of neighbouring days, from 0 to below 1.

    Returns:
        "reject" once the successor is proven worse, "promote" once it is proven less than `margin` worse, whichever
        comes first; else "hold".

    Raises:
        Misuse: A difference is not finite, the margin is not above 0, or the correlation not in [0, 1).

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
        raise Misuse(f"paired sequence: needs one finite number a day, found shape {x.shape}. Leave out empty days.")
    if not (margin > 0.0 and 0.0 <= correlation < 1.0):
        raise Misuse(
            f"paired sequence: needs a margin above 0 and a correlation in [0, 1), found {margin} and {correlation}."
        )
    known, squares = max(0, before.size - 1), _squares(before)
    low, high = -math.inf, math.inf
    verdict: Verdict = "hold"
    decided = None
    for days in range(1, x.size + 1):
        freedom = days - 1 + known
        if not freedom:
            continue
        mean, spread = float(x[:days].mean()), math.sqrt((squares + _squares(x[:days])) / freedom)
        reach = distance_seen(days, spread, known=known, level=level, correlation=correlation)
        low, high = max(low, mean - reach), min(high, mean + reach)
        if low > 0.0 or (high < margin and days >= least):
            verdict, decided = "reject" if low > 0.0 else "promote", days
            break
    seen = x.size if decided is None else decided
    mean = float(x[:seen].mean()) if seen else 0.0
    return PairedSequence(days=seen, mean=mean, low=low, high=high, verdict=verdict, decided=decided)


def distance_seen(
    days: int, spread: float, *, known: int = 0, level: float = 0.95, correlation: float = CORRELATION
) -> float:
    """The distance from the observed mean within which the true difference of so many days lies; may be infinite.

    A test whose margin is smaller than this distance cannot detect the margin in so many days.

    Args:
        days: Number of days, 1 or more.
        spread: Standard deviation of a day's difference.
        known: Degrees of freedom that earlier days add to the spread.
        level: Level of the bound.
        correlation: Correlation of neighbouring days.

    >>> distance_seen(2, 0.01), distance_seen(14, 0.01) < distance_seen(7, 0.01) < 0.03
    (inf, True)
    """
    wider = math.sqrt((1.0 + correlation) / (1.0 - correlation))
    reach = critical_t(days, days - 1 + known, level) * wider * spread / math.sqrt(days)
    return math.inf if math.isnan(reach) else reach


@lru_cache(maxsize=4096)
def critical_t(days: int, freedom: int, level: float) -> float:
    """The least Student's t of so many days at which the evidence is 1 / (1 - level); infinite if no t suffices.

    >>> round(critical_t(5, 4, 0.95), 1) > round(critical_t(20, 19, 0.95), 1)
    True
    """
    wanted = -math.log1p(-level)

    def lacking(t: float) -> bool:
        return log_evidence(t, days, freedom) < wanted

    if freedom < 1:
        return math.inf
    low, high = 0.0, 1.0
    while lacking(high):
        low, high = high, 2.0 * high
        if high > 1e6:
            return math.inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if lacking(middle) else (low, middle)
    return high


def log_evidence(t: float, days: int, freedom: int) -> float:
    """Logarithm of the evidence that the true difference is above 0, by Student's t of so many days.

    Args:
        t: Mean of the days divided by its standard error.
        days: Number of days, at least 1.
        freedom: Degrees of freedom of the standard error, at least 1.

    >>> log_evidence(6.0, 10, 9) > math.log(20) > log_evidence(2.0, 10, 9)
    True
    """
    along = t / math.sqrt(freedom + t * t)  # in [-1, 1], whatever the spread
    shifts = np.array(SIZES) * math.sqrt(days)
    y = np.linspace(0.0, math.sqrt(freedom) + float(shifts[-1]) + 12.0, 4_001)[1:]
    with np.errstate(divide="ignore"):
        plain = freedom * np.log(y) - y * y / 2.0
    shifted = plain[None, :] + shifts[:, None] * along * y[None, :] - shifts[:, None] ** 2 / 2.0
    return _log_sum(shifted) - math.log(len(SIZES)) - _log_sum(plain)


def _squares(x: NDArray[np.float64]) -> float:
    """The sum of squared differences from the mean."""
    return float(((x - x.mean()) ** 2).sum()) if x.size else 0.0


def _log_sum(logs: NDArray[np.float64]) -> float:
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))
