"""Effects on metrics over time, by slice, and by time since the first exposure, from the sums of closed days."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np

from trimtab.core.time import DAY_US, SECOND_US
from trimtab.experiments.day_sums import SUMS, merged
from trimtab.experiments.days import end_us
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.reading.looks import Look, never_is_good
from trimtab.experiments.records import ArmSums, ExperimentDay, ExperimentState, VariantDay
from trimtab.stats.ab.arms import Arm, Effect, post_stratified
from trimtab.stats.ab.bayes import posterior
from trimtab.stats.ab.fixed import compare
from trimtab.stats.ab.multiple import benjamini_hochberg, holm
from trimtab.stats.ab.quantiles import SMALLEST, quantile_arm
from trimtab.stats.ab.readings import day_weights
from trimtab.stats.ab.sequential import compare_any_time, obrien_fleming
from trimtab.stats.exact_sums import rounded

_WEEK_US = 7 * DAY_US
FEWEST_DAYS = 3  # a guardrail without events has no bound before this many days with units of both variants
_FAR = 1_000.0  # bounds further from 0 than this many times the larger mean are replaced by None; see `_bound`
_LEAST = 2  # variants are only compared if each has at least this many units


def comparisons(definition: Experiment) -> int:
    """Return how many comparisons share the error: primary metrics times variants other than the control."""
    return max(1, sum(one.role == "primary" for one in definition.metrics) * (len(definition.variants) - 1))


def level_of(definition: Experiment, metric: Metric) -> float:
    """Return the confidence level of a metric's intervals. All comparisons of primary metrics share one error."""
    shared = comparisons(definition) if metric.role == "primary" else 1
    return 1.0 - (1.0 - definition.level) / shared


