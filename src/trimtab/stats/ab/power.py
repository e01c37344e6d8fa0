"""Power of a design: which effects each rule finds, and after how many days.

The daily differences of many experiments are drawn at random (with a fixed seed), and the rule is applied to them. So
the power allows for estimated variances and for repeated looks, and is exact to about .01. The one exception is the
rule "fixed" with days=False: its power is computed from Student's t. Days with few units weigh less, as in `readings`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np
from scipy.special import nctdtr, ndtr, ndtri, stdtrit

from trimtab.core.errors import Misuse
from trimtab.stats.ab.arms import FloatArray
from trimtab.stats.ab.readings import CORRELATION, Errors, allow_for_correlation, effective_days, tail_score
from trimtab.stats.ab.sequential import CLOSEST, EVEN, TUNED, TYPICAL, critical_by_days, mixture_score, spending_bounds

Rule = Literal["sequence", "msprt", "obrien_fleming", "fixed"]
RUNS = 2_000  # the number of experiments that are drawn


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """A planned comparison of two variants. For `rule`, `days` and `correlated`, see `ab.fixed` and `ab.sequential`."""

    units_per_day: float  # of both variants together, on average
    # if days differ: the units of both variants on each day since the start, repeated if there are too few. If they
    # depend on the start, there are several courses, such as one for each weekday; each is drawn equally often
    courses: tuple[tuple[float, ...], ...] = ()
    sd: float  # the standard deviation of a unit's value
    share: float = 0.5  # the treatment's share of the units
    explained: float = 0.0  # the share of the variance that a covariate explains (CUPED)
    # the standard deviation of the true difference from day to day; large in a switchback, where a day has one variant
    day_sd: float = 0.0
    rule: Rule = "sequence"
    days: bool = True  # whether the daily differences count as observations; otherwise only the units do
    correlated: bool = True
    looks: int = 5  # the number of looks, only for "obrien_fleming"
    level: float = 0.95
    two_sided: bool = True

    def __post_init__(self) -> None:
        if not (0.5 < self.level < 1.0 and 0.0 <= self.day_sd < math.inf):
            raise Misuse(
                f"power: level={self.level}, day_sd={self.day_sd}. Give a level between 0.5 and 1, such as 0.95, "
                "and a finite day_sd of 0 or more."
            )
        if not (math.isfinite(self.sd) and math.isfinite(self.units_per_day)):
            raise Misuse(f"power: sd={self.sd}, units_per_day={self.units_per_day}. Give finite numbers.")
        if not all(min(one, default=-1.0) >= 0.0 and 0.0 < sum(one) < math.inf for one in self.courses):
            raise Misuse("power: a course has a negative number of units, no unit, or infinitely many.")
        if not (self.units_per_day > 0.0 and self.sd > 0.0 and 0.0 < self.share < 1.0 and 0.0 <= self.explained < 1.0):
            raise Misuse(
                f"power: needs units, a standard deviation above 0, and shares below 1, found {self.units_per_day} "
                f"units a day, sd {self.sd}, share {self.share}, explained {self.explained}."
            )

    @property
    def daily_variance(self) -> float:
        """The variance of the difference on a day with `units_per_day` units, if the effect is the same every day."""
        unit = self.sd**2 * (1.0 - self.explained)
        return unit / self.units_per_day * (1.0 / self.share + 1.0 / (1.0 - self.share))

    def shapes(self, days: int) -> list[FloatArray]:
        """Return for each course the units of each day as a share of `units_per_day`, shape (days,), all above 0."""
        courses = [np.resize(np.array(one, np.float64), days) for one in self.courses] or [
            np.full(days, self.units_per_day)
        ]
        return [np.maximum(one / self.units_per_day, 1e-9) for one in courses]


def power(design: Design, effect: float, days: int) -> float:
    """Return the probability that an experiment shows an effect, in the right direction, within `days` days.

    Args:
        design: The comparison.
        effect: The true difference, in units of the metric.
        days: The number of days; for "fixed" and "obrien_fleming", the planned number.

    Source: noncentral t distribution, Johnson & Welch (1940), for "fixed" with days=False.

    >>> design = Design(units_per_day=400, sd=0.3, rule="fixed", days=False)
    >>> round(power(design, 0.01, 50), 3)
    0.654
    """
    if design.rule == "fixed" and not design.days:
        counted = float(np.mean([one.sum() for one in design.shapes(days)]))
        drift = abs(effect) / math.sqrt(design.daily_variance / counted)
        freedom = design.units_per_day * counted - 2.0
        if freedom <= 0.0:
            return 0.0
        tail = (1.0 - design.level) / (2.0 if design.two_sided else 1.0)
        if freedom > 1e5:
            return float(ndtr(drift + ndtri(tail)))
        return 1.0 - float(nctdtr(freedom, drift, stdtrit(freedom, 1.0 - tail)))
    return float(np.mean(_found_at(design, effect, days) <= days))


def detectable_effect(design: Design, days: int, *, power: float = 0.8) -> float:
    """Return the smallest effect that an experiment finds within `days` days with the probability `power`.

    Infinity: even an effect of a million standard deviations would not be found.

    >>> design = Design(units_per_day=400, sd=0.3, rule="fixed", days=False)
    >>> round(detectable_effect(design, 50), 4)
    0.0119
    """
    low, high = 0.0, math.sqrt(design.daily_variance + design.day_sd**2)
    while _power(design, high, days) < power:
        low, high = high, 2.0 * high
        if high > 1e6 * design.sd:
            return math.inf
    while high - low > 1e-4 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if _power(design, middle, days) < power else (low, middle)
    return high


def days_needed(design: Design, effect: float, *, power: float = 0.8, most: int = 365) -> int | None:
    """Return the number of days after which an effect is found with the probability `power`. None: more than `most`.

    >>> fixed = Design(units_per_day=400, sd=0.3, rule="fixed", days=False)
    >>> sequence = msgspec.structs.replace(fixed, rule="sequence", days=True)
    >>> days_needed(fixed, 0.01), days_needed(sequence, 0.01) > days_needed(fixed, 0.01)
    (71, True)
    """
    if design.rule in ("sequence", "msprt"):
        found = np.sort(_found_at(design, effect, most))[math.ceil(power * RUNS) - 1]
        return int(found) if found <= most else None
    low, high = 0, design.looks if design.rule == "obrien_fleming" else 2
    while _power(design, effect, high) < power:
        low, high = high, 2 * high
        if low >= most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        short = design.rule == "obrien_fleming" and middle < design.looks
        low, high = (middle, high) if short or _power(design, effect, middle) < power else (low, middle)
    return high if high <= most else None


_power = power


def _found_at(design: Design, effect: float, days: int) -> FloatArray:
    """Return the day on which each drawn experiment finds the effect; infinity: never. Shape (RUNS,)."""
    hit = abs(effect) > _least(design, days)
    return np.where(hit.any(1), hit.argmax(1) + 1.0, np.inf)


@lru_cache(maxsize=2)
def _least(design: Design, days: int) -> FloatArray:
    """Return limits, shape (RUNS, days): a look finds effects above the limit of its day. Infinity: no look."""
    shapes, found = design.shapes(days), np.empty((RUNS, days))
    for number, shape in enumerate(shapes):
        runs = slice(number, None, len(shapes))
        noise = math.sqrt(design.daily_variance) * _drawn(days)[runs] / np.sqrt(shape)
        if design.day_sd:
            noise += design.day_sd * _drawn(days, correlated=True)[runs]
        found[runs] = _least_of(design, shape, noise)
    return found


def _least_of(design: Design, shape: FloatArray, noise: FloatArray) -> FloatArray:
    """Return the rows of `_least` for experiments of one course, given their daily differences without an effect."""
    days, counted = shape.size, np.cumsum(shape)
    mean = np.cumsum(shape * noise, axis=1) / counted
    floor = design.daily_variance / counted
    if not design.days:
        errors = Errors(floor=floor, variance=floor, freedom=np.full(days, 1e9))
        return _reach(design, errors, counted) - mean
    effective, factor = effective_days(np.tril(np.tile(shape, (days, 1))) / counted[:, None])
    squares = np.cumsum((shape * noise) ** 2, axis=1) - 2.0 * mean * np.cumsum(shape**2 * noise, axis=1)
    squares += mean**2 * np.cumsum(shape**2)
    variance = np.maximum(squares, 0.0) / counted**2 * factor
    if design.correlated:
        variance = allow_for_correlation(variance, floor, effective - 1.0)
    return _reach(design, Errors(floor=floor, variance=variance, freedom=effective - 1.0), counted) - mean


def _reach(design: Design, errors: Errors, counted: FloatArray) -> FloatArray:
    """Return how far bounds are from the estimate on each day; infinite on days without a look.

    The shape is (runs, days), or (days,) if all drawn experiments have the same bounds. `counted` is the number of
    units up to and including each day, divided by `units_per_day`.
    """
    error, days = 1.0 - design.level, counted.size
    score = np.full(days, np.inf)
    if design.rule == "sequence" and design.days:
        whole = np.floor(errors.freedom + 0.25)  # as in `compare_any_time`
        critical = critical_by_days(whole, 1.0 - error / (2.0 if design.two_sided else 1.0))
        with np.errstate(invalid="ignore"):
            reach = critical * np.sqrt(errors.variance)
        return np.where(np.isfinite(reach), reach, np.inf)
    if design.rule == "sequence":
        score = mixture_score(CLOSEST * design.units_per_day * counted / TUNED, error, design.two_sided)
    elif design.rule == "msprt":
        information = design.units_per_day * design.share * (1.0 - design.share) * counted
        # one variance for all drawn experiments (their mean) is close enough, and a hundred times as fast
        typical = np.maximum(errors.variance, errors.floor).mean(0) if errors.variance.ndim > 1 else errors.floor
        strength = TYPICAL**2 * information * errors.floor / typical
        score = mixture_score(strength, error, design.two_sided)
    elif design.rule == "obrien_fleming":
        ends = [round(days * look / design.looks) for look in range(1, design.looks + 1)]
        times = tuple(end / days for end in ends)
        seen = counted[np.array(ends) - 1] / counted[-1]
        # as in `obrien_fleming`: if shares of the information and of the time are close, those of the time are used;
        # otherwise, each look adds at least 0.1 / looks
        least = 0.1 / design.looks * np.arange(1, design.looks + 1)
        grown = np.maximum.accumulate(np.maximum(seen - least, 0.0)) + least
        shares = times if np.abs(seen - times).max() <= EVEN else tuple(grown.tolist())
        score[np.array(ends) - 1] = spending_bounds(times, shares, level=design.level, two_sided=design.two_sided)
    else:
        score[-1] = tail_score(design.level, design.two_sided)
    return np.where(np.isfinite(score), errors.reach(np.where(np.isfinite(score), score, 1.0)), np.inf)


@lru_cache(maxsize=8)
def _drawn(days: int, *, correlated: bool = False) -> FloatArray:
    """Return standard normal noise for the units or, correlated from day to day, the effect, shape (RUNS, days)."""
    drawn: FloatArray = np.random.default_rng(20_190_717).standard_normal((1 + correlated, RUNS, days))[-1]
    for day in range(1, days if correlated else 0):
        drawn[:, day] = CORRELATION * drawn[:, day - 1] + math.sqrt(1 - CORRELATION**2) * drawn[:, day]
    return drawn
