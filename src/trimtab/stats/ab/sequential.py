"""Comparison of two variants that may be read repeatedly: every day, or at some planned times.

The rules "sequence" and "msprt" may be read after every block, for as long as one likes: the probability that any of
the intervals is ever wrong is at most 1 - level. The rule of O'Brien and Fleming is for a planned number of looks. It
finds smaller effects, but it is valid only for these looks.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from trimtab.core.errors import Misuse
from trimtab.stats.ab.arms import Arm, Better, Effect, FloatArray
from trimtab.stats.ab.readings import Readings, effects, readings, tail_score
from trimtab.stats.inference.sequences import critical_t, log_evidence

AnyTimeRule = Literal["sequence", "msprt"]
# with days=False, the mixture of the confidence sequence is tuned to give its narrowest interval at this many units
TUNED = 20_000
# the strength of the mixture (see `_strength`) at `TUNED` units
CLOSEST = -2.0 * math.log(0.05) + math.log(1.0 - 2.0 * math.log(0.05))
TYPICAL = 0.05  # the typical effect that mSPRT is tuned for, in standard deviations of a unit
FEWEST = 100  # with days=False, there is no interval until each variant has this many units
# the degrees of freedom for which the critical t is computed; for others it is interpolated
_LADDER = np.array([*range(1, 25), *np.unique(np.geomspace(25, 20_000, 120).astype(int))], np.float64)
FARTHEST = 9.0  # bounds are normal scores, and this is the largest one
EVEN = 0.05  # if shares of information and of time differ by at most this at all looks, the shares of time are used
FAR = 6.5  # the numerical integration ends at this score


def compare_any_time(
    control: Arm,
    treatment: Arm,
    *,
    rule: AnyTimeRule = "sequence",
    ends: list[int] | None = None,
    ratio: bool = False,
    cuped: bool = False,
    days: bool = True,
    correlated: bool = True,
    level: float = 0.95,
    two_sided: bool = True,
    better: Better = "higher",
) -> list[Effect]:
    """Return the effect after each look. Each may be read, and the experiment may be stopped at any of them.

    With `days`, the evidence of "sequence" is a likelihood ratio of Student's t, computed from the daily differences
    and averaged over sizes of the effect. It can show an effect from the third day on. Without `days`, "sequence" is
    the asymptotic confidence sequence of the units. "msprt" averages normal likelihood ratios over sizes of the effect.

    Args:
        treatment: The sums of the treatment, over the same blocks.
        rule: "sequence" or "msprt".
        ends: For each look, how many blocks it sees, counted from the first; by default one look after every block.
        level: The confidence level of all intervals together. For the other arguments see `ab.fixed.compare`.

    Raises:
        Misuse: See `readings`; or the level is not between 0 and 1.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), "Time-uniform central limit theory and asymptotic
    confidence sequences"; Johari, Koomen, Pekelis & Walsh (2022), "Always valid inference"; for days see
    `trimtab.stats.inference.sequences`.

    >>> from trimtab.stats.ab.arms import arm_of
    >>> rng = np.random.default_rng(5)
    >>> days = np.repeat(np.arange(20), 500)
    >>> arms = [arm_of((rng.random(10_000) < rate) * 1.0, days, count=20) for rate in (0.10, 0.13)]
    >>> found = compare_any_time(*arms)
    >>> len(found), found[2].low < 0 < found[-1].low, found[-1].p < 0.05
    (20, True, True)
    """
    tail_score(level, two_sided)
    found = readings(
        control,
        treatment,
        list(range(1, control.units.size + 1)) if ends is None else ends,
        ratio=ratio,
        cuped=cuped,
        days=days,
        correlated=correlated,
    )
    weights, _ = found.relative_weights()
    error = 1.0 - level
    if rule == "sequence" and days:
        reach, p = _reach_of_days, _p_of_days(found, two_sided, better)
    else:
        reach, p = _reach_of_mixture, _p_of_mixture(found, rule, two_sided, better)
    absolute, relative = (reach(found, which, rule, error, two_sided) for which in (None, weights))
    method = {"sequence": "confidence sequence", "msprt": "msprt"}[rule] + (", day blocks" if days else "")
    return effects(found, absolute, relative, p, method, two_sided=two_sided, better=better)


def _reach_of_days(
    found: Readings, weights: FloatArray | None, rule: AnyTimeRule, error: float, two_sided: bool
) -> FloatArray:
    """Return the distance between the estimate and its bounds, by Student's t of the days; shape (looks,)."""
    errors = found.errors(weights)
    level = 1.0 - error / (2.0 if two_sided else 1.0)
    critical = critical_by_days(_whole(errors.freedom), level)
    with np.errstate(invalid="ignore"):
        reach: FloatArray = critical * np.sqrt(errors.variance)
    return reach


