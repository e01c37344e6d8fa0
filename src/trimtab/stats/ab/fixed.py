"""Comparison of two variants at a fixed time, which was decided before the start. It may be read once."""

from __future__ import annotations

import numpy as np

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
