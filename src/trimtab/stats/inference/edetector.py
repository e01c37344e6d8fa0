"""The quality alarm: a test whether the mean of a daily metric has left the level that it had at the promotion.

The test is a Shiryaev-Roberts e-detector. Each day every bet pays 1 + stake * (value - baseline), which is at most 1 on
average while the mean is at or below the baseline. A new bet of 1 is placed each day, and the alarm rings when the
running value reaches the stated run length A. Whatever the distribution of the values, a healthy stream then runs A
days on average until an alarm, and has an alarm within h days with a probability of at most h / A. For real days, four
additions are needed (# D0003):

- Days resemble the day before. So each day is judged against its prediction from the day before, as
  value - correlation * last.
- A baseline from a few weeks is uncertain. So the null hypothesis is "at most the upper confidence bound of the
  baseline", with errors that allow for correlation. Few reference days give a wide bound and a slow alarm, but never a
  false alarm.
- A single day gains little for the bets. So a gross change has a rule of its own: two to seven days in a row must each
  be so many standard deviations away that their probability is at most a quarter of the stated rate by Cantelli's
  inequality, which holds for any distribution.
- The worst value limits the stakes. So the whitened value is clipped to a range that is fixed with the baseline, and
  the baseline is the mean of the *clipped* reference. Both sides of the comparison are then the same bounded value.

The spec never changes after it is learnt. Only a new promotion brings a new spec.

Source: Shin, Ramdas & Rinaldo (2023), "E-detectors: a nonparametric framework for sequential change detection".
"""

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from trimtab.core.errors import Misuse
from trimtab.stats.inference.paired import block_sum_variance
from trimtab.stats.scores import FloatArray

Direction = Literal["up", "down", "both"]

# per standard deviation of a day; at a low of -1.5 even the last stake keeps 1 + stake * x > 0
STAKES = (0.15, 0.3, 0.6)
# the range to which a day is clipped, in standard deviations against and along the alarm's direction
LOW, HIGH = -1.5, 4.0
FAR = 8.0  # a day is clipped to so many standard deviations before it predicts the next day
LEAST_BLOCKS = 7
RUNS = (2, 3, 4, 5, 6, 7)  # numbers of days in a row that may show a gross change
_GROSS_SHARE = 0.25  # share of the stated rate of false alarms that gross changes get
KEPT = 366  # number of days that are kept to date the onset
_SIGNS: dict[Direction, tuple[Literal[-1, 1], ...]] = {"up": (1,), "down": (-1,), "both": (1, -1)}
# One-sided confidence of the baseline's bound, by the least number of reference days; chosen in D0003 and D0177.
BASELINE_LEVELS = ((28, 0.85), (14, 0.9), (LEAST_BLOCKS, 0.95))


class AlarmSide(msgspec.Struct, frozen=True, kw_only=True):
    """One direction to watch, in the units of a healthy day's standard deviation."""

    sign: Literal[-1, 1]  # 1: an increase is bad; -1: a decrease is bad
    baseline: float  # upper confidence bound of the clipped, whitened mean in the direction of the sign
    stakes: tuple[float, ...]


class AlarmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The healthy level, fixed when a version is promoted."""

    run_length: float  # mean number of healthy days until a false alarm, at least
    mean: float  # mean of the reference values
    sd: float  # standard deviation of a day's surprise, which is the value minus the prediction from the day before
    correlation: float  # correlation of neighbouring days
    least_rows: int  # days with fewer rows are pooled with the following days
    reference_blocks: int
    sides: tuple[AlarmSide, ...]
    low: float = LOW  # the limit of a day's value against the alarm's direction, in standard deviations
    # standard deviations above the baseline that ring the alarm if 2, 3, ... days in a row exceed them
    runs: tuple[float, ...] = ()


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One judged block of days: the number of its first day, its surprise in standard deviations, and its value."""

    day: int
    surprise: float
    value: float = 0.0


