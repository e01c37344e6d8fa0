"""Comparison of two variants at a fixed time, which was decided before the start. It may be read once."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from trimtab.core.errors import Misuse
from trimtab.stats.ab.arms import Arm, Better, Effect
from trimtab.stats.ab.readings import effects, p_of, readings, tail_score


def compare(
    control: Arm,
    treatment: Arm,
    *,
    ratio: bool = False,
    cuped: bool = False,
    days: bool = True,
    correlated: bool = True,
    level: float = 0.95,
    two_sided: bool = True,
    better: Better = "higher",
) -> Effect:
    """Compare two variants once. If it is repeated until it shows an effect, the effect may be coincidence.

    With `days`, the interval is the wider one of two: from the units within days, and from the daily differences. So
    intervals are wide for fewer than 14 days (for 7 days, 1.4 times as wide as by the units alone), and infinite for
    one day. At a level of 0.95, the interval misses the true effect in at most 6 % of experiments. If the effect itself
    changes from day to day, it is up to 7 %: this was measured with changes that add as much variance as the units do,
    and a correlation of .4 between neighbouring days.

    Args:
        control: The sums of the control.
        treatment: The sums of the treatment, over the same blocks.
        ratio: Whether the metric is the sum of y divided by the sum of d (delta method).
        cuped: Whether to subtract what a covariate from before the exposure predicts. If the covariate has the
            correlation r with the metric within days, this multiplies the variance by 1 - r**2.
        days: Whether the daily differences count as observations (see above). Otherwise only the units do (Welch's
            test), which is right if units were assigned at random, and the result is only about these days.
        correlated: Whether the effects of neighbouring days may be correlated.
        level: The confidence level.
        two_sided: Whether to look for an effect in both directions.
        better: For a one-sided comparison: the direction to look in. The bound on that side is infinite.

    Raises:
        Misuse: See `readings`; or the level is not between 0 and 1.

    Source: Welch (1947); Deng, Xu, Kohavi & Walker (2013).

    >>> from trimtab.stats.ab.arms import arm_of
    >>> rng = np.random.default_rng(5)
    >>> days = np.repeat(np.arange(20), 500)
    >>> arms = [arm_of((rng.random(10_000) < rate) * 1.0, days, count=20) for rate in (0.10, 0.12)]
    >>> found = compare(*arms)
    >>> 0 < found.low < 0.02 < found.high, found.method
    (True, 'day blocks')
    """
    score = tail_score(level, two_sided)
    found = readings(
        control, treatment, [control.units.size], ratio=ratio, cuped=cuped, days=days, correlated=correlated
    )
    errors = found.errors()
    weights, _ = found.relative_weights()
    p = np.where(errors.freedom > 0.0, p_of(errors.score(found.difference), two_sided, better), np.nan)
    method = ", ".join(
        ["day blocks" if days else "delta ratio" if ratio else "welch", *(["ratio"] if days and ratio else [])]
        + (["cuped"] if cuped else [])
    )
    reach = (errors.reach(score), found.errors(weights).reach(score))
    return effects(found, *reach, p, method, two_sided=two_sided, better=better)[0]


def compare_shares(
    control: tuple[int, int],
    treatment: tuple[int, int],
    *,
    level: float = 0.95,
    two_sided: bool = True,
    better: Better = "higher",
) -> Effect:
    """Compare two shares of independent units. The interval also holds for few units, and for shares near 0 or 1.

    Args:
        control: The number of successes, and the number of units.
        treatment: The same for the treatment.
        level: The confidence level.
        two_sided: Whether to look for an effect in both directions.
        better: For a one-sided comparison: the direction to look in.

    Raises:
        Misuse: A variant has no units, or more successes than units.

    Source: interval from Wilson's score intervals of each share, Newcombe (1998), method 10; p by the pooled z-test.

    >>> found = compare_shares((48, 80), (56, 70))
    >>> round(found.low, 4), round(found.high, 4)
    (0.0524, 0.3339)
    """
    score = tail_score(level, two_sided)
    arms = (control, treatment)
    if not all(0 <= successes <= units and units > 0 for successes, units in arms):
        raise Misuse(f"shares: needs successes from 0 to the number of units, found {control} and {treatment}.")
    shares = [successes / units for successes, units in arms]
    (low_c, high_c), (low_t, high_t) = (_wilson(share, arm[1], score) for share, arm in zip(shares, arms, strict=True))
    difference = shares[1] - shares[0]
    pooled = (control[0] + treatment[0]) / (control[1] + treatment[1])
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / control[1] + 1.0 / treatment[1]))
    z = difference / error if error else 0.0
    lower = difference - math.hypot(shares[1] - low_t, high_c - shares[0])
    upper = difference + math.hypot(high_t - shares[1], shares[0] - low_c)
    return Effect(
        control=shares[0],
        treatment=shares[1],
        difference=difference,
        low=lower if two_sided or better == "higher" else -math.inf,
        high=upper if two_sided or better == "lower" else math.inf,
        relative=difference / shares[0] if shares[0] else None,
        relative_low=None,
        relative_high=None,
        units=(control[1], treatment[1]),
        p=float(2.0 * ndtr(-abs(z)) if two_sided else ndtr(-z if better == "higher" else z)),
        method="newcombe",
    )


def _wilson(share: float, units: int, score: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share."""
    square = score * score / units
    middle = (share + square / 2.0) / (1.0 + square)
    reach = score / (1.0 + square) * math.sqrt(share * (1.0 - share) / units + square / units / 4.0)
    return middle - reach, middle + reach
