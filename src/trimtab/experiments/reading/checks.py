"""Checks of an experiment's data: whether units were split as declared, and whether labels arrive in all variants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from trimtab.core.time import DAY_US, SECOND_US, format_time
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.reading.effects import has_event
from trimtab.experiments.reading.looks import never_is_good
from trimtab.experiments.reading.results import Completeness, RatioCheck
from trimtab.experiments.records import ArmSums, ExperimentDay, ExperimentState, VariantDay
from trimtab.stats.ab.arms import FEWEST_OF_STRATUM, Arm
from trimtab.stats.ab.fixed import compare
from trimtab.stats.ab.readings import readings
from trimtab.stats.ab.sample_ratio import sample_ratio
from trimtab.stats.exact_sums import total_of

CHANGED = "the weights changed on this day"
PAUSED = "the experiment was paused on this day"
_NAME = "\0"  # stands for the names of metrics
_CLEAR_P = 0.001  # a difference in completeness with a smaller p-value counts as real
_MANY_UNITS = 1_000  # if so many units have no event at all, the ids probably do not match
_MANY_EVENTS = 20.0  # a day of a variant without any event is reported if so many of its units should have one
_SLICE_P = 0.05  # an imbalance is said to be in a slice if the slice's p is below this / the number of slices
_EFFECTIVE = 50.0  # values are skewed if the smallest variant's effective units, (sum y)**2 / sum y**2, are fewer ...
_UNEVEN = 0.5  # ... and this variant has at most this many times the units of the largest one
_RATIO_ERROR = 0.001  # error rate of all looks of the sample-ratio check; one half is for all units, one for the slices


def limit_of(metric: Metric, days: Sequence[ExperimentDay]) -> float | None:
    """Return the largest value that a metric of predictions can have, or None if there is no limit.

    Labels or scores whose sum of squares is not above their sum are taken to lie between 0 and 1, so the limit is 1.
    """
    if metric.cap is not None or metric.prediction == "loss":
        return metric.cap
    sums = [one.metrics[metric.name] for day in days for one in day.variants.values() if metric.name in one.metrics]
    return 1.0 if total_of(one.yy for one in sums) <= total_of(one.y for one in sums) else None


def wanted_shares(definition: Experiment) -> dict[str, float]:
    """Return the declared share of each variant. Without declared weights they are equal."""
    names = list(definition.variants)
    weights = definition.weights or (1.0 / len(names),) * len(names)
    return dict(zip(names, weights, strict=True))


def check_ratio(definition: Experiment, state: ExperimentState, days: Sequence[ExperimentDay]) -> RatioCheck:
    """Check whether units were split as declared, also those of each slice. Days of changed weights are left out.

    If the check fails, the result names the slices whose units are not split as declared.
    """
    if definition.switchback is not None:
        return RatioCheck(holds=True, p=None, text="not checked: the variant depends on the time, not on the unit")
    steady = [(day, weights) for day in days if (weights := _weights(definition, state, day.day_us)) is not None]
    counts = [_counts(definition, day) for day, _ in steady]
    if not sum(map(sum, counts)):
        return RatioCheck(holds=True, p=None, text="not checked: no closed day has units yet")
    expected = np.array([weights for _, weights in steady], np.float64)
    found = sample_ratio(np.array(counts, np.int64), expected, error=_RATIO_ERROR / 2.0)
    total = np.sum(counts, axis=0)
    shares = ", ".join(
        f"{name} {share:.2%}" for name, share in zip(definition.variants, total / total.sum(), strict=True)
    )
    wanted = np.average(expected, axis=0, weights=np.maximum(np.sum(counts, axis=1), 1e-9))
    declared = ", ".join(f"{share:.2%}" for share in wanted)
    text = f"units are split {shares}; declared: {declared} (p = {found.p:.2g})"
    if found.holds:
        where = _lopsided(definition, [day for day, _ in steady], expected)
        if where:
            text += f". But in some slices, units are split otherwise: {', '.join(where)}."
        return RatioCheck(holds=not where, p=found.p, text=text, slices=where)
    where = _where(definition, [day for day, _ in steady], expected)
    if found.failed is not None:
        early = np.sum(counts[: found.failed + 1], axis=0)
        split = " : ".join(f"{share:.1%}" for share in early / early.sum())
        text += f". It first failed on {format_time(steady[found.failed][0].day_us)[:10]}; until then: {split}"
    cause = _left_out(definition, [day for day, _ in steady], expected)
    if cause:
        text += cause
    else:
        text += f". The imbalance is in {', '.join(where)}." if where else ". No declared slice explains it."
    return RatioCheck(holds=False, p=found.p, text=text, slices=where)


def check_completeness(definition: Experiment, days: Sequence[ExperimentDay]) -> list[Completeness]:
    """Return the share of predictions with a label, by variant; empty if no metric is about predictions.

    Variants are compared day by day, because their shares of the units may change.
    """
    arms: dict[str, Arm] = {}
    for name in definition.variants:
        some = [day.variants.get(name, VariantDay()) for day in days]
        labelled, missing = (np.array([getattr(one, of) for one in some], float) for of in ("labelled", "missing"))
        arms[name] = Arm(units=labelled + missing, y=labelled, yy=labelled)
    control, found = arms[definition.control], []
    for name, arm in arms.items():
        if arm.units.sum() and control.units.sum():
            apart = readings(control, arm, [len(days)])
            z = float(apart.difference[0]) / max(float(apart.variances.sum()), 1e-300) ** 0.5
            found.append(
                Completeness(
                    variant=name,
                    labelled=int(arm.y.sum()),
                    missing=int(arm.units.sum() - arm.y.sum()),
                    share=float(apart.means[1, 0]),
                    control_share=float(apart.means[0, 0]),
                    differs=2.0 * float(ndtr(-abs(z))) < _CLEAR_P,
                )
            )
    return found


def other_units(definition: Experiment, metric: Metric, days: Sequence[ExperimentDay]) -> list[str]:
    """Return a sentence for each variant whose share of units with a value differs from the control's.

    The metric is about the units with an event only, and a variant may have changed which units have one.
    """
    arms, shares = dict[str, Arm](), dict[str, str]()
    for name in definition.variants if metric.source is not None else ():
        here = [day.variants.get(name, VariantDay()) for day in days]
        units = np.array([one.units for one in here], np.float64)
        y = np.array([one.metrics.get(metric.name, ArmSums()).units for one in here], np.float64)
        arms[name] = Arm(units=units, y=y, yy=y)
        shares[name] = f"{y.sum() / max(units.sum(), 1.0):.2%} of {name}"
    if all(np.array_equal(arm.units, arm.y) for arm in arms.values()):
        return []
    control, found, by_days = arms.pop(definition.control), list[str](), definition.switchback is not None
    for name, arm in arms.items():
        p = compare(control, arm, days=by_days).p if min(control.units.sum(), arm.units.sum()) >= 2.0 else None
        if p is not None and p < _CLEAR_P:
            found.append(
                f"{metric.name} compares different units: only those with an event have a value, "
                f"{shares[definition.control]} and {shares[name]} (p = {p:.2g}). If a variant makes more units have "
                "an event, their mean may fall although all gain: measure tt.sum or tt.count, which units without an "
                "event have, too"
            )
    return found


def left_out_by_shares(definition: Experiment, state: ExperimentState, day_us: int) -> str | None:
    """Return why a day does not count because of the shares in force: `CHANGED` or `PAUSED`. None: it counts."""
    if not state.allocations or _weights(definition, state, day_us) is not None:
        return None
    return CHANGED if _in_force(definition, state, day_us) else PAUSED


def without_events(metrics: Sequence[Metric], days: Sequence[ExperimentDay]) -> list[str]:
    """Return sentences about metrics that have no event, on some days or at all. Equal sentences become one."""
    found: dict[str, list[str]] = {}
    for metric in metrics:
        if (text := _without_events(metric, days)) is not None:
            found.setdefault(text, []).append(metric.name)
    return [text.replace(_NAME, ", ".join(names)) for text, names in found.items()]


def _without_events(metric: Metric, days: Sequence[ExperimentDay]) -> str | None:
    """Return a sentence if a metric has no event at all, or none on days on which many are expected; otherwise None.

    The sentence has `_NAME` for the metric's name. Each variant is also judged by its own other days, so a feed that
    stops for one variant is seen, too. If only days that are left out have events, the result is None, because the text
    of the decision mentions these events.
    """
    if metric.source is None:
        return None
    every = [one for day in days for one in day.variants.values()]
    if not any(has_event(metric, one.metrics[metric.name]) for one in every if metric.name in one.metrics):
        if any(metric.name in day.late for day in days):
            return None  # the ids match, but all events came late
        by = ", ".join(metric.by)
        found = f"no unit has any event of {_NAME}: is {by} of {metric.source.name!r} the id of the units?"
        if metric.role == "guardrail" and metric.kind != "quantile" and never_is_good(metric):
            share = f"{100 * metric.negligible:.3g} %"
            found += f" If so, the guardrail holds once at most {share} of them can have one (negligible=)"
        return found if sum(one.units for one in every) >= _MANY_UNITS else None
    days = [day for day in days if day.excluded is None]
    names = list(dict.fromkeys(name for day in days for name in day.variants))
    everywhere, parts = _silent_days(metric, days, names), list[str]()
    for name in ("", *names):
        silent = [day for day in _silent_days(metric, days, [name]) if day not in everywhere] if name else everywhere
        if silent:
            shown = ", ".join(silent[:5]) + (f" and {len(silent) - 5} more days" if len(silent) > 5 else "")
            parts.append(f"no unit of {f'{name} on ' if name else ''}{shown} has any event of {_NAME}")
    return f"{', and '.join(parts)}: if its feed was down, these units count as if they had none" if parts else None


def _silent_days(metric: Metric, days: Sequence[ExperimentDay], names: Sequence[str]) -> list[str]:
    """Return the days on which no unit of the variants has an event, although their other days suggest many."""
    here = [[day.variants.get(name, VariantDay()) for name in names] for day in days]
    sums = [[one.metrics.get(metric.name, ArmSums()) for one in some] for some in here]
    happened = np.array([any(has_event(metric, one) for one in some) for some in sums], bool)
    units, known = (np.array([sum(one.units for one in some) for some in of], np.float64) for of in (here, sums))
    y, yy = (np.array([total_of(getattr(one, of) for one in some) for some in sums]) for of in ("y", "yy"))
    if metric.kind == "time_to_event":  # the time that is left of the window is 0 without an event
        window = metric.within_us / SECOND_US
        y, yy = window * known - y, window**2 * known - 2.0 * window * y + yy
    squares = float(yy[happened].sum())
    if squares <= 0.0:
        return []
    rate = float(y[happened].sum()) ** 2 / squares / units[happened].sum()  # about the share of units with events
    expected = units * rate
    return [
        format_time(day.day_us)[:10]
        for day, there, many in zip(days, happened.tolist(), expected.tolist(), strict=True)
        if not there and many >= _MANY_EVENTS
    ]


def small_strata(definition: Experiment, days: Sequence[ExperimentDay]) -> str | None:
    """Return a sentence if effects are adjusted for strata of which some have too few units; otherwise None."""
    names = {name for day in days for one in day.variants.values() for name in one.slice_units}
    strata = [name for name in names if name.partition("=")[0] == definition.strata]
    units = [np.sum([_counts(definition, day, name) for day in days], axis=0).min() for name in strata]
    small = sum(one < FEWEST_OF_STRATUM for one in units)
    if not small or not definition.strata:
        return None
    return (
        f"{small} of {len(strata)} values of {definition.strata} have fewer than {FEWEST_OF_STRATUM} units of a "
        "variant: the adjustment for strata merges them"
    )


def skewed_values(definition: Experiment, metric: Metric, days: Sequence[ExperimentDay]) -> str | None:
    """Return a sentence if one variant has far fewer units, and a few of these have most of a metric; otherwise None.

    The mean of such values is far from normally distributed. Between variants with equally many units, this cancels.
    """
    if metric.kind not in ("mean", "ratio") or metric.source is None or metric.cap is not None:
        return None
    arms = {name: [day.variants.get(name, VariantDay()) for day in days] for name in definition.variants}
    units = {name: sum(one.units for one in some) for name, some in arms.items()}
    name = min(units, key=lambda one: units[one])
    sums = [one.metrics[metric.name] for one in arms[name] if metric.name in one.metrics]
    y, yy = total_of(one.y for one in sums), total_of(one.yy for one in sums)
    if not yy or y == yy or units[name] > _UNEVEN * max(units.values()):
        return None
    effective = y**2 / yy
    if effective >= _EFFECTIVE:
        return None
    return (
        f"{metric.name}: a few of the {units[name]:,} units of {name} have most of it, so they weigh like only "
        f"{effective:.0f} units, and other variants have far more units. The error may then be twice the stated one: "
        "declare cap=, or equal weights, and start the experiment again"
    )


def _weights(definition: Experiment, state: ExperimentState, day_us: int) -> tuple[float, ...] | None:
    """Return the declared shares on a day, or None if they changed on that day, or no unit took part."""
    if not state.allocations:
        return tuple(wanted_shares(definition).values())
    found = _in_force(definition, state, day_us)
    return found.pop() if len(found) == 1 else None


def _in_force(definition: Experiment, state: ExperimentState, day_us: int) -> set[tuple[float, ...]]:
    """Return the declared shares that were in force at any time of a day on which units took part."""
    found: set[tuple[float, ...]] = set()
    for number, one in enumerate(state.allocations):
        until_us = state.allocations[number + 1].from_us if number + 1 < len(state.allocations) else day_us + DAY_US
        if one.share > 0.0 and one.from_us < day_us + DAY_US and until_us > day_us:
            parts = Counter[str]()  # weights are rounded to buckets
            for count, name in one.buckets:
                parts[name] += count
            shares = parts or one.weights
            found.add(tuple(shares.get(name, 0.0) / sum(shares.values()) for name in definition.variants))
    return found


def _left_out(definition: Experiment, days: Sequence[ExperimentDay], expected: np.ndarray) -> str:
    """Return a sentence if units are split as declared together with those of two variants; otherwise ""."""
    left = np.array([[day.left_out.get(name, 0) for name in definition.variants] for day in days], np.int64)
    together = np.array([_counts(definition, day) for day in days], np.int64) + left
    if not left.any() or not sample_ratio(together, expected).holds:
        return ""
    of = ", ".join(f"{count:,} of {name}" for name, count in zip(definition.variants, left.sum(axis=0), strict=True))
    return (
        f'. The cause is crossovers="exclude": it leaves out units that were exposed to two variants ({of}), and '
        "with them the split is as declared. If weights or the share change, or units no longer fulfil where=, these "
        "are mostly units of one variant, so the variants cannot be compared without them. Start the experiment again "
        'with crossovers="first".'
    )


def _counts(definition: Experiment, day: ExperimentDay, slice_: str = "") -> list[int]:
    here = [day.variants.get(name) for name in definition.variants]
    if slice_:
        return [0 if one is None else one.slice_units.get(slice_, 0) for one in here]
    return [0 if one is None else one.units for one in here]


def _slice_counts(definition: Experiment, days: Sequence[ExperimentDay]) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yield the text of each slice, such as "country=DE (40.0% : 60.0%)", and its units by day and variant."""
    for name in sorted({name for day in days for one in day.variants.values() for name in one.slice_units}):
        counts = np.array([_counts(definition, day, name) for day in days], np.int64)
        if counts.sum():
            shares = " : ".join(f"{share:.1%}" for share in counts.sum(axis=0) / counts.sum())
            yield f"{name} ({shares})", counts