class AlarmState(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence so far. Days are added once, in order; only sums within a day can be merged."""

    days: int = 0  # number of updates so far
    last: float = 0.0  # distance of the last block from the reference mean, from which `correlation` predicts the next
    log_values: tuple[float, ...] = ()  # logarithm of the running value of the bets of each side
    pooled_sum: float = 0.0
    pooled_rows: int = 0
    pooled_from: int = 0  # the first day of the open pool
    recent: tuple[Step, ...] = ()
    newest: tuple[float, ...] = ()  # the surprises of the newest days, without clipping
    alarm_day: int | None = None  # the day of the first alarm; kept until a new state is begun

    @property
    def log_evidence(self) -> float:
        """Logarithm of the running mixture; the alarm rings near log(run_length). Before the first day it is -inf."""
        return _log_sum(self.log_values) - math.log(len(self.log_values)) if self.log_values else -math.inf


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """The level of a daily value since a change began."""

    mean: float
    sd: float  # standard deviation of one day: the larger of that of the reference and that of these days
    days: int


class Onset(msgspec.Struct, frozen=True, kw_only=True):
    """The onset of the change, in days of the alarm (1 = first update)."""

    day: int
    earliest: int
    latest: int


def learn_alarm(
    values: ArrayLike,
    rows: ArrayLike | None = None,
    *,
    run_length: float = 1000.0,
    direction: Direction = "up",
    allowance: float = 0.0,
    low: float = LOW,
) -> AlarmSpec:
    """Fix the healthy level from the days before a promotion: gate window or walk-forward, only out of sample.

    Args:
        values: One value for each day, in order, e.g. the mean of `bounded_losses`, or mean score - mean label.
        rows: Number of rows behind each value. Later, days with fewer than half of their median are pooled. Left out,
            days are never pooled.
        run_length: Mean number of healthy days until a false alarm. For two metrics that are watched together, give
            each metric twice the total.
        direction: The direction in which a change is bad. With "both", the two directions share one run length.
        allowance: How far the mean of healthy days may be from that of the reference for a known reason, e.g. because
            the days are answered by another fit; in units of the values.
        low: The limit to which a day is clipped against the alarm's direction, in standard deviations, below 0. With a
            limit near 0 stakes are higher: a change of more than one standard deviation is found sooner, a smaller
            change later.

    Raises:
        Misuse: Fewer than 7 days, a value that is not finite, or values that do not vary.

    >>> calm = [0.40, 0.42, 0.39, 0.41, 0.40, 0.38, 0.41, 0.43, 0.40, 0.39, 0.41, 0.40, 0.42, 0.38]
    >>> spec = learn_alarm(calm, run_length=365)
    >>> state = AlarmState()
    >>> for value in [*calm, *[0.46] * 14]:
    ...     state = update_alarm(spec, state, value)
    >>> state.alarm_day, alarm_onset(spec, state).day
    (19, 15)
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size < LEAST_BLOCKS:
        raise Misuse(
            f"quality alarm: needs at least {LEAST_BLOCKS} reference days, found {x.size}. "
            "Add walk-forward predictions from before the promotion."
        )
    if not np.isfinite(x).all():
        raise Misuse(f"quality alarm: {int((~np.isfinite(x)).sum())} reference values are not finite.")
    if not run_length > 1.0:
        raise Misuse(f"quality alarm: the run length must be above 1 day, found {run_length}.")
    mean = float(x.mean())
    away = x - mean
    if float(np.ptp(x)) <= 1e-12 * max(1.0, abs(mean)):
        raise Misuse(
            f"quality alarm: all {x.size} reference values are {mean:g}. A metric that never varies has no sd."
        )
    correlation = _correlation(away)
    surprise = away[1:] - correlation * away[:-1]
    sd = float(surprise.std(ddof=2))
    surprise = away[1:] - correlation * np.clip(away[:-1], -FAR * sd, FAR * sd)
    return AlarmSpec(
        run_length=run_length,
        mean=mean,
        sd=sd,
        correlation=correlation,
        least_rows=0 if rows is None else int(np.median(np.asarray(rows)) / 2),
        reference_blocks=x.size,
        sides=tuple(
            AlarmSide(
                sign=sign,
                baseline=_baseline(np.clip(sign * surprise / sd, low, HIGH), allowance * (1.0 - correlation) / sd),
                stakes=tuple(stake * LOW / low for stake in STAKES),
            )
            for sign in _SIGNS[direction]
        ),
        low=low,
        runs=_run_bounds(run_length, len(_SIGNS[direction])),
    )


def update_alarm(spec: AlarmSpec, state: AlarmState, value: float, rows: int | None = None) -> AlarmState:
    """The state after one more day.

    Args:
        spec: The result of `learn_alarm`.
        state: `AlarmState()` on the first day.
        value: The day's value; ignored when `rows` is 0.
        rows: Number of rows behind the value. 0: there is no evidence, and the day passes without a bet. Fewer than
            `spec.least_rows`: the day is pooled with the following days.

    Raises:
        Misuse: The value is not finite although the day has rows.
    """
    day = state.days + 1
    if rows == 0:
        return msgspec.structs.replace(state, days=day, last=spec.correlation * state.last)
    if not math.isfinite(value):
        raise Misuse(f"quality alarm: day {day} holds {value}. Give rows=0 for a day without labels.")
    rows_here = spec.least_rows if rows is None else rows
    pooled_rows = state.pooled_rows + rows_here
    start = state.pooled_from if state.pooled_rows else day
    if state.pooled_rows:
        value = (state.pooled_sum + value * rows_here) / pooled_rows
    if pooled_rows < spec.least_rows:
        return msgspec.structs.replace(
            state,
            days=day,
            last=spec.correlation * state.last,
            pooled_sum=value * pooled_rows,
            pooled_rows=pooled_rows,
            pooled_from=start,
        )
    away = value - spec.mean
    surprise = (away - spec.correlation * state.last) / spec.sd
    newest = (*state.newest[1 - RUNS[-1] :], surprise)
    surprise = max(-HIGH, min(HIGH, surprise))
    gains = [log_gain for side in spec.sides for log_gain in _log_gains(side, surprise, spec.low)]
    before = state.log_values or (-math.inf,) * len(gains)
    after = AlarmState(
        days=day,
        last=max(-FAR * spec.sd, min(FAR * spec.sd, away)),
        log_values=tuple(_log_sum((0.0, old)) + gain for old, gain in zip(before, gains, strict=True)),
        recent=(*state.recent[-KEPT + 1 :], Step(start, surprise, value)),
        newest=newest,
        alarm_day=state.alarm_day,
    )
    if after.alarm_day is None and (after.log_evidence >= alarm_threshold(spec) or _grossly_away(spec, newest)):
        return msgspec.structs.replace(after, alarm_day=day)
    return after


def alarm_threshold(spec: AlarmSpec) -> float:
    """The logarithm of the evidence that rings the alarm; gross changes get the rest of the stated rate."""
    return math.log(spec.run_length) - (math.log1p(-_GROSS_SHARE) if spec.runs else 0.0)


def alarm_onset(spec: AlarmSpec, state: AlarmState) -> Onset | None:
    """The start day from which betting would have paid best, and the days that nearly tie; None before any day.

    The range contains every start day whose bets pay at least a tenth of the best. The range contained the true day in
    84 to 98 % of simulated alarms (# D0003).
    """
    best: list[float] = []
    for side in spec.sides:
        for place in range(len(side.stakes)):
            total, paid = 0.0, []
            for step in reversed(state.recent):
                total += _log_gains(side, step.surprise, spec.low)[place]
                paid.append(total)
            if paid and (not best or max(paid) > max(best)):
                best = paid[::-1]
    if not best:
        return None
    top = max(best)
    near = [step.day for step, pay in zip(state.recent, best, strict=True) if pay >= top - math.log(10.0)]
    return Onset(day=state.recent[best.index(top)].day, earliest=near[0], latest=near[-1])


def alarm_level(spec: AlarmSpec, state: AlarmState) -> Level:
    """The level of the value since the onset of the change; before any day, the level of the reference."""
    onset = alarm_onset(spec, state)
    values = [] if onset is None else [step.value for step in state.recent if step.day >= onset.day]
    if not values:
        return Level(mean=spec.mean, sd=spec.sd, days=0)
    mean = math.fsum(values) / len(values)
    seen = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return Level(mean=mean, sd=max(spec.sd, seen), days=len(values))


def shifted_alarm(spec: AlarmSpec, state: AlarmState) -> AlarmSpec:
    """The alarm for a further change in the same direction, from the level since the onset of the first change.

    A few days tell little about that level, so its upper bound is wider accordingly.
    """
    level = alarm_level(spec, state)
    wider = 1.0 / math.sqrt(max(1, level.days))
    above = level.mean >= spec.mean
    return msgspec.structs.replace(
        spec,
        mean=level.mean,
        sd=level.sd,
        sides=tuple(
            msgspec.structs.replace(side, baseline=min(side.baseline + wider, HIGH))
            for side in spec.sides
            if (side.sign > 0) == above or len(spec.sides) == 1
        ),
    )


def _run_bounds(run_length: float, sides: int) -> tuple[float, ...]:
    """By length of a run, the bound that all its days must exceed; all bounds together ring once in four run lengths.

    Source: Cantelli (1928): a value is k standard deviations above its mean with probability 1 / (1 + k^2) at most.
    """
    # probability that a run of one length ends on a given day
    probability = _GROSS_SHARE / (run_length * sides * len(RUNS))
    return tuple(math.sqrt(probability ** (-1.0 / days) - 1.0) for days in RUNS)


def _grossly_away(spec: AlarmSpec, newest: tuple[float, ...]) -> bool:
    """Return whether the newest days are each above the bound for a run of their length."""
    for side in spec.sides:
        base = max(0.0, side.baseline)
        if not spec.runs or side.sign * newest[-1] < min(spec.runs) + base:
            continue  # nearly every day returns here
        for days, bound in zip(RUNS, spec.runs, strict=False):
            if len(newest) >= days and min(side.sign * one for one in newest[-days:]) >= bound + base:
                return True
    return False


def _correlation(away: FloatArray) -> float:
    """Lag-1 correlation, corrected for its bias and drawn towards 0.4 (sd 0.2), the more the fewer days there are."""
    raw = float(away[1:] @ away[:-1]) / float(away @ away)
    seen = raw + (1.0 + 3.0 * raw) / away.size  # Kendall (1954)
    trust = 0.04 / (0.04 + max(1.0 - seen * seen, 0.3) / away.size)
    return min(0.8, max(0.0, trust * seen + (1.0 - trust) * 0.4))


def _baseline(clipped: FloatArray, allowance: float) -> float:
    mean = float(clipped.mean())
    variance, freedom = block_sum_variance(clipped - mean, correlated=True)
    from scipy.special import stdtrit  # imported here because it takes a tenth of a second to load

    # a surprise needs the value of the day before
    level = next(level for least, level in BASELINE_LEVELS if clipped.size + 1 >= least)
    bound = mean + float(stdtrit(freedom, level)) * math.sqrt(variance) / clipped.size
    return min(bound + allowance, HIGH)


def _log_gains(side: AlarmSide, surprise: float, low: float) -> list[float]:
    """The log gain of each stake. Stakes are limited so that the worst day cannot cost more than the whole bet."""
    most = 0.95 / (side.baseline - low)
    excess = max(low, min(HIGH, side.sign * surprise)) - side.baseline
    return [math.log1p(min(stake, most) * excess) for stake in side.stakes]


def _log_sum(logs: tuple[float, ...]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(one - top) for one in logs)) if top > -math.inf else top