def _whole(freedom: FloatArray) -> FloatArray:
    """Add 0.25 to degrees of freedom and round down, so that three days with about equal numbers of units have 2."""
    found: FloatArray = np.floor(freedom + 0.25)
    return found


def _p_of_days(found: Readings, two_sided: bool, better: Better) -> FloatArray:
    """Return the p of each look, shape (looks,): 1 / (evidence of Student's t of the days), or twice that if two-sided.

    It is 1 before the third day (in a switchback, the fourth), and for a one-sided comparison if the effect has the
    wrong sign.
    """
    errors = found.errors()
    p = np.ones(errors.variance.size)
    for look, freedom in enumerate(_whole(errors.freedom)):
        if freedom >= 2.0:
            t = float(found.difference[look] / math.sqrt(errors.variance[look]))
            towards = abs(t) if two_sided else t if better == "higher" else -t
            if towards > 0.0:
                evidence = log_evidence(towards, int(freedom) + 1, int(freedom))
                p[look] = min(1.0, (2.0 if two_sided else 1.0) * math.exp(-max(evidence, 0.0)))
    return p


def _strength(found: Readings, weights: FloatArray | None, rule: AnyTimeRule) -> FloatArray:
    """Return the variance of the effects in the mixture, divided by that of the estimate; shape (looks,).

    It is 0, and there is no interval, while there are too few units or the variance is unknown.
    """
    if rule == "sequence":
        return np.where((found.units >= FEWEST).all(0), CLOSEST * found.units.sum(0) / TUNED, 0.0)
    errors = found.errors(weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = TYPICAL**2 * found.information * errors.floor / np.maximum(errors.variance, errors.floor)
    return np.where(np.isfinite(strength) & (found.days | (found.units >= FEWEST).all(0)), strength, 0.0)


def _reach_of_mixture(
    found: Readings, weights: FloatArray | None, rule: AnyTimeRule, error: float, two_sided: bool
) -> FloatArray:
    """Return the distance between the estimate and its bounds, by a normal mixture; shape (looks,)."""
    strength = _strength(found, weights, rule)
    critical = mixture_score(strength, error, two_sided)
    reach = found.errors(weights).reach(np.where(strength > 0.0, critical, 1.0))
    return np.where(strength > 0.0, reach, np.inf)


def mixture_score(strength: FloatArray, error: float, two_sided: bool) -> FloatArray:
    """Return the normal score at which the evidence of a normal mixture reaches 1 / error.

    Args:
        strength: The variance of the effects in the mixture, divided by the variance of the estimate.
        error: The error rate of all looks together.
        two_sided: Whether effects in both directions count.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.log1p(strength) / 2.0
        wanted = root - math.log(error) if two_sided else np.log1p(np.exp(root) / (2.0 * error))
        found: FloatArray = np.sqrt(2.0 * wanted * (1.0 + strength) / strength)
    return found


def critical_by_days(freedom: FloatArray, level: float) -> FloatArray:
    """Return for each number of degrees of freedom the t at which the evidence of the days reaches 1 / (1 - level)."""
    rungs = _LADDER[: int(np.searchsorted(_LADDER, freedom.max(initial=1.0))) + 1]
    known = np.array([critical_t(int(one) + 1, int(one), level) for one in rungs])
    with np.errstate(invalid="ignore"):
        found: FloatArray = np.interp(np.log(np.maximum(freedom, 1.0)), np.log(rungs), known)
    return np.where(freedom >= 2.0, found, np.inf)


def _p_of_mixture(found: Readings, rule: AnyTimeRule, two_sided: bool, better: Better) -> FloatArray:
    strength = _strength(found, None, rule)
    score = found.errors().score(found.difference)
    power = np.minimum(score**2 * strength / (1.0 + strength) / 2.0, 700.0)
    if two_sided:
        p = np.sqrt(1.0 + strength) * np.exp(-power)
    else:
        right = (score > 0.0) if better == "higher" else (score < 0.0)
        with np.errstate(divide="ignore"):
            p = np.where(right, np.sqrt(1.0 + strength) / (2.0 * np.expm1(power)), 1.0)
    return np.where(strength > 0.0, np.minimum(p, 1.0), 1.0)


def obrien_fleming(
    control: Arm,
    treatment: Arm,
    *,
    looks: int,
    planned_blocks: int,
    ratio: bool = False,
    cuped: bool = False,
    days: bool = True,
    correlated: bool = True,
    level: float = 0.95,
    two_sided: bool = True,
    better: Better = "higher",
) -> list[Effect]:
    """Return the effect after each planned look until now. The experiment may be stopped when a look shows an effect.

    The looks are evenly spread over the planned blocks. How much of the error may be used up to a look depends on the
    share of the planned blocks that have passed. The correlation between looks is computed from the units that were
    seen. So the error rate also holds if a day has more units than expected.

    Args:
        treatment: The sums of the treatment, over the same blocks.
        planned_blocks: The planned number of blocks. Later blocks are not read.
        level: The confidence level of all intervals together. For the other arguments see `ab.fixed.compare`.

    Raises:
        Misuse: See `readings`; or `looks` is below 1 or above `planned_blocks`.

    Source: Lan & DeMets (1983), with a spending function that resembles O'Brien & Fleming (1979).
    """
    tail_score(level, two_sided)
    if not 1 <= looks <= planned_blocks:
        raise Misuse(f"O'Brien-Fleming: needs 1 to {planned_blocks} looks for {planned_blocks} blocks, found {looks}.")
    ends = [round(planned_blocks * look / looks) for look in range(1, looks + 1)]
    ends = [end for end in ends if end <= control.units.size]
    if not ends:
        return []
    found = readings(control, treatment, ends, ratio=ratio, cuped=cuped, days=days, correlated=correlated)
    times = tuple(end / planned_blocks for end in ends)
    information = _information(found.information, times)
    errors, (weights, _) = found.errors(), found.relative_weights()
    scores = errors.score(found.difference)
    bounds, p = _bounds_and_p(times, information, scores if better == "higher" else -scores, 1.0 - level, two_sided)
    absolute, relative = errors.reach(bounds), found.errors(weights).reach(bounds)
    method = "o'brien-fleming" + (", day blocks" if days else "")
    return effects(found, absolute, relative, p, method, two_sided=two_sided, better=better)


def spending_bounds(
    times: tuple[float, ...],
    information: tuple[float, ...] | None = None,
    *,
    level: float = 0.95,
    two_sided: bool = True,
) -> tuple[float, ...]:
    """Return the normal score that each look must exceed. The error is divided over looks as by O'Brien and Fleming.

    Args:
        times: The share of the planned time at each look, growing, at most 1.
        information: The information (see `Readings`) at each look, in any unit; by default it grows like the times.
        level: The confidence level of all looks together.
        two_sided: Whether effects in both directions count. Each direction then has half of the error.

    Raises:
        Misuse: The times do not grow, or are not above 0 and at most 1.

    Source: Lan & DeMets (1983); numerical integration by Armitage, McPherson & Rowe (1969).

    >>> [round(bound, 2) for bound in spending_bounds((0.2, 0.4, 0.6, 0.8, 1.0))]
    [4.88, 3.36, 2.68, 2.29, 2.03]
    """
    if not times or any(later <= sooner for sooner, later in zip((0.0, *times), times, strict=False)) or times[-1] > 1:
        raise Misuse(f"spending: needs growing times above 0 and at most 1, found {times}.")
    return tuple(_table(times, information or times, (1.0 - level,), two_sided)[0].tolist())


@lru_cache(maxsize=64)
def _table(
    times: tuple[float, ...], information: tuple[float, ...], errors: tuple[float, ...], two_sided: bool
) -> FloatArray:
    """Return the bound (a normal score) of each look for several error rates, shape (errors, looks)."""
    scores = ndtri(np.array(errors) / (4.0 if two_sided else 2.0))
    walk = _Walk(two_sided, designs=len(errors))
    spent, found = np.zeros(len(errors)), []
    for time, seen in zip(times, information, strict=True):
        until = 2.0 * ndtr(scores / math.sqrt(time))
        found.append(walk.bound(seen, np.maximum(until - spent, 1e-16)))
        spent = until
    return np.column_stack(found)


class _Walk:
    """For each design (a total error rate), the distribution of a random walk that no look has stopped so far.

    After each look, the walk is the score of that look times sqrt(information). A look stops the walk if the score
    exceeds the bound of the design. The sum of `masses` is the probability that no look has stopped the walk.
    """

    def __init__(self, two_sided: bool, designs: int) -> None:
        self.two_sided = two_sided
        self.seen = 0.0
        self.nodes: FloatArray = np.zeros((designs, 1))  # values of the walk, whose variance is the information
        self.masses: FloatArray = np.ones((designs, 1))  # their probabilities

    def bound(self, seen: float, errors: FloatArray) -> FloatArray:
        """Return for each design the score that its walk exceeds at this look with the probability `errors`.

        The look becomes a past look: walks beyond the score (with `two_sided`, in either direction) are stopped. The
        logarithm of the probability is a concave function of the score, so Newton's method converges from any start.
        """
        width, root = math.sqrt(seen - self.seen), math.sqrt(seen)
        score = np.ones(errors.size)
        for _ in range(60):
            apart = (self.nodes - root * score[:, None]) / width
            beyond = (self.masses * ndtr(apart)).sum(1)
            slope = (self.masses * np.exp(-apart * apart / 2.0)).sum(1) * root / width / math.sqrt(2.0 * math.pi)
            moved = np.log(np.maximum(beyond, 1e-300) / errors) * beyond / np.maximum(slope, 1e-300)
            # the probability of such a large score may have been rounded to 0, which has no logarithm: go back by 1
            moved = np.where(beyond > 1e-250, moved, -1.0)
            score = np.clip(score + moved, -FARTHEST, FARTHEST)
            if np.abs(moved).max() < 1e-9:
                break
        self.stop(seen, score)
        return score

    def stop(self, seen: float, bound: FloatArray) -> None:
        """Move the walks to the information `seen`, and stop those whose score exceeds the bound of their design."""
        step, root = seen - self.seen, math.sqrt(seen)
        top = root * np.minimum(bound, FAR)[:, None]
        bottom = np.maximum(-top, -FAR * root) if self.two_sided else np.full_like(top, -FAR * root)
        widest = float((top - bottom).max())
        nodes, heights = _quadrature(32 * math.ceil(1.0 + widest / math.sqrt(step) / 20.0))
        nodes = (top - bottom) / 2.0 * nodes + (top + bottom) / 2.0
        apart = nodes[:, :, None] - self.nodes[:, None, :]
        density = (np.exp(-apart * apart / (2.0 * step)) @ self.masses[:, :, None])[:, :, 0]
        self.masses = density * heights * (top - bottom) / 2.0 / math.sqrt(2.0 * math.pi * step)
        self.seen, self.nodes = seen, nodes


@lru_cache(maxsize=16)
def _quadrature(nodes: int) -> tuple[FloatArray, FloatArray]:
    return np.polynomial.legendre.leggauss(min(nodes, 1024))


def _information(information: FloatArray, times: tuple[float, ...]) -> tuple[float, ...]:
    """Return the information at each look as a share of that at the newest look.

    Shares that grow too little are raised, so that each look adds at least 0.1 / looks. If the shares are close to
    those of the time at all looks (see `EVEN`), `times` is returned instead. This changes the error by less than .002,
    and metrics with slightly different information have the same bounds, which are computed once (see `_table`).
    """
    shares, even = information / max(float(information[-1]), 1e-300), np.array(times) / times[-1]
    if np.abs(shares - even).max() <= EVEN:
        return times
    least = 0.1 / shares.size * np.arange(1, shares.size + 1)
    return tuple((np.maximum.accumulate(np.maximum(shares - least, 0.0)) + least).tolist())


def _bounds_and_p(
    times: tuple[float, ...], information: tuple[float, ...], scores: FloatArray, error: float, two_sided: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the bound and the p of each look, both of shape (looks,).

    p is the total error rate with which the bound of this look would equal its score. It is interpolated between the
    bounds of a few error rates from 1e-4 to 0.9. A p below this range becomes 1e-4, and one above it becomes 1.
    """
    errors = np.unique([*np.geomspace(1e-4, 0.9, 6), error])
    table = _table(times, information, tuple(errors.tolist()), two_sided)
    squares = scores**2 if two_sided else np.sign(scores) * scores**2
    p = np.array(
        [
            math.exp(np.interp(-square, -bounds, np.log(errors))) if square > bounds[-1] else 1.0
            for square, bounds in zip(squares, (np.sign(table) * table**2).T, strict=True)
        ]
    )
    return table[int(np.searchsorted(errors, error))], p
