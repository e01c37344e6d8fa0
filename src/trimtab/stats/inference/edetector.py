"""The quality alarm: a test whether the mean of a daily metric is worse than at the model's promotion.

The test is a Shiryaev-Roberts e-detector, which can be seen as a series of bets. Each day, a new bet of 1 is placed,
and every bet is multiplied by 1 + stake * (value - baseline). As long as the mean is at or below the baseline, this
factor is at most 1 on average. The alarm rings when the sum of all bets reaches a stated number A, the run length.
(Each stake and each direction has its own series of bets, and the mean of their sums must reach A.) Then a model whose
quality does not change runs for at least A days on average until a false alarm, and the probability of a false alarm
within h days is at most h / A, with any distribution of values. For real days, the test has four additions (# D0003):

- Days resemble the day before. So each day is compared with its prediction from the day before:
  value - correlation * last.
- A baseline from a few weeks is uncertain. So the baseline is the upper confidence bound of the reference mean, and
  the bound allows for correlation between days. Few reference days give a higher bound. This makes the alarm slower,
  but does not cause false alarms.
- A bet gains little on a single day, even if the day is very bad. So there is a second rule, for large changes: the
  alarm also rings when two to seven days in a row are all far above the baseline (the more days, the less far). By
  Cantelli's inequality, which holds for any distribution, this rule causes false alarms at no more than a quarter of
  the stated rate. With it, the bets must reach 4 / 3 of A, so that both rules together keep the stated rate.
- Stakes must be small enough for the worst possible value. So each value, after the prediction is subtracted, is
  clipped to a fixed range. The reference days are clipped to the same range before the baseline is computed, so that
  later days are comparable with it.

The reference (`AlarmSpec`) never changes. Each promotion computes a new one.

Source: Shin, Ramdas & Rinaldo (2023), "E-detectors: a nonparametric framework for sequential change detection".
"""

import math
import statistics
from itertools import accumulate
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from trimtab.core.errors import Misuse
from trimtab.stats.inference.paired import block_sum_variance
from trimtab.stats.scores import FloatArray

Direction = Literal["up", "down", "both"]

# stakes per standard deviation of a day (`_log_gains` lowers a stake with which one day could lose the whole bet)
STAKES = (0.15, 0.3, 0.6)
# days are clipped to this range, in standard deviations; positive values are in the direction of the alarm
LOW, HIGH = -1.5, 4.0
FAR = 8.0  # a day is clipped to this many standard deviations before it predicts the next day
LEAST_BLOCKS = 7  # a reference needs this many days
RUNS = (2, 3, 4, 5, 6, 7)  # numbers of bad days in a row that can show a large change
_GROSS_SHARE = 0.25  # the part of the stated rate of false alarms that the rule for large changes may use
_SD_OF_MEDIAN_DISTANCE = 1.4826  # the standard deviation of a normal distribution / the median distance from its median
_NEAR = 3.0  # see `alarm_onset`
KEPT = 366  # how many days are kept to estimate when a change began
_SIGNS: dict[Direction, tuple[Literal[-1, 1], ...]] = {"up": (1,), "down": (-1,), "both": (1, -1)}
# The confidence level of the baseline's upper bound, by the minimum number of reference days; chosen in D0003, D0177.
BASELINE_LEVELS = ((28, 0.85), (14, 0.9), (LEAST_BLOCKS, 0.95))


class AlarmSide(msgspec.Struct, frozen=True, kw_only=True):
    """The alarm in one direction. `baseline` is in units of `AlarmSpec.sd`, and `stakes` are per such unit."""

    sign: Literal[-1, 1]  # 1: an increase is bad; -1: a decrease is bad
    # the upper confidence bound of the mean of sign * surprise (see `Step`), clipped, over the reference days
    baseline: float
    stakes: tuple[float, ...]


class AlarmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The reference that the alarm compares days with, fixed when a version is promoted."""

    run_length: float  # at least this many days pass on average until a false alarm
    mean: float  # the mean of the reference days
    sd: float  # the standard deviation of a day's value minus its prediction from the day before
    correlation: float  # the correlation of neighbouring days
    least_rows: int  # a day with fewer rows is combined with the following days
    reference_blocks: int
    sides: tuple[AlarmSide, ...]
    # values are clipped to at least this, in standard deviations (a negative value is a change for the better)
    low: float = LOW
    # for 2, 3, ... days in a row: the alarm rings if all exceed the baseline by this many standard deviations
    runs: tuple[float, ...] = ()


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One day, or several days that were combined because they have few rows."""

    day: int  # the number of the first of these days
    surprise: float  # the value minus its prediction, in standard deviations
    value: float = 0.0


class Onset(msgspec.Struct, frozen=True, kw_only=True):
    """The estimated day on which the change began (1 = the first day that was added)."""

    day: int
    earliest: int
    latest: int


class AlarmState(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence from all days up to now. Days are added one by one, in order."""

    days: int = 0  # the number of days that were added
    # the last day's distance from the reference mean; multiplied by `correlation`, the prediction for the next day
    last: float = 0.0
    log_values: tuple[float, ...] = ()  # for each direction and stake, the logarithm of the sum of all bets
    pooled_sum: float = 0.0
    pooled_rows: int = 0
    pooled_from: int = 0  # the first of the days that wait to be combined
    recent: tuple[Step, ...] = ()
    newest: tuple[float, ...] = ()  # the newest days, in standard deviations from their predictions, not clipped
    alarm_day: int | None = None  # the day of the first alarm; kept until monitoring begins again with a new state
    # the estimated beginning of the change, once the days around it are no longer in `recent`; see `newest_steps`
    onset: Onset | None = None

    @property
    def log_evidence(self) -> float:
        """The logarithm of the mean of the sums in `log_values`. The alarm rings when it reaches `alarm_threshold`."""
        return _log_sum(self.log_values) - math.log(len(self.log_values)) if self.log_values else -math.inf


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """The mean of the daily value since a change began."""

    mean: float
    sd: float  # of a day's value: the larger of `AlarmSpec.sd` and the standard deviation of these days
    days: int


def learn_alarm(
    values: ArrayLike,
    rows: ArrayLike | None = None,
    *,
    run_length: float = 1000.0,
    direction: Direction = "up",
    allowance: float = 0.0,
    low: float = LOW,
) -> AlarmSpec:
    """Compute the reference from days before the promotion. The model must not have been fitted on rows of these days.

    Args:
        values: One value for each day, in order, for example the mean of `bounded_losses`, or mean score - mean label.
        rows: The number of rows of each day. Later, a day with fewer rows than half of the median is combined with the
            following days. None: days are never combined.
        run_length: At least this many days pass on average until a false alarm. If two metrics are watched, give each
            twice the number that both alarms together should have.
        direction: The direction in which a change is bad. With "both", the run length holds for both directions
            together.
        allowance: How far the mean may differ from the reference mean for a known reason, in units of the values. For
            example, another fit of the model may have predicted the reference days.
        low: Values are clipped to at least this number of standard deviations, which is below 0. If it is closer to 0,
            stakes can be higher, so a change of more than one standard deviation is found sooner, and a smaller one
            later.

    Raises:
        Misuse: There are fewer than 7 days, a value is not finite, all values are the same, or `run_length` is not
            above 1.

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
            f"quality alarm: all {x.size} reference values are {mean:g}. A metric that never varies has a standard "
            "deviation of 0, with which no day can be compared."
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
    """Add one day to the evidence, and return the new state.

    Args:
        spec: The result of `learn_alarm`.
        state: The state after the day before; `AlarmState()` for the first day.
        value: The day's value. It is ignored if `rows` is 0.
        rows: The number of rows of the day; None: enough. If it is 0, the day counts but adds no evidence. If it is
            below `spec.least_rows`, the day is combined with the following days.

    Raises:
        Misuse: The day has rows, but its value is not finite.
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
        log_values=tuple(_log_one_plus(old) + gain for old, gain in zip(before, gains, strict=True)),
        recent=(*state.recent, Step(start, surprise, value)),
        newest=newest,
        alarm_day=state.alarm_day,
        onset=state.onset,
    )
    after = newest_steps(spec, after, KEPT)
    if after.alarm_day is None and (after.log_evidence >= alarm_threshold(spec) or _grossly_away(spec, newest)):
        return msgspec.structs.replace(after, alarm_day=day)
    return after


def newest_steps(spec: AlarmSpec, state: AlarmState, most: int) -> AlarmState:
    """Return the state with at most its newest `most` steps.

    If this loses days on which the change behind an alarm may have begun, the estimated beginning is kept in `onset`.
    """
    if len(state.recent) <= most:
        return state
    onset, recent = state.onset, state.recent[-most:]
    if state.alarm_day is not None and onset is None:
        found = alarm_onset(spec, state)
        onset = found if found is not None and found.earliest < recent[0].day else None
    return msgspec.structs.replace(state, recent=recent, onset=onset)


def alarm_threshold(spec: AlarmSpec) -> float:
    """Return the logarithm of the evidence at which the alarm rings.

    The evidence must reach the run length or, if there is the rule for large changes, 4 / 3 of it, because that rule
    may cause a quarter of the false alarms.
    """
    return math.log(spec.run_length) - (math.log1p(-_GROSS_SHARE) if spec.runs else 0.0)


def alarm_onset(spec: AlarmSpec, state: AlarmState) -> Onset | None:
    """Return the day on which the change most likely began, and a range of days. None: no day was added yet.

    The returned day has the highest likelihood ratio of a change of the mean: the squared sum of all surprises since
    then, divided by twice their number. (Bets cannot date a change well: a small deviation before it also gains.) The
    range begins and ends with days whose logarithm of the ratio is at most `_NEAR` lower. In 88 to 100 % of simulated
    alarms, it contained the true day (# D0003).
    """
    if state.onset is not None:
        return state.onset
    surprises = _surprises(spec, state)
    best: list[float] = []
    for side in spec.sides:
        sums = accumulate(side.sign * one for one in reversed(surprises))
        ratios = [max(total, 0.0) ** 2 / (2 * days) for days, total in enumerate(sums, 1)]
        if not best or max(ratios) > max(best):
            best = ratios[::-1]
    if not best:
        return None
    top = max(best)
    near = [step.day for step, ratio in zip(state.recent, best, strict=True) if ratio >= top - _NEAR]
    return Onset(day=state.recent[best.index(top)].day, earliest=near[0], latest=near[-1])


def _surprises(spec: AlarmSpec, state: AlarmState) -> list[float]:
    """Return how far each kept step is from its prediction, in standard deviations, clipped less than for bets."""
    found: list[float] = []
    last, last_day = 0.0, 0
    for step in state.recent:
        away = (step.value - spec.mean) / spec.sd
        found.append(max(-FAR, min(FAR, away - spec.correlation ** (step.day - last_day) * last)))
        last, last_day = max(-FAR, min(FAR, away)), step.day
    return found


def alarm_level(spec: AlarmSpec, state: AlarmState) -> Level:
    """Return the mean of the values since the change began; without days, that of the reference."""
    values = _since_onset(spec, state)
    if not values:
        return Level(mean=spec.mean, sd=spec.sd, days=0)
    mean = math.fsum(values) / len(values)
    seen = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return Level(mean=mean, sd=max(spec.sd, seen), days=len(values))


def shifted_alarm(spec: AlarmSpec, state: AlarmState) -> AlarmSpec:
    """Return a spec for a further change in the same direction, with the days since the first change as its reference.

    The mean of few days is uncertain, so the baseline is raised by 1 / sqrt(days) standard deviations. `mean` is the
    median of these days, and `sd` is computed from the median distance of the days from it, but is at least that of
    `spec`. So a single extreme day changes neither: if the mean rose slowly without an alarm, and the alarm rang on
    the first day of a far larger rise, that day belongs to the further change.

    After a large change, days also vary more. So what is at most a tenth of the first change is no further change.
    """
    values = _since_onset(spec, state)
    middle = statistics.median(values) if values else spec.mean
    spread = _SD_OF_MEDIAN_DISTANCE * statistics.median([abs(value - middle) for value in values]) if values else 0.0
    wider = 1.0 / math.sqrt(max(1, len(values)))
    above = middle >= spec.mean
    sides = tuple(
        msgspec.structs.replace(side, baseline=min(side.baseline + wider, HIGH))
        for side in spec.sides
        if (side.sign > 0) == above or len(spec.sides) == 1
    )
    shifted = msgspec.structs.replace(spec, mean=middle, sd=max(spec.sd, spread), sides=sides)
    return with_allowance(shifted, 0.1 * abs(middle - spec.mean))


def with_allowance(spec: AlarmSpec, more: float) -> AlarmSpec:
    """Return a spec in which the mean may be further from the reference by `more`, in units of the values.

    That may be many standard deviations, but days are clipped to four. So the unit in which the alarm counts is made
    larger, which makes it slower but causes no false alarms.
    """
    more *= 1.0 - spec.correlation
    sd = max(spec.sd, more / 3)
    sides = tuple(
        msgspec.structs.replace(side, baseline=min(HIGH, (side.baseline * spec.sd + more) / sd)) for side in spec.sides
    )
    return msgspec.structs.replace(spec, sd=sd, sides=sides)


def _since_onset(spec: AlarmSpec, state: AlarmState) -> list[float]:
    onset = alarm_onset(spec, state)
    return [] if onset is None else [step.value for step in state.recent if step.day >= onset.day]


def _run_bounds(run_length: float, sides: int) -> tuple[float, ...]:
    """Return for each number of days in a row the bound that all of them must exceed to ring the alarm.

    All bounds together ring falsely at most once in four run lengths. Source: Cantelli (1928): a value is k or more
    standard deviations above its mean with probability 1 / (1 + k^2) at most.
    """
    # for each number in `RUNS`: how probable it may be that a run of so many days ends on a given day by coincidence
    probability = _GROSS_SHARE / (run_length * sides * len(RUNS))
    return tuple(math.sqrt(probability ** (-1.0 / days) - 1.0) for days in RUNS)


def _grossly_away(spec: AlarmSpec, newest: tuple[float, ...]) -> bool:
    """Return whether enough of the newest days in a row exceed the bound for that many days."""
    for side in spec.sides:
        base = max(0.0, side.baseline)
        if not spec.runs or side.sign * newest[-1] < min(spec.runs) + base:
            continue  # a fast test that is enough for most days: no bound is exceeded
        for days, bound in zip(RUNS, spec.runs, strict=False):
            if len(newest) >= days and min(side.sign * one for one in newest[-days:]) >= bound + base:
                return True
    return False


def _correlation(away: FloatArray) -> float:
    """Return the correlation of neighbouring days, corrected for its bias and moved towards 0.4.

    The prior is 0.4 with a standard deviation of 0.2. It counts more if there are fewer days.
    """
    raw = float(away[1:] @ away[:-1]) / float(away @ away)
    seen = raw + (1.0 + 3.0 * raw) / away.size  # the correction of the bias by Kendall (1954)
    trust = 0.04 / (0.04 + max(1.0 - seen * seen, 0.3) / away.size)
    return min(0.8, max(0.0, trust * seen + (1.0 - trust) * 0.4))


def _baseline(clipped: FloatArray, allowance: float) -> float:
    mean = float(clipped.mean())
    variance, freedom = block_sum_variance(clipped - mean, correlated=True)
    from scipy.special import stdtrit  # imported here, because it takes a tenth of a second

    # one more than in `clipped`, because the first day has no prediction from the day before
    level = next(level for least, level in BASELINE_LEVELS if clipped.size + 1 >= least)
    bound = mean + float(stdtrit(freedom, level)) * math.sqrt(variance) / clipped.size
    return min(bound + allowance, HIGH)


def _log_gains(side: AlarmSide, surprise: float, low: float) -> list[float]:
    """Return the logarithm of the gain for each stake. Stakes are limited, so that a day cannot lose a whole bet."""
    most = 0.95 / (side.baseline - low)
    excess = max(low, min(HIGH, side.sign * surprise)) - side.baseline
    return [math.log1p(min(stake, most) * excess) for stake in side.stakes]


def _log_sum(logs: tuple[float, ...]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(one - top) for one in logs)) if top > -math.inf else top


def _log_one_plus(one: float) -> float:
    """Return the logarithm of 1 + exp(one)."""
    return math.log(1.0 + math.exp(one)) if one <= 0.0 else one + math.log(math.exp(-one) + 1.0)
