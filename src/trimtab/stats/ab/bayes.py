"""A Bayesian reading of an effect: the probability that the treatment is better, and what a wrong choice would cost.

The prior is a normal distribution around no effect, because most experiments change little. The result says how
probable effects are given the data, and may be read at any time. But if the experiment is stopped as soon as this
probability is high, the decision has no stated error rate. A confidence sequence (`ab.sequential`) has one.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from scipy.special import ndtr, ndtri

from trimtab.core.errors import Misuse
from trimtab.stats.ab.arms import Arm, Better
from trimtab.stats.ab.readings import readings
from trimtab.stats.interval import check_level

PRIOR = 0.1  # the standard deviation of the prior, in standard deviations of a unit's value: most effects are smaller


class Posterior(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution of the difference treatment - control, given the prior and the data."""

    difference: float  # the mean of the posterior; the prior draws it towards 0
    low: float  # the bounds of the interval that contains the difference with the probability `level`
    high: float
    probability_better: float
    expected_loss: float  # if the treatment is chosen: the mean of max(0, control's advantage), in units of the metric


def posterior(
    control: Arm,
    treatment: Arm,
    *,
    ratio: bool = False,
    cuped: bool = False,
    days: bool = True,
    correlated: bool = True,
    prior_sd: float | None = None,
    level: float = 0.95,
    better: Better = "higher",
) -> Posterior:
    """Return the posterior distribution of the effect. For arguments that are not listed, see `ab.fixed.compare`.

    Args:
        treatment: The sums of the treatment, over the same blocks.
        prior_sd: The standard deviation of the prior, in units of the metric. By default it is a tenth of the standard
            deviation of a unit's value.
        level: The probability with which the difference is inside the interval.
        better: The direction in which the metric is better.

    Raises:
        Misuse: See `readings`; or the prior's standard deviation is not above 0.

    Source: conjugate normal model, e.g. Gelman et al. (2013), "Bayesian Data Analysis", 2.5.

    >>> from trimtab.stats.ab.arms import arm_of
    >>> rng = np.random.default_rng(5)
    >>> days = np.repeat(np.arange(20), 500)
    >>> arms = [arm_of((rng.random(10_000) < rate) * 1.0, days, count=20) for rate in (0.10, 0.12)]
    >>> found = posterior(*arms)
    >>> found.probability_better > 0.99, found.expected_loss < 0.0001
    (True, True)
    """
    check_level(level)
    found = readings(
        control, treatment, [control.units.size], ratio=ratio, cuped=cuped, days=days, correlated=correlated
    )
    errors = found.errors()
    # the variance of a normal distribution whose 95 % interval is as wide as the one that `compare` would give
    variance = float(errors.reach(1.959964)[0] / 1.959964) ** 2
    unit_sd = math.sqrt(float(errors.floor[0] * found.information[0])) if np.isfinite(errors.floor[0]) else math.nan
    prior = prior_sd if prior_sd is not None else PRIOR * unit_sd
    if prior_sd is not None and not prior_sd > 0.0:
        raise Misuse(f"posterior: the standard deviation of the prior must be above 0, found {prior_sd}.")
    if not math.isfinite(variance) or not prior > 0.0:
        mean, sd = 0.0, prior if prior > 0.0 else math.nan
    else:
        trust = prior**2 / (prior**2 + variance)
        mean, sd = trust * float(found.difference[0]), math.sqrt(trust * variance)
    reach = -float(ndtri((1.0 - level) / 2.0)) * sd
    up = mean if better == "higher" else -mean
    return Posterior(
        difference=mean,
        low=mean - reach,
        high=mean + reach,
        probability_better=float(ndtr(up / sd)) if sd > 0.0 else 0.5,
        expected_loss=_expected_below(up, sd),
    )


def _expected_below(mean: float, sd: float) -> float:
    """Return the mean of max(0, -x) for a normal x."""
    if not sd > 0.0:
        return max(0.0, -mean)
    z = mean / sd
    return sd * math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi) - mean * float(ndtr(-z))
