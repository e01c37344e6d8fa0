"""Plan an experiment: how long it takes to find an effect, and which effects can be found, from units of the past."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.shown import Shown, shown
from trimtab.core.time import DAY_US, SECOND_US, format_time
from trimtab.experiments.definitions import Experiment, Metric, Role, Rule
from trimtab.experiments.reading.checks import wanted_shares
from trimtab.experiments.reading.effects import FEWEST_DAYS, arms_of, level_of
from trimtab.experiments.reading.looks import in_units, never_is_good
from trimtab.experiments.reading.planted_runs import PastUnits, check_some_take_part, ramp_steps, split_days
from trimtab.experiments.reading.traffic import courses, trend
from trimtab.experiments.records import ExperimentDay
from trimtab.experiments.unit_values import UnitValues
from trimtab.report import Align, Table
from trimtab.report.tables import terminal_table
from trimtab.stats.ab.arms import FloatArray
from trimtab.stats.ab.power import Design, days_needed, detectable_effect
from trimtab.stats.ab.quantiles import SMALLEST
from trimtab.stats.ab.readings import effective_days, readings

POWER = 0.8
LOOKS = 5  # the number of looks of "obrien_fleming" if none is declared
MOST_DAYS = 180  # longer experiments are not planned
_DAYS = (7, 14, 28, 56)  # the smallest effects are computed after these numbers of days
_SPLITS = 20  # how often past units are split at random, to see how much the difference varies
_LEAST_DAYS = 3
_FORTNIGHT = 14
_SURE = 1.25  # a larger `MetricPlan.factor` is mentioned
_FEWER = 0.9  # a note says that days differ if they are worth less than this share of as many equal days


class RulePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The effects on a metric that one rule can find, and after how many days."""

    rule: Rule
    days: dict[str, int | None]  # by effect, such as "5 %": the days after which it is found; null: more than 180
    smallest: dict[int, float | None]  # by number of days: the smallest effect that is found, as a share


class MetricPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a metric in the past, and the effects that each rule can find."""

    metric: str
    role: Role
    mean: float  # of a unit; for ratios and quantiles, the ratio or quantile
    sd: float  # the standard deviation of the units' values within a day, after the covariate was subtracted
    explained: float | None  # the share of the variance that the covariate explains; null: there is none
    day_sd: float  # the standard deviation over days of the difference between variants, beyond the noise of units
    rules: list[RulePlan]
    unit: str = ""  # the unit of the metric's values, " s" for times
    # how well the past units show the metric's variation: the 95 % interval of a number of days is from the number
    # divided by this to the number times this; None: it is not known, as for quantiles
    factor: float | None = None

    @property
    def plain_sd(self) -> float:
        """The standard deviation of a unit within a day before the covariate is subtracted."""
        return self.sd / math.sqrt(1.0 - (self.explained or 0.0)) if self.explained != 1.0 else self.sd


class ExperimentPlan(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The expected length of an experiment, and the effects that it can show."""

    experiment: str
    rule: Rule  # the declared one
    origin: str  # the source or request whose rows stand for exposures
    past_days: int
    past: tuple[str, str]  # the first and the last of these days
    units_a_day: float  # new units of the control and of the first other variant together
    power: float  # the probability with which an effect is found
    metrics: list[MetricPlan]
    compared: str = ""  # if there are several treatments: which two variants this is about
    assumption: str = ""  # what is taken for granted about the units, and how to change it
    notes: list[str] = []  # what is expected of coming days: a trend of the new units, and days of unequal traffic
    constant: list[str] = []  # metrics that did not vary, were 0 or had no value, so nothing is planned for them
    # for guardrails in `constant` without events: after how many days without one they are shown to be within margins
    without_events: dict[str, int] = {}

    @property
    def _history(self) -> str:
        return f"{self.past_days} days of {self.origin}, {self.past[0]} to {self.past[1]}"

    def lines(self) -> Iterator[str]:
        """Yield the plan for a terminal."""
        of = f" in {self.compared}" if self.compared else ""
        yield f"{self.experiment}: {self.units_a_day:,.0f} new units a day{of} ({self._history})"
        if self.assumption:
            yield f"Assumption: {self.assumption}"
        yield from self.notes
        for one in self.metrics:
            kind = "time_to_event" if one.unit else "mean"
            day_sd = in_units(one.day_sd, kind)
            noise = f"; from day to day the difference varies by another {day_sd}" if one.day_sd else ""
            yield ""
            mean, sd = (in_units(value, kind, digits=4) for value in (one.mean, one.plain_sd))
            values = f"mean {mean}, standard deviation {sd}"
            left = in_units(one.sd, kind, digits=4)
            less = (
                "" if one.explained is None else f", of which the covariate explains {one.explained:.0%} ({left} left)"
            )
            yield f"{one.metric} ({one.role}): {values}{less}{noise}"
            yield terminal_table(rules_table(one.rules, self.rule))
            if one.factor is not None and one.factor > _SURE:
                yield (
                    f"The history shows little of {one.metric}. To get 95 % intervals, divide and multiply each number "
                    f"of days by {one.factor:.1f}, and each effect by {math.sqrt(one.factor):.1f}."
                )
        yield ""
        if self.constant:
            yield f"Not planned (constant, 0 or without values over the past units): {', '.join(self.constant)}."
        for name, days in self.without_events.items():
            yield f"{name}: if no unit has an event, it is shown to be within its margin after about {days} days."
        yield what_is_found(self.power)