def _lopsided(definition: Experiment, days: Sequence[ExperimentDay], expected: np.ndarray) -> list[str]:
    """Return the slices whose sample-ratio check ever failed, with their shares; at most the five clearest.

    All slices share one error rate. New slices may appear on any day, so the slices of the k-th day on which new ones
    appear share 1 / (k * (k + 1)) of it: these parts add up to 1, and no slice's part changes later.
    """
    slices = [
        (int((counts.sum(axis=1) > 0).argmax()), text, counts) for text, counts in _slice_counts(definition, days)
    ]
    by_day: dict[int, int] = {}
    for first, _, _ in slices:
        by_day[first] = by_day.get(first, 0) + 1
    order, found = {first: k for k, first in enumerate(sorted(by_day), 1)}, []
    for first, text, counts in slices:
        k = order[first]
        checked = sample_ratio(counts, expected, error=_RATIO_ERROR / 2.0 / (k * (k + 1)) / by_day[first])
        found += [] if checked.holds else [(checked.p, text)]
    return [text for _, text in sorted(found)][:5]


def _where(definition: Experiment, days: Sequence[ExperimentDay], expected: np.ndarray) -> list[str]:
    """Return the slices whose units are split otherwise than declared, with their shares; at most the five clearest.

    If this is true of all slices of an attribute, they are named together: then the attribute does not tell the cause.
    """
    slices = [(sample_ratio(counts, expected).p, text) for text, counts in _slice_counts(definition, days)]
    off = [text for p, text in sorted(slices) if p < _SLICE_P / len(slices)]
    sound = {text.partition("=")[0] for _, text in slices if text not in off}  # some slice is split as declared
    every = dict.fromkeys(one.partition("=")[0] for one in off)
    some = [text for text in off if text.partition("=")[0] in sound]
    return [*(f"all slices of {one}" for one in every if one not in sound), *some][:5]
