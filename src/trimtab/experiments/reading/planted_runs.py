"""Runs of an experiment on units of the past, with a planted effect, to see how often it would decide rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.shown import Shown
from trimtab.core.time import DAY_US
from trimtab.experiments.assignment import PastAssignments, first_buckets
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.reading.checks import check_ratio, wanted_shares
from trimtab.experiments.reading.decision import first_act
from trimtab.experiments.reading.effects import looks_of
from trimtab.experiments.records import Allocation, ArmSums, ExperimentDay, ExperimentState, VariantDay
from trimtab.experiments.unit_values import UnitValues
from trimtab.stats.ab.quantiles import bins_of
from trimtab.stats.association import share_interval

Array = NDArray[Any]
# for kinds of metrics whose values do not simply add up: what `PlantedRuns.cost` is a total of
_TOTALS = {"ratio": "of its numerator", "quantile": "of all values", "time_to_event": "seconds"}
_FIRST = 100_000  # the generation of the first run of seed 0; no real start of an experiment has such a number


class PastUnits(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Units of the past, each as if it had been exposed by its first row that fulfilled `where`.

    For a unit without such a row, its first row is used. With a ramp, a unit has one row for each step of the ramp (its
    first in that step), because a unit that is not in the first share may be in a later one.
    """

    origin: str  # the source or request whose rows stand for exposures
    rows: Sequence[Mapping[str, Any]]  # the unit's columns and attributes, as `Assigner.assign` reads them
    at_us: Array  # int64
    values: Mapping[str, UnitValues]  # the values of the units, by metric
    assumption: str = ""  # what is taken for granted about them, and how to change it
    keys: Array | None = None  # uint64: the hash of each row's unit; None: each row is another unit
    holdout: float = 0.0  # the share of all units that take part in no experiment
    known_at_us: int = 0  # the time of the plan or simulation, at which the experiment could start

    @property
    def days(self) -> int:
        """The number of days from the first unit to the last."""
        return int(self.day.max()) + 1 if len(self.rows) else 0

    @property
    def day(self) -> Array:
        """The day of each unit, from 0."""
        days: Array = self.at_us // DAY_US
        return days - days.min() if len(days) else days

    def first_days(self, duration_us: int | None) -> PastUnits:
        """Return the units of the days in which an experiment of this duration takes units in; None: all units."""
        if duration_us is None:
            return self
        kept = self.day < -(-duration_us // DAY_US)
        values = {name: one.take(kept) for name, one in self.values.items()}
        rows = list(compress(self.rows, kept.tolist()))
        keys = None if self.keys is None else self.keys[kept]
        return msgspec.structs.replace(self, rows=rows, at_us=self.at_us[kept], values=values, keys=keys)


class PlantedRuns(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The decisions of many runs about a planted effect: how many were right, when they came, and what they cost."""

    experiment: str
    rule: str
    origin: str  # the source or request whose rows stand for exposures
    effect: float  # by how much the primary metrics were made better, as a share
    variant: str  # the variant in which it was planted
    runs: int
    days: int  # the length of each run
    units: int  # units in each run, on average
    right: int  # runs that shipped a better variant or stopped a worse one; without an effect: runs that did neither
    right_low: float  # 95 % interval of the share of right runs
    right_high: float
    acts: dict[str, int]  # runs by what they did: ship, stop, nothing
    blocked: int  # runs in which the sample-ratio check failed
    days_to_right: list[float] | None  # days until a right act: 10 % quantile, median, 90 % quantile
    worse_units: float  # units that got the worse variant before the act, on average
    cost: dict[str, float]  # by primary metric: how much these units lost in total, on average
    cost_in: dict[str, str] = {}  # by primary metric: what `cost` is a total of, if not of the metric itself
    assumption: str = ""  # what is taken for granted about the units, and how to change it

    def lines(self) -> Iterator[str]:
        """Yield what the runs say, for a terminal."""
        better = "better" if self.effect > 0.0 else "worse"
        what = f"the primary metrics of {self.variant} are {100 * abs(self.effect):.3g} % {better} than the control's"
        yield f"{self.experiment}, rule {self.rule}: {self.runs} runs of {self.days} days, {self.units:,} units each"
        yield f"units: {self.origin}; planted: {what if self.effect else 'no variant differs'}"
        if self.assumption:
            yield f"Assumption: {self.assumption}"
        share = f"{self.right / self.runs:.1%} ({self.right_low:.1%} to {self.right_high:.1%})"
        yield f"right: {self.right} of {self.runs}, {share}"
        yield f"acts: {', '.join(f'{act} {count}' for act, count in self.acts.items())}"
        if self.blocked:
            yield f"blocked by the sample-ratio check: {self.blocked}"
        if self.days_to_right is not None:
            low, middle, high = self.days_to_right
            yield f"days until a right act: median {middle:.0f} (from {low:.0f} to {high:.0f} in 80 % of these runs)"
        if self.effect:
            what_of = {name: f" ({what})" for name, what in self.cost_in.items()}
            lost = "; ".join(f"{name} {total:,.4g}{what_of.get(name, '')}" for name, total in self.cost.items())
            yield f"cost until the act: {self.worse_units:,.0f} units with the worse variant, which lost {lost}"


def planted_runs(
    definition: Experiment,
    past: PastUnits,
    *,
    effect: float,
    runs: int,
    seed: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> PlantedRuns:
    """Run an experiment many times on past units, each time with other assignments.

    Args:
        definition: The experiment. The effect is planted in its first variant that is not the control.
        effect: By how much all primary metrics get better, as a share: higher or lower, as each declares. Below 0 they
            get worse, and 0 makes all variants equal. A unit's value is multiplied; for a proportion, its probability.
        seed: The seed of the planted proportions, and of the assignments.
        progress: Called with the number of finished runs and of all runs.

    Raises:
        Misuse: There are no units or no runs, no unit takes part, a proportion would be larger than 1, or
            a value that is better when lower would change its sign.
    """
    if not past.rows or runs < 1:
        raise Misuse(f"simulate: found {len(past.rows)} past units and {runs} runs. Needed: at least one of each.")
    lower = [one.name for one in definition.metrics if one.role == "primary" and one.better == "lower"]
    if lower and effect > 1.0:
        raise Misuse(
            f"simulate: effect={effect:g} would make {', '.join(lower)} {effect:.0%} lower, so below 0. Give at most 1."
        )
    past = past.first_days(definition.duration_us)
    assumption = " ".join(filter(None, (past.assumption, _too_short(definition, past.days))))
    variant = list(definition.variants)[1]
    wanted = ("nothing", None) if not effect else ("ship" if effect > 0.0 else "stop", variant)
    acts: dict[str, int] = {}
    right, blocked, took, units, worse_units = 0, 0, list[int](), 0, 0
    for run in range(runs):
        state, codes, days = split_days(definition, past, seed=seed, run=run, effect=effect)
        units += int((codes >= 0).sum())
        check_some_take_part(definition, past, units)
        blocked += not check_ratio(definition, state, days).holds
        looks = {
            (metric.name, name): looks_of(definition, metric, state, days, name)
            for metric in definition.metrics
            for name in list(definition.variants)[1:]
        }
        act, chosen, until_us = first_act(definition, looks, variant if effect else None)
        acts[act] = acts.get(act, 0) + 1
        end = past.days if until_us is None else until_us // DAY_US - int(past.at_us.min()) // DAY_US
        if (act, chosen) == wanted:
            right += 1
            took += [end] if effect else []
        if effect:
            worse_units += int(((codes == (0 if effect > 0.0 else 1)) & (past.day < end)).sum())
        if progress is not None:
            progress(run + 1, runs)
    interval = share_interval(right, runs)
    primary = [metric for metric in definition.metrics if metric.role == "primary"]
    return PlantedRuns(
        experiment=definition.name,
        rule=definition.rule,
        origin=past.origin,
        assumption=assumption,
        effect=effect,
        variant=variant,
        runs=runs,
        days=past.days,
        units=round(units / runs),
        right=right,
        right_low=interval.low,
        right_high=interval.high,
        acts=dict(sorted(acts.items())),
        blocked=blocked,
        days_to_right=[float(one) for one in np.quantile(took, (0.1, 0.5, 0.9))] if took else None,
        worse_units=worse_units / runs,
        cost={
            one.name: abs(effect) * float(np.nanmean(past.values[one.name].y)) * worse_units / runs for one in primary
        },
        cost_in={one.name: _TOTALS[one.kind] for one in primary if one.kind in _TOTALS},
    )


def _too_short(definition: Experiment, days: int) -> str:
    """Return what is different if fewer days of the past are known than the experiment lasts; "" if they suffice."""
    planned = -(-(definition.duration_us or 0) // DAY_US)
    if days >= planned or definition.rule not in ("fixed", "obrien_fleming"):
        return ""
    what = f"the rule fixed makes its look after day {days}"
    if definition.rule == "obrien_fleming":
        made = sum(round(planned * number / definition.looks) <= days for number in range(1, definition.looks + 1))
        what = f"only {made} of the {definition.looks} looks are made"
    return (
        f"The experiment lasts {planned} days, but units of {days} days are known. So {what}, and fewer runs decide "
        f"than would in {planned} days. Ingest older history, or raise --days (days=)."
    )


def check_some_take_part(definition: Experiment, past: PastUnits, units: float) -> None:
    """Raise Misuse if no past unit takes part."""
    if not units:
        raise Misuse(
            f"experiment {definition.name!r}: none of the {len(past.rows):,} units of {past.origin} takes part. Check "
            f"where={definition.where!r} and share={definition.largest_share:g}."
        )


def split_days(
    definition: Experiment, past: PastUnits, *, seed: int, run: int, effect: float = 0.0
) -> tuple[ExperimentState, Array, list[ExperimentDay]]:
    """Assign past units as in one run, and return the state, the number of each unit's variant, and the days.

    The share of the units grows by the declared ramp from the first day on. A unit takes part with the first of its
    rows that is in the share at the row's time. Its other rows, and units that do not take part, have the number -1.

    Args:
        run: The number of the run, below 100,000.
        effect: By how much the primary metrics of the first variant that is not the control get better.
    """
    start_us, generation = int(past.at_us.min()) // DAY_US * DAY_US, _FIRST * (1 + seed % 1_000_000) + run
    state = made_state(definition, start_us, generation, wanted_shares(definition))
    (whole,) = state.allocations
    steps = [
        msgspec.structs.replace(whole, from_us=start_us + after_us, share=share)
        for after_us, share in ramp_steps(definition, past.known_at_us)
    ]
    state = msgspec.structs.replace(state, allocations=steps)
    codes = _codes(definition, state, past)
    return state, codes, _days(definition, state, past, codes, effect, np.random.default_rng([seed, run]))


def made_state(definition: Experiment, start_us: int, generation: int, weights: dict[str, float]) -> ExperimentState:
    """Return a state as if the experiment had started at `start_us`, with its largest share from the beginning."""
    now = Allocation(from_us=start_us, share=definition.largest_share, weights=weights, buckets=first_buckets(weights))
    return ExperimentState(
        name=definition.name,
        hash="",
        definition=b"",
        generation=generation,
        phase="running",
        started_at_us=start_us,
        allocations=[now],
    )


def ramp_steps(definition: Experiment, now_us: int) -> list[tuple[int, float]]:
    """Return the shares of an experiment that starts now, each with the microseconds after the start; the first has 0.

    >>> ramp_steps(Experiment(name="e", unit=("u",), variants={}, share=0.1, ramp=((DAY_US, 0.5),)), 0)
    [(0, 0.1), (86400000000, 0.5)]
    """
    dated = [(max(0, at_us - now_us), share) for at_us, share in definition.ramp_at]
    steps = dict([(0, definition.share), *definition.ramp, *dated])  # of steps at the same time, the last counts
    return sorted(steps.items())


def _codes(definition: Experiment, state: ExperimentState, past: PastUnits) -> Array:
    """Return the number of each unit's variant, or -1 if it does not take part."""
    assign = PastAssignments(definition, state, holdout=past.holdout, overrides={}).at
    numbers = {name: number for number, name in enumerate(definition.variants)}
    found = (assign(row, at_us) for row, at_us in zip(past.rows, past.at_us.tolist(), strict=True))
    codes = np.array([numbers[one.variant] if one.takes_part else -1 for one in found], np.int64)
    if past.keys is not None:
        taking = np.flatnonzero(codes >= 0)
        taking = taking[np.argsort(past.at_us[taking], kind="stable")]
        first = taking[np.unique(past.keys[taking], return_index=True)[1]]
        kept = np.full(codes.size, -1)
        kept[first] = codes[first]
        return kept
    return codes


def _days(
    definition: Experiment,
    state: ExperimentState,
    past: PastUnits,
    codes: Array,
    effect: float,
    rng: np.random.Generator,
) -> list[ExperimentDay]:
    """Return the sums of all days, with the effect in the first variant that is not the control."""
    day, names = past.day, list(definition.variants)
    units = _counted(day, codes, past.days, len(names))
    sums: dict[str, list[list[ArmSums]]] = {}
    for metric in definition.metrics:
        numbers = past.values[metric.name]
        y = numbers.y
        if effect and metric.role == "primary":
            y = planted(metric, y, codes == 1, day, effect, rng)
        sums[metric.name] = _sums(metric, msgspec.structs.replace(numbers, y=y), day, codes, units.shape)
    return [
        ExperimentDay(
            experiment=definition.name,
            generation=state.generation,
            day_us=state.started_at_us + at * DAY_US,
            variants={
                name: VariantDay(
                    units=int(units[at, number]), metrics={one: some[at][number] for one, some in sums.items()}
                )
                for number, name in enumerate(names)
            },
        )
        for at in range(past.days)
    ]


def planted(metric: Metric, y: Array, treated: Array, day: Array, effect: float, rng: np.random.Generator) -> Array:
    """Return the values `y` of units, with those of treated units made better by the share `effect`.

    The values of a proportion are 0 or 1, so some of these are changed at random.

    Raises:
        Misuse: The probability over all days would be larger than 1.
    """
    factor = 1.0 + (effect if metric.better == "higher" else -effect)
    if metric.kind != "proportion":
        return np.where(treated, y * factor, y)
    if factor <= 1.0:
        return np.where(treated & (rng.random(len(y)) >= factor), 0.0, y)
    present = ~np.isnan(y)
    counts = np.bincount(day[present], minlength=int(day.max()) + 1)
    rate = np.bincount(day[present], y[present], minlength=int(day.max()) + 1) / np.maximum(counts, 1)
    if (rate * factor).max() > 1.0 and (y[present].mean() * factor) > 1.0:
        raise Misuse(f"simulate: {metric.name} is {y[present].mean():.3g}, so {100 * effect:+.3g} % would exceed 1.")
    # the probability with which a 0 becomes 1 on each day, so that the day's rate rises by the factor
    flips = np.divide(rate * (factor - 1.0), 1.0 - rate, out=np.zeros_like(rate), where=rate < 1.0)
    return np.where(treated & (y == 0.0) & (rng.random(len(y)) < flips[day]), 1.0, y)


def _counted(day: Array, codes: Array, days: int, variants: int, weights: Array | None = None) -> Array:
    """Return the number of units, or the sum of their weights, by day and variant."""
    there = codes >= 0
    cells = (day * variants + codes)[there]
    given = None if weights is None else weights[there]
    return np.bincount(cells, given, minlength=days * variants).reshape(days, variants)


def _sums(metric: Metric, numbers: UnitValues, day: Array, codes: Array, shape: tuple[int, ...]) -> list[list[ArmSums]]:
    """Return the sums of a metric by day and variant."""
    days, variants = shape
    codes = np.where(np.isnan(numbers.y), -1, codes)
    columns = {name: one for name in "yxd" if (one := getattr(numbers, name)) is not None}
    tables = {
        name: _counted(
            day, codes, days, variants, columns[name[0]] if len(name) == 1 else columns[name[0]] * columns[name[1]]
        )
        for name in ("y", "yy", "x", "xx", "xy", "d", "dd", "yd")
        if all(letter in columns for letter in name)
    }
    units = _counted(day, codes, days, variants)
    bins = bins_of(np.nan_to_num(numbers.y)) if metric.kind == "quantile" else None
    return [
        [
            ArmSums(
                units=int(units[at, code]),
                histogram={} if bins is None else _histogram(bins[(day == at) & (codes == code)]),
                **{name: (float(table[at, code]),) if table[at, code] else () for name, table in tables.items()},
            )
            for code in range(variants)
        ]
        for at in range(days)
    ]


def _histogram(bins: Array) -> dict[int, int]:
    places, counts = np.unique(bins, return_counts=True)
    return dict(zip(places.tolist(), counts.tolist(), strict=True))