def what_is_found(power: float) -> str:
    """Return the sentence that says what the days and effects of a plan mean."""
    return (
        f'Days, and smallest effects ("in 7 days"), are for finding an effect with a probability of {power:.0%}. '
        f"The rule obrien_fleming has {LOOKS} looks unless another number is declared."
    )


def rules_table(rules: Sequence[RulePlan], declared: Rule | None = None) -> Table:
    """Return the plans of rules as a table. The declared one is marked."""
    first = rules[0]
    headers = ("rule", *(f"days for {name}" for name in first.days), *(f"in {days} days" for days in first.smallest))
    rows = tuple(
        (
            f"{one.rule} (declared)" if one.rule == declared else one.rule,
            *(f"above {MOST_DAYS}" if days is None else str(days) for days in one.days.values()),
            *(
                "-" if size is None else f"{100 * size:.2g} %" if size < 0.995 else "above 99 %"
                for size in one.smallest.values()
            ),
        )
        for one in rules
    )
    align: list[Align] = ["left"]
    align += ["right" for _ in headers[1:]]
    return Table(headers=headers, rows=rows, align=tuple(align))


def plan_experiment(definition: Experiment, past: PastUnits, *, effects: Sequence[float]) -> ExperimentPlan:
    """Plan an experiment from past units.

    Past units are split at random, as the experiment would split them. The differences between such variants are only
    noise: that of units, and an additional part that differs from day to day.

    Args:
        effects: The effects to find, as shares of the control's value.

    Raises:
        Misuse: An effect is not above 0, there are too few days or units, or a primary metric does not vary.
    """
    if not definition.metrics:
        raise Misuse(f"plan: experiment {definition.name!r} has no metric. Declare metrics=[tt.metric(...)].")
    if past.days < _LEAST_DAYS:
        raise Misuse(
            f"plan: all units of {past.origin} first appeared within {past.days} days, needed {_LEAST_DAYS}. Ingest "
            "more history. If the same units come every day, nothing can be planned."
        )
    steady = msgspec.structs.replace(definition, share=definition.largest_share, ramp=(), ramp_at=())
    splits = [split_days(steady, past, seed=0, run=run)[2] for run in range(_SPLITS)]
    names = list(definition.variants)[:2]
    units = np.array([[sum(day.variants[name].units for name in names) for day in days] for days in splits]).mean(0)
    check_some_take_part(definition, past, float(units.sum()))
    ramp = _ramp(definition, past, 2 * MOST_DAYS)
    expected = courses(units, 2 * MOST_DAYS) or ((float(units.mean()),) * (2 * MOST_DAYS),) * bool(np.ptp(ramp))
    fewer = trend(units, past.days)[0]
    traffic = Design(
        units_per_day=float(units.mean()), sd=1.0, courses=_ramped(expected, ramp, again=bool(fewer[-1] < fewer[0]))
    )
    never = {
        one.name
        for one in definition.metrics
        if one.role == "guardrail" and one.kind != "quantile" and not _any_event(one, past.values[one.name].y)
    }
    plans = [
        None if one.name in never else _metric_plan(definition, one, splits, traffic, effects, past)
        for one in definition.metrics
    ]
    constant = [metric for metric, of in zip(definition.metrics, plans, strict=True) if of is None]
    error = (1.0 - definition.level) / (2.0 if definition.two_sided else 1.0)
    shares = wanted_shares(definition)
    fewest = min(shares[name] for name in names) / sum(shares[name] for name in names)
    fewest_by_day = fewest * traffic.units_per_day * np.cumsum(np.mean(traffic.shapes(2 * MOST_DAYS), axis=0))
    return ExperimentPlan(
        experiment=definition.name,
        rule=definition.rule,
        origin=past.origin,
        assumption=past.assumption,
        past_days=past.days,
        past=(format_time(int(past.at_us.min()))[:10], format_time(int(past.at_us.max()))[:10]),
        units_a_day=traffic.units_per_day,
        compared=" and ".join(names) if len(definition.variants) > 2 else "",
        power=POWER,
        metrics=[one for one in plans if one is not None],
        constant=[one.name for one in constant],
        notes=[*_notes(units), *_of_ramp(definition, ramp)],
        without_events={
            one.name: max(FEWEST_DAYS, days)
            for one in constant
            if one.name in never and never_is_good(one)
            if (days := _days_until(math.log(error) / math.log1p(-one.negligible), fewest_by_day))
        },
    )