def days_until(start_us: int, end_us: int, length_us: int = DAY_US) -> int:
    """Return the number of calendar days, or of blocks of another length since 1970, that an interval touches."""
    return -(-end_us // length_us) - start_us // length_us


def arms_of(
    days: Sequence[ExperimentDay], variants: tuple[str, str], metric: Metric, slice_: str | int = ""
) -> tuple[Arm, Arm]:
    """Return the sums of a metric for two variants, one block for each day.

    `slice_` is a slice, or the number of a part of the metric's window, from 1.
    """
    control, variant = ([_sums(day, name, metric.name, slice_) for day in days] for name in variants)
    if metric.kind != "quantile":
        return _arm(metric, control), _arm(metric, variant)
    units = np.array([[[one.units for one in sums]] for sums in (control, variant)], np.float64)
    weights, _, _ = day_weights(units)
    arms = [
        quantile_arm([one.histogram for one in sums], metric.quantile, weight[0])
        for sums, weight in zip((control, variant), weights, strict=True)
    ]
    return arms[0], arms[1]


def _arm(metric: Metric, sums: Sequence[ArmSums]) -> Arm:
    columns = {name: np.array([rounded(getattr(one, name)) for one in sums], np.float64) for name in SUMS}
    kept = set("y") | (set("x") if metric.before_us else set()) | (set("d") if metric.kind == "ratio" else set())
    return Arm(
        units=np.array([one.units for one in sums], np.float64),
        **{name: column for name, column in columns.items() if kept.issuperset(name)},
    )


def looks_of(
    definition: Experiment,
    metric: Metric,
    state: ExperimentState,
    closed: Sequence[ExperimentDay],
    variant: str,
    slice_: str = "",
) -> list[Look]:
    """Return the effect at each look that the rule of the experiment allows, oldest first.

    Args:
        closed: All its closed days in order, also excluded ones.
        variant: The variant that is compared with the control.
        slice_: A slice, such as "country=DE"; by default all units.
    """
    days = days_shown(definition, state, closed)
    counted = [one for one in days if one.excluded is None]
    if not _enough(definition, metric, counted, variant, slice_):
        return _without_events(definition, metric, days, variant)[-1:] if not slice_ else []
    how = _how(definition, metric)
    shown, ends = counted, [len(counted)]
    if definition.rule == "obrien_fleming":
        # looks are planned by the number of days, so an excluded day counts as a day without units
        shown = [one if one.excluded is None else msgspec.structs.replace(one, variants={}) for one in days]
        planned, ends = _planned_looks(definition, state)
    elif definition.rule != "fixed":
        ends = list(range(1, len(counted) + 1))

    def compared(until: int, *, margin: bool, last: bool) -> list[Effect]:
        """Return the effects at all looks in the first `until` days; with `last`, at least the last of them.

        With `margin`, the variant is compared with a control that is worse by the margin.
        """
        control, treatment = _pair(definition, metric, shown[:until], variant, slice_)
        pair = (_at_margin(control, metric) if margin else control), treatment
        if definition.rule == "obrien_fleming":
            return obrien_fleming(*pair, looks=definition.looks, planned_blocks=planned, **how)
        if definition.rule == "fixed":
            return [compare(*pair, **how)]
        return compare_any_time(*pair, rule=definition.rule, ends=[until] if last else None, **how)

    def at_looks(*, margin: bool) -> list[Effect]:
        if metric.kind != "quantile":
            return compared(len(shown), margin=margin, last=False)
        # the sums of a quantile depend on its value over all days of a look, so they are computed for each look
        return [compared(end, margin=margin, last=True)[-1] for end in ends if end <= len(shown)]

    looks = [_look(metric, effect, shown[end - 1]) for effect, end in zip(at_looks(margin=False), ends, strict=False)]
    if metric.role != "guardrail":
        return looks
    beyond, never = at_looks(margin=True), {}
    if not slice_:
        never = {look.until_us: look.at_most for look in _without_events(definition, metric, days, variant)}
    return [
        msgspec.structs.replace(
            look,
            beyond_low=_bound(one.low, _size(one)),
            beyond_high=_bound(one.high, _size(one)),
            at_most=never.get(look.until_us),
        )
        for look, one in zip(looks, beyond, strict=True)
    ]


def _without_events(definition: Experiment, metric: Metric, days: Sequence[ExperimentDay], variant: str) -> list[Look]:
    """Return a look for each day, as long as no unit of either variant has an event of a guardrail.

    If a share p of the units has one, n units have none with the probability (1 - p)^n. So with the error a, p is at
    most 1 - a^(1/n), about 3/n for an error of 5 %. This holds at all looks together: units that have no event so far
    had none at any earlier look. Before the third day on which both variants have units, the bound is 1.

    If events are good, as orders are, the bound is always 1: the metric probably reads the wrong ids. Units of days
    that are left out prove nothing, but an event of one of them counts: from then on the bound is 1. The first
    event on a day that counts ends the looks; the last one then has no bound and no values.
    """
    of_events = metric.source is not None or metric.prediction == "label"
    if metric.role != "guardrail" or not of_events:
        return []
    error = (1.0 - definition.level) / (2.0 if definition.two_sided else 1.0)
    found, units, passed, happened = list[Look](), [0, 0], 0, False
    none: dict[str, Any] = dict.fromkeys(("low", "high", "relative", "relative_low", "relative_high", "p"))
    for day in days:
        here = [day.variants.get(name, VariantDay()) for name in (definition.control, variant)]
        # a unit whose label is not known may have had the event, so only units with a label count
        sums = [one.metrics.get(metric.name, ArmSums()) for one in here]
        happened = happened or any(has_event(metric, one) for one in sums)
        at_most: float | None = 1.0
        if day.excluded is None:
            judged = [one.units for one in (sums if metric.source is None else here)]
            units = [before + count for before, count in zip(units, judged, strict=True)]
            passed += all(judged)
        if passed >= FEWEST_DAYS and not happened and metric.kind != "quantile" and never_is_good(metric):
            at_most = -math.expm1(math.log(error) / min(units))
        value, ends = 0.0, day.excluded is None and any(has_event(metric, one) for one in sums)
        if ends:
            value, at_most = math.nan, None
        values = {"control": value, "variant": value, "difference": value}
        until_us, pair = day.day_us + DAY_US, (units[0], units[1])
        found.append(Look(until_us=until_us, units=pair, **values, **none, method="no event", at_most=at_most))
        if ends:
            break
    return found


def has_event(metric: Metric, sums: ArmSums) -> bool:
    """Return whether any of the units that are added up in `sums` has an event of a metric.

    Without an event, a unit has the value 0 or null, or, as its time to an event, the whole window.

    >>> crash = Metric(name="crash", kind="time_to_event", within_us=DAY_US)
    >>> has_event(crash, ArmSums(units=2, y=(172800.0,))), has_event(crash, ArmSums(units=2, y=(172799.0,)))
    (False, True)
    """
    if metric.kind != "time_to_event":
        return bool(sums.yy)
    return sum(map(Fraction, sums.y)) != sums.units * Fraction(metric.within_us / SECOND_US)


def _at_margin(control: Arm, metric: Metric) -> Arm:
    """Return the control as if each of its units were worse by the margin of a guardrail."""
    worse = metric.margin if metric.better == "lower" else -metric.margin
    factor = 1.0 + (worse if float(control.y.sum()) >= 0.0 else -worse)
    powers = {"y": 1, "yy": 2, "xy": 1, "yd": 1}
    sums = {name: value for name, value in msgspec.structs.asdict(control).items() if value is not None}
    return Arm(**{name: value * factor ** powers.get(name, 0) for name, value in sums.items()})


def days_shown(
    definition: Experiment, state: ExperimentState, closed: Sequence[ExperimentDay]
) -> Sequence[ExperimentDay]:
    """Return the closed days until the planned end; with planned looks, only those until the newest look.

    In a switchback with longer blocks, the days of a block are merged, and it counts once its last day is closed.
    """
    planned_us = state.started_at_us + (definition.duration_us or sys.maxsize)
    days = [one for one in closed if one.day_us < planned_us]
    if (length_us := definition.evidence_us) > DAY_US:
        until_us = end_us(state, definition)  # the last block may end here
        blocks: dict[int, list[ExperimentDay]] = {}
        for day in days:
            blocks.setdefault(day.day_us // length_us, []).append(day)
        days = [
            merged(of)
            for number, of in sorted(blocks.items())
            if of[-1].day_us + DAY_US >= min((number + 1) * length_us, until_us)
        ]
    if definition.rule != "obrien_fleming":
        return days
    _, ends = _planned_looks(definition, state)
    return days[: max((end for end in ends if end <= len(days)), default=0)]


def _planned_looks(definition: Experiment, state: ExperimentState) -> tuple[int, list[int]]:
    """Return the planned number of days (or of longer blocks), and after how many of them each look is."""
    planned_us = state.started_at_us + (definition.duration_us or 0)
    planned = days_until(state.started_at_us, planned_us, definition.evidence_us)
    return planned, [round(planned * number / definition.looks) for number in range(1, definition.looks + 1)]


def novelty_of(
    definition: Experiment, metric: Metric, state: ExperimentState, days: Sequence[ExperimentDay], variant: str
) -> list[Look]:
    """Return for each week since the start the effect on the units that were first exposed in that week alone.

    The intervals are those of a single look.
    """
    weeks: dict[int, list[ExperimentDay]] = {}
    first_us = state.started_at_us // DAY_US * DAY_US
    for day in days:
        weeks.setdefault((day.day_us - first_us) // _WEEK_US, []).append(day)
    if len(weeks) < 2:
        return []
    how = _how(definition, metric)
    return [
        _look(metric, compare(*_pair(definition, metric, week, variant), **how), week[-1])
        for _, week in sorted(weeks.items())
        if _enough(definition, metric, week, variant)
    ]


def effects_by_age(
    definition: Experiment, metric: Metric, days: Sequence[ExperimentDay], variant: str
) -> dict[str, Look]:
    """Return the effect in each part of a metric's window, by days since the first exposure, such as "day 1".

    All units are in each part. The intervals are those of a single look.
    """
    ends = [-(-end // DAY_US) for end in metric.age_ends_us]
    how, days = _how(definition, metric), [one for one in days if any(of.ages for of in one.variants.values())]
    found = {}
    for number, (begin, end) in enumerate(pairwise([0, *ends]), 1):
        if _enough(definition, metric, days, variant, number):
            name = f"day {end}" if end - begin == 1 else f"days {begin + 1}-{end}"
            found[name] = _look(metric, compare(*_pair(definition, metric, days, variant, number), **how), days[-1])
    return found


def bayesian(
    definition: Experiment, metric: Metric, days: Sequence[ExperimentDay], variant: str
) -> tuple[float | None, float | None]:
    """Return the probability that the variant is better, and the loss to expect from choosing it."""
    if not _enough(definition, metric, days, variant):
        return None, None
    how = {name: value for name, value in _how(definition, metric).items() if name != "two_sided"}
    found = posterior(*_pair(definition, metric, days, variant), **how)
    return found.probability_better, found.expected_loss


def adjusted(
    p: Sequence[float | None], *, by: Literal["holm", "benjamini_hochberg"] = "benjamini_hochberg"
) -> list[float | None]:
    """Return p-values that are corrected for their number. None stays None."""
    known = [number for number, one in enumerate(p) if one is not None]
    correct = holm if by == "holm" else benjamini_hochberg
    found: list[float | None] = [None] * len(p)
    if known:
        for number, one in zip(known, correct(np.array([p[number] for number in known])), strict=True):
            found[number] = float(one)
    return found


def _how(definition: Experiment, metric: Metric) -> dict[str, Any]:
    level = level_of(definition, metric)
    # a guardrail may be proven within its margin or worse, so it always has both bounds, each with its own error
    both = metric.role == "guardrail" and not definition.two_sided
    return {
        "ratio": metric.kind == "ratio",
        "cuped": bool(metric.before_us),
        "level": 2.0 * level - 1.0 if both else level,
        "two_sided": definition.two_sided or both,
        "better": metric.better,
    }


def _sums(day: ExperimentDay, variant: str, metric: str, slice_: str | int) -> ArmSums:
    here = day.variants.get(variant)
    if here is None:
        return ArmSums()
    if isinstance(slice_, int):
        return next(iter(here.ages.get(metric, [])[slice_ - 1 : slice_]), ArmSums())
    return (here.slices.get(slice_, {}) if slice_ else here.metrics).get(metric, ArmSums())


def _pair(
    definition: Experiment, metric: Metric, days: Sequence[ExperimentDay], variant: str, slice_: str | int = ""
) -> tuple[Arm, Arm]:
    whole = arms_of(days, (definition.control, variant), metric, slice_)
    if not definition.strata or slice_ or metric.kind not in ("mean", "proportion"):
        return whole
    parts = {part for day in days for one in day.variants.values() for part in one.slices}
    names = sorted(part for part in parts if part.partition("=")[0] == definition.strata)
    strata = [_pair(definition, metric, days, variant, name) for name in names]
    others = [_without(arm, [pair[at] for pair in strata]) for at, arm in enumerate(whole)]
    return post_stratified([*strata, (others[0], others[1])])


def _without(whole: Arm, parts: Sequence[Arm]) -> Arm:
    """Return the sums over the units that are in no part, such as those whose attribute is unknown."""
    values = msgspec.structs.asdict(whole)
    rest = {
        name: value - sum((getattr(part, name) for part in parts), np.zeros(value.size))
        for name, value in values.items()
        if value is not None
    }
    return Arm(**rest)


def _enough(
    definition: Experiment, metric: Metric, days: Sequence[ExperimentDay], variant: str, slice_: str | int = ""
) -> bool:
    names = (definition.control, variant)
    return all(sum(_sums(day, name, metric.name, slice_).units for day in days) >= _LEAST for name in names)


def _look(metric: Metric, effect: Effect, day: ExperimentDay) -> Look:
    if metric.kind == "quantile":  # the sums of `quantile_arm` may give 1e-15 for a quantile of 0
        control, treatment = (0.0 if abs(one) < SMALLEST else one for one in (effect.control, effect.treatment))
        difference = treatment - control
        effect = msgspec.structs.replace(effect, control=control, treatment=treatment, difference=difference)
        effect = effect if control else msgspec.structs.replace(effect, relative=None)
    share = max(1.0, abs(effect.relative or 0.0))
    return Look(
        until_us=day.day_us + DAY_US,
        units=effect.units,
        control=effect.control,
        variant=effect.treatment,
        difference=effect.difference,
        low=_bound(effect.low, _size(effect)),
        high=_bound(effect.high, _size(effect)),
        relative=_finite(effect.relative),
        relative_low=_bound(effect.relative_low, share),
        relative_high=_bound(effect.relative_high, share),
        p=_finite(effect.p),
        method=effect.method,
    )


def _size(effect: Effect) -> float:
    return max(abs(effect.control), abs(effect.treatment))


def _bound(end: float | None, size: float) -> float | None:
    """Return the end of an interval; None if it is not finite, or so far from 0 that it says nothing.

    After few days the rule "msprt" may have bounds of 10**15 times the control's value. They never prove anything.
    """
    return end if end is not None and abs(end) <= _FAR * size else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
