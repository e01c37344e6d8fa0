"""The quality alarm: a test whether the mean of a daily metric left its level at the promotion.

A Shiryaev-Roberts e-detector: each day every bet pays 1 + stake * (value - baseline), which is worth at most 1 on
average while the mean is at or below the baseline; a fresh bet of 1 is placed each day, and the alarm comes when the
running value reaches the stated run length A. Whatever the shape of the values, a healthy stream then runs A days on
average, and alarms within h days with a probability of at most h / A. For real days that needs four things (# D0003):

- Days resemble the day before, so a day is judged against the prediction from it: value - correlation * last.
- A baseline from a few weeks is uncertain, so the null is "at most its upper confidence bound" from correlation-aware
  errors. Few reference days give a wide bound and a slow alarm, never a false one.
- Bets win little from any one day, so a gross change has a rule of its own: two to seven days in a row, each so many
  standard deviations away that Cantelli's inequality, which holds for any shape, allows a quarter of the stated rate.
- Stakes are limited by the worst value, so the whitened value is clipped to a range fixed with the baseline, and the
  baseline is the mean of the *clipped* reference: both sides of the comparison are the same bounded value.

The spec never moves after it is learnt: a new one comes only with a new promotion.

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

STAKES = (0.15, 0.3, 0.6)  # in standard deviations of a day; at a low of -1.5 even the last keeps 1 + stake * x > 0
LOW, HIGH = -1.5, 4.0  # clip of a day, in standard deviations against and along the alarm's direction
FAR = 8.0  # standard deviations beyond which a day predicts no more of the next
LEAST_BLOCKS = 7
RUNS = (2, 3, 4, 5, 6, 7)  # days in a row that may show a gross change
_GROSS_SHARE = 0.25  # share of the stated rate of false alarms
KEPT = 366  # days kept to date the onset
_SIGNS: dict[Direction, tuple[Literal[-1, 1], ...]] = {"up": (1,), "down": (-1,), "both": (1, -1)}
# One-sided confidence of the baseline's bound, by the least number of reference days; chosen in D0003 and D0177.
BASELINE_LEVELS = ((28, 0.85), (14, 0.9), (LEAST_BLOCKS, 0.95))


class AlarmSide(msgspec.Struct, frozen=True, kw_only=True):
    """One direction to watch, in the units of a healthy day's standard deviation."""

    sign: Literal[-1, 1]  # 1: an increase is bad
    baseline: float  # upper confidence bound of the clipped, whitened mean, along the sign
    stakes: tuple[float, ...]


class AlarmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The healthy level, fixed when a version is promoted."""

    run_length: float  # healthy days until a false alarm, on average at least
    mean: float  # mean of the reference values
    sd: float  # standard deviation of a day's surprise: value less the prediction of the day before
    correlation: float  # correlation of neighbouring days
    least_rows: int  # smaller days are pooled with the next
    reference_blocks: int
    sides: tuple[AlarmSide, ...]
    low: float = LOW  # the limit of a day's value against the alarm's direction, in standard deviations
    runs: tuple[float, ...] = ()  # standard deviations above the baseline that are an alarm on 2, 3, ... days in a row


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One judged block: the number of its first day, its surprise in standard deviations, and its value."""

    day: int
    surprise: float
    value: float = 0.0