def _ramp(definition: Experiment, past: PastUnits, days: int) -> FloatArray:
    """Return the share of the units that take part at the beginning of each day, relative to the largest share."""
    at_us, shares = (np.array(one) for one in zip(*ramp_steps(definition, past.known_at_us), strict=True))
    found: FloatArray = shares[np.searchsorted(at_us, np.arange(days) * DAY_US, side="right") - 1]
    return found / definition.largest_share


def _ramped(expected: tuple[tuple[float, ...], ...], ramp: FloatArray, *, again: bool) -> tuple[tuple[float, ...], ...]:
    """Return the units of each day under the ramp. `expected` has the units if the largest share applied at once.

    `again`: the same units keep returning, so new ones become fewer. Then the units that a step of the ramp adds come
    as if the experiment started on the day of that step.
    """
    found = []
    for start, course in enumerate(expected):
        units = np.array(course) * ramp
        if again:
            units = np.zeros(ramp.size)
            for day in np.flatnonzero(np.diff(ramp, prepend=0.0)):
                added = np.array(expected[(start + day) % len(expected)])[: ramp.size - day]
                units[day:] += (ramp[day] - (ramp[day - 1] if day else 0.0)) * added
        found.append(tuple(units.tolist()))
    return tuple(found)


def _of_ramp(definition: Experiment, ramp: FloatArray) -> Iterator[str]:
    """Yield a sentence about the ramp, if there is one."""
    changed = [0, *(np.flatnonzero(np.diff(ramp)) + 1).tolist()]
    if len(changed) > 1:
        shares = [f"{100.0 * definition.largest_share * ramp[day]:.3g} % on day {day + 1}" for day in changed]
        yield f"By the ramp, {', '.join(shares)} take part; new units a day are those of the largest share."


def _days_until(units: float, by_day: FloatArray) -> int | None:
    """Return after how many days `units` units have come; None if not in ten years.

    `by_day` has the total number of units until each of the next days. Later days have as many as the last one.
    """
    more = math.ceil(max(0.0, units - by_day[-1]) / max(by_day[-1] - by_day[-2], 1e-9))
    return int(np.searchsorted(by_day, units - 1e-6)) + 1 if not more else by_day.size + more if more < 3_650 else None


def _notes(units: FloatArray) -> Iterator[str]:
    """Yield sentences about the new units of the past days: their trend, and how much days differ."""
    if units.size < _FORTNIGHT:
        yield f"The history is short: {units.size} days show little of how days differ. Use {_FORTNIGHT} or more."
    expected, follows = trend(units, max(MOST_DAYS, units.size))
    past, expected = expected[: units.size], expected[:MOST_DAYS]
    if follows and expected[-1] < units.mean():
        yield (
            f"New units become fewer: {units[0]:,.0f} on the first day, {units[-1]:,.0f} on day {units.size}. "
            f"Continued, this makes {expected[-1]:,.0f} on day {MOST_DAYS}, and {expected.sum():,.0f} until then."
        )
    elif follows:
        yield (
            f"New units become more: {units[0]:,.0f} on the first day, {units[-1]:,.0f} on day {units.size}. From then "
            f"on, {expected[-1]:,.0f} a day are expected."
        )
    shape = units / np.maximum(past, 1e-9)
    effective = float(effective_days(shape / shape.sum())[0])
    if effective < _FEWER * units.size:
        yield (
            f"Days differ: they had {units.min():,.0f} to {units.max():,.0f} new units, so {units.size} days are worth "
            f"about {effective:.0f} equal ones. The plan takes this into account, whichever weekday it starts on."
        )


def plan_rules(design: Design, mean: float, effects: Sequence[float]) -> list[RulePlan]:
    """Return what each rule can find.

    Args:
        design: The comparison; its rule does not matter.
        mean: The control's value, of which effects are shares.
        effects: The effects to find, as shares.

    Raises:
        Misuse: The mean is 0 or not finite, or an effect is not a finite share above 0.
    """
    given: object = effects
    numbers = isinstance(given, Sequence) and all(isinstance(one, Real) for one in given)
    if not numbers or not effects or not all(0.0 < one < math.inf for one in effects):
        raise Misuse(f"effects={shown(effects)[:100]}. Give a list of shares above 0, such as [0.05].")
    if not math.isfinite(mean) or not mean:
        raise Misuse(f"mean={mean}. Give a finite value of the control that is not 0; effects are shares of it.")
    found = []
    for rule in get_args(Rule):
        this = msgspec.structs.replace(design, rule=rule)
        needed = {
            f"{100 * one:.3g} %": days_needed(this, one * abs(mean), power=POWER, most=MOST_DAYS) for one in effects
        }
        smallest = {number: _share(detectable_effect(this, number, power=POWER), mean) for number in _DAYS}
        found.append(RulePlan(rule=rule, days=needed, smallest=smallest))
    return found


def _metric_plan(
    definition: Experiment,
    metric: Metric,
    splits: Sequence[Sequence[ExperimentDay]],
    traffic: Design,
    effects: Sequence[float],
    past: PastUnits,
) -> MetricPlan | None:
    """Return the plan of a metric; None if it is not primary and has no value, does not vary or is 0."""
    control, variant = list(definition.variants)[:2]
    has_covariate = bool(metric.before_us)
    numbers = np.array([_noise(days, metric, control, variant, cuped=has_covariate) for days in splits])
    mean, variance, excess = (float(one) for one in numbers.mean(0))
    is_0 = abs(mean) < SMALLEST if metric.kind == "quantile" else not mean  # sums of a quantile may give 1e-15 for 0
    if is_0 or not (math.isfinite(mean) and variance > 0.0):
        if metric.role != "primary":
            return None
        why = "is 0" if is_0 else "does not vary" if math.isfinite(mean) else "has no value"
        said = f"plan: {metric.name} {why} over the past units, so nothing can be planned for it."
        raise Misuse(f"{said} {past.assumption}".rstrip())
    plain = [_noise(days, metric, control, variant, cuped=False)[1] for days in splits] if has_covariate else []
    if excess < 2.0 * float(numbers[:, 2].std()) / math.sqrt(len(splits)):
        excess = 0.0  # so small an excess may be only noise
    shares = wanted_shares(definition)
    design = msgspec.structs.replace(
        traffic,
        sd=math.sqrt(variance),
        share=shares[variant] / (shares[control] + shares[variant]),
        day_sd=math.sqrt(max(0.0, excess)),
        looks=definition.looks if definition.rule == "obrien_fleming" else LOOKS,
        level=level_of(definition, metric),
        two_sided=definition.two_sided,
    )
    wanted = [metric.margin] if metric.role == "guardrail" else effects
    return MetricPlan(
        metric=metric.name,
        role=metric.role,
        unit=" s" if metric.kind == "time_to_event" else "",
        mean=mean,
        sd=design.sd,
        explained=1.0 - variance / float(np.mean(plain)) if plain else None,
        day_sd=design.day_sd,
        factor=_factor(metric, past.values[metric.name], mean),
        rules=plan_rules(design, mean, wanted),
    )


def _factor(metric: Metric, values: UnitValues, mean: float) -> float | None:
    """Return the factor by which the days may be more or fewer (95 %), because these units only estimate (sd / mean)^2.

    The delta method gives the standard error of the logarithm of this estimate.
    """
    if metric.kind == "quantile":
        return None
    known = ~np.isnan(values.y)
    y = values.y[known]
    squares = (y - mean * (1.0 if values.d is None else values.d[known])) ** 2
    parts = squares / squares.mean() - 2.0 * y / y.mean()
    return math.exp(min(1.96 * float(parts.std()) / math.sqrt(y.size), 10.0))


def _any_event(metric: Metric, y: NDArray[np.float64]) -> bool:
    """Return whether a unit has an event. Otherwise values are 0 or NaN, and times to an event the whole window."""
    none = metric.within_us / SECOND_US if metric.kind == "time_to_event" else 0.0
    return bool((np.nan_to_num(y, nan=none) != none).any())


def _noise(
    days: Sequence[ExperimentDay], metric: Metric, control: str, variant: str, *, cuped: bool
) -> tuple[float, float, float]:
    """Return the control's value, a unit's variance, and the part of the daily variance that units do not explain."""
    arms = arms_of(days, (control, variant), metric)
    found = readings(*arms, ends=[len(days)], ratio=metric.kind == "ratio", cuped=cuped, correlated=False)
    errors = found.errors()
    units = arms[0].units + arms[1].units
    effective, factor = (float(one) for one in effective_days(units / units.sum()))
    expected = float(errors.floor[0]) * (1.0 - 1.0 / effective) * factor  # if only units vary; see `effective_days`
    excess = (float(errors.variance[0]) - expected) * effective
    return float(found.means[0, 0]), float(errors.floor[0] * found.information[0]), excess


def _share(effect: float, mean: float) -> float | None:
    return effect / abs(mean) if mean and math.isfinite(effect) else None