class AlarmState(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence so far. Days are added once, in order; only sums within a day merge."""

    days: int = 0  # updates so far
    last: float = 0.0  # the prediction of the last block, as a distance from the reference mean before `correlation`
    log_values: tuple[float, ...] = ()  # running value of each side's bets, in logarithms
    pooled_sum: float = 0.0
    pooled_rows: int = 0
    pooled_from: int = 0  # the first day of the open pool
    recent: tuple[Step, ...] = ()
    newest: tuple[float, ...] = ()  # the surprises of the newest days, not clipped
    alarm_day: int | None = None  # the day of the first alarm; stays until a new state is begun

    @property
    def log_evidence(self) -> float:
        """Logarithm of the running mixture; the alarm comes near log(run_length). Before the first day -inf."""
        return _log_sum(self.log_values) - math.log(len(self.log_values)) if self.log_values else -math.inf


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """The level of a daily value since a change began."""

    mean: float
    sd: float  # standard deviation of one day: of the reference, or of these days if that is larger
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
    """Fix what healthy means from the days before a promotion: gate window or walk-forward, out of sample only.

    Args:
        values: One value for each day, in order, e.g. the mean of `bounded_losses`, or mean score - mean label.
        rows: Rows behind each value; days below half their median are pooled later. Omitted: days are never pooled.
        run_length: Healthy days until a false alarm. For two metrics watched together give each twice the total.
        direction: Which change is bad. "both" shares one run length between both directions.
        allowance: How far the mean of healthy days may be from that of the reference for a reason that is known, such
            as that another fit answers; in units of the values.
        low: What a day is clipped to against the alarm's direction, in standard deviations, below 0. Near 0 stakes are
            higher: a change of more than one standard deviation is found sooner, a lesser one later.

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
        spec: From `learn_alarm`.
        state: `AlarmState()` on the first day.
        value: The day's value; ignored when `rows` is 0.
        rows: Rows behind it. 0: no evidence, the day passes without a bet. Fewer than `spec.least_rows`: pooled.

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
    """The logarithm of the evidence that rings: the rest of the stated rate is for gross changes."""
    return math.log(spec.run_length) - (math.log1p(-_GROSS_SHARE) if spec.runs else 0.0)


def alarm_onset(spec: AlarmSpec, state: AlarmState) -> Onset | None:
    """The start day from which betting would have paid best, and the days that nearly tie; None before any day.

    The range holds every start whose bets pay at least a tenth of the best. It held the true day in 84 to 98 % of
    simulated alarms (# D0003).
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
    """The level of the value since the onset of the change; before any day, that of the reference."""
    onset = alarm_onset(spec, state)
    values = [] if onset is None else [step.value for step in state.recent if step.day >= onset.day]
    if not values:
        return Level(mean=spec.mean, sd=spec.sd, days=0)
    mean = math.fsum(values) / len(values)
    seen = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return Level(mean=mean, sd=max(spec.sd, seen), days=len(values))


def shifted_alarm(spec: AlarmSpec, state: AlarmState) -> AlarmSpec:
    """The alarm for a further change in the same direction, from the level since the onset of the first.

    Few days say where that level is, so its upper bound is as much wider.
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
    """By length of a run, how far each of its days has to be away: together they happen once in four run lengths.

    Source: Cantelli (1928): a value is k standard deviations above its mean with probability 1 / (1 + k^2) at most.
    """
    probability = _GROSS_SHARE / (run_length * sides * len(RUNS))  # that a run of one length ends on a given day
    return tuple(math.sqrt(probability ** (-1.0 / days) - 1.0) for days in RUNS)


def _grossly_away(spec: AlarmSpec, newest: tuple[float, ...]) -> bool:
    """Whether the newest days are each above the bound of a run of their length."""
    for side in spec.sides:
        base = max(0.0, side.baseline)
        if not spec.runs or side.sign * newest[-1] < min(spec.runs) + base:
            continue  # nearly every day ends here
        for days, bound in zip(RUNS, spec.runs, strict=False):
            if len(newest) >= days and min(side.sign * one for one in newest[-days:]) >= bound + base:
                return True
    return False


def _correlation(away: FloatArray) -> float:
    """Lag-1 correlation, corrected for its bias and drawn towards 0.4 (sd 0.2), more so with few days."""
    raw = float(away[1:] @ away[:-1]) / float(away @ away)
    seen = raw + (1.0 + 3.0 * raw) / away.size  # Kendall (1954)
    trust = 0.04 / (0.04 + max(1.0 - seen * seen, 0.3) / away.size)
    return min(0.8, max(0.0, trust * seen + (1.0 - trust) * 0.4))


def _baseline(clipped: FloatArray, allowance: float) -> float:
    mean = float(clipped.mean())
    variance, freedom = block_sum_variance(clipped - mean, correlated=True)
    from scipy.special import stdtrit  # here: it takes a tenth of a second to load

    level = next(level for least, level in BASELINE_LEVELS if clipped.size + 1 >= least)  # a surprise needs two days
    bound = mean + float(stdtrit(freedom, level)) * math.sqrt(variance) / clipped.size
    return min(bound + allowance, HIGH)


def _log_gains(side: AlarmSide, surprise: float, low: float) -> list[float]:
    """The gain of each stake; limited so that the worst day cannot cost more than all of it."""
    most = 0.95 / (side.baseline - low)
    excess = max(low, min(HIGH, side.sign * surprise)) - side.baseline
    return [math.log1p(min(stake, most) * excess) for stake in side.stakes]


def _log_sum(logs: tuple[float, ...]) -> float:
    top = max(logs)
    return top + math.log(sum(math.exp(one - top) for one in logs)) if top > -math.inf else top
