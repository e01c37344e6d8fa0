"""The reading of an experiment: units, checks, effects over time, guardrails and slices, from its closed days."""

from __future__ import annotations

from collections.abc import Sequence, Set

import msgspec

from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.experiments.days import cut_windows, end_us
from trimtab.experiments.definitions import Experiment, Metric, Switchback
from trimtab.experiments.reading.checks import (
    CHANGED,
    check_completeness,
    check_ratio,
    left_out_by_shares,
    limit_of,
    other_units,
    skewed_values,
    small_strata,
    wanted_shares,
    without_events,
)
from trimtab.experiments.reading.decision import recommend
from trimtab.experiments.reading.effects import (
    adjusted,
    bayesian,
    comparisons,
    days_shown,
    days_until,
    effects_by_age,
    has_event,
    looks_of,
    novelty_of,
)
from trimtab.experiments.reading.looks import MetricReading, shown_effect, verdict
from trimtab.experiments.reading.results import Completeness, RatioCheck, Reading, SliceReading, VariantReading
from trimtab.experiments.records import ExperimentDay, ExperimentState

GUARANTEES = {
    "sequence": "Confidence sequences: the intervals of all looks hold together, so you may look every day and stop at "
    "any time. If there is no effect, the probability of ever finding one is at most {alpha}.",
    "msprt": "Mixture sequential probability ratio tests: p-values hold at every look, so you may look every day and "
    "stop at any time. If there is no effect, the probability of ever finding one is at most {alpha}.",
    "obrien_fleming": "Group-sequential with O'Brien-Fleming spending: {looks} planned looks share an error of "
    "{alpha}. Between the planned looks nothing is shown.",
    "fixed": "Fixed horizon: one look after the planned end, with an error of {alpha}. Before that no effect is shown, "
    "because looking early would raise the error.",
}


def read_experiment(
    definition: Experiment,
    state: ExperimentState,
    days: Sequence[ExperimentDay],
    *,
    slices: bool = True,
    final: bool = False,
    cut_units: int | None = None,
) -> Reading:
    """Return what an experiment says from its closed days.

    Args:
        definition: The definition that the experiment was started with.
        days: Closed days, in any order; those of other generations are left out.
        slices: Whether to read slices as well, which takes longest if there are many.
        final: Whether the experiment was started again since, so that no more of these days will be closed.
        cut_units: The number of units that do not count because the end cut their windows, if known.
    """
    closed = [
        msgspec.structs.replace(one, excluded=left_out_by_shares(definition, state, one.day_us) or one.excluded)
        for one in sorted(days, key=lambda one: one.day_us)
        if one.generation == state.generation
    ]
    if definition.evidence_us > DAY_US:
        closed = _whole_blocks(definition, closed)
    counted = [one for one in closed if one.excluded is None]
    ratio = check_ratio(definition, state, counted)
    completeness = check_completeness(definition, counted)
    withheld = _withheld(definition, state, closed, ratio)
    shown = bool(counted) and withheld is None
    metrics = _metrics(definition, state, closed, completeness) if shown else []
    return Reading(
        experiment=state.name,
        generation=state.generation,
        phase=state.phase,
        started_at_us=state.started_at_us,
        ended_at_us=state.ended_at_us,
        winner=state.winner,
        until_us=closed[-1].day_us + DAY_US if closed else None,
        hash=state.hash,
        decided_before=decided_before(definition),
        guarantee=guarantee(definition),
        days=len(counted),
        excluded={_day(one.day_us): one.excluded for one in closed if one.excluded is not None},
        marks={_day(one.day_us): list(one.marks) for one in closed if one.marks},
        variants=[_variant(definition, name, counted) for name in definition.variants],
        ratio=ratio,
        completeness=completeness,
        metrics=metrics,
        slices=_slices(definition, state, closed) if shown and slices else [],
        crossed=sum(one.crossed for one in closed),
        not_eligible={
            why: sum(one.not_eligible.get(why, 0) for one in counted)
            for why in sorted({why for one in counted for why in one.not_eligible})
        },
        late=_late(counted),
        withheld=withheld,
        notes=[*filter(None, [cut_windows(state, definition, cut_units)]), *_notes(definition, closed, metrics)],
        decision=recommend(definition, state, closed, metrics, ratio, withheld, final=final),
    )


def _whole_blocks(definition: Experiment, closed: Sequence[ExperimentDay]) -> list[ExperimentDay]:
    """Leave out all days of a longer block of a switchback if one of them is left out, and return the days."""
    why = {one.day_us // definition.evidence_us: one.excluded for one in closed if one.excluded is not None}
    return [
        one
        if one.excluded is not None or (reason := why.get(one.day_us // definition.evidence_us)) is None
        else msgspec.structs.replace(one, excluded=f"a day of its block does not count: {reason}")
        for one in closed
    ]


def guarantee(definition: Experiment) -> str:
    """Return the rule of an experiment and what it guarantees, in words."""
    alpha = f"{1.0 - definition.level:.3g}"
    text = GUARANTEES[definition.rule].format(alpha=alpha, looks=definition.looks)
    primary = sum(one.role == "primary" for one in definition.metrics)
    shared = comparisons(definition)
    if shared > 1:
        what = f"{primary} primary metrics" if primary > 1 else f"{shared} variants"
        what = f"{shared // primary} variants and {what}" if primary > 1 and shared > primary else what
        text += f" The error is divided evenly among {what}."
    sides = "two-sided" if definition.two_sided else "one-sided, so that a primary metric is never proven worse"
    if not definition.two_sided and any(one.role == "guardrail" for one in definition.metrics):
        sides += f"; those of guardrails have both bounds, each with an error of {alpha}"
    whole = "whole days"
    if definition.evidence_us > DAY_US:
        whole = f"whole blocks of {format_duration(definition.evidence_us)}, and a look sees whole blocks only"
    return f"{text} Standard errors are computed from {whole}; intervals are {sides}."


def decided_before(definition: Experiment) -> dict[str, str]:
    """Return what was decided before the start, as short texts by name."""
    variants = (f"{name} ({share:.4g})" for name, share in wanted_shares(definition).items())
    found = {
        "unit": ", ".join(definition.unit),
        "variants": ", ".join(variants),
        "share": "" if definition.largest_share == definition.share == 1.0 else f"{definition.share:.4g}",
        "switchback": "" if definition.switchback is None else _blocks(definition.switchback),
        "rule": definition.rule,
        "level": f"{definition.level:.4g}",
        "duration": "" if definition.duration_us is None else format_duration(definition.duration_us),
        "looks": str(definition.looks) if definition.rule == "obrien_fleming" else "",
        "crossovers": definition.crossovers if definition.crossovers != "first" else "",
        "where": "" if definition.where is None else repr(definition.where),
        "slices": ", ".join(definition.slices),
        "strata": definition.strata,
    }
    for role in ("primary", "guardrail", "secondary"):
        found[role] = "; ".join(_described(one) for one in definition.metrics if one.role == role)
    return {name: text for name, text in found.items() if text}


def _blocks(switchback: Switchback) -> str:
    by = f", by {', '.join(switchback.by)}" if switchback.by else ""
    gap = f", without the first {format_duration(switchback.gap_us)}" if switchback.gap_us else ""
    return f"blocks of {format_duration(switchback.every_us)}{by}{gap}"


def _described(metric: Metric) -> str:
    parts = [metric.kind, f"{metric.better} is better"]
    parts += [f"within {format_duration(metric.within_us)}"] if metric.within_us else []
    if metric.role == "guardrail":
        parts.append(f"may be worse by {metric.margin:.4g} of the control")
        if metric.source is not None:
            parts.append(f"without any event it holds if at most {metric.negligible:.4g} of the units can have one")
    parts += [] if metric.cap is None else [f"larger values are cut to {metric.cap:.6g}"]
    parts += [f"covariate: the {format_duration(metric.before_us)} before"] if metric.before_us else []
    return f"{metric.name} ({', '.join(parts)})"


def _withheld(
    definition: Experiment, state: ExperimentState, closed: Sequence[ExperimentDay], ratio: RatioCheck
) -> str | None:
    """Return why no effect may be shown, or None."""
    if not ratio.holds:
        return f"blocked: {ratio.text}"
    if definition.rule != "fixed" or definition.duration_us is None:
        return None
    until_us = end_us(state, definition)
    planned = days_until(state.started_at_us, until_us)
    there = sum(one.day_us < until_us for one in closed)
    if there >= planned:
        return None
    return f"{there} of {planned} days are closed. The rule is fixed: no effect is shown before the planned end."


def _variant(definition: Experiment, name: str, days: Sequence[ExperimentDay]) -> VariantReading:
    here = [day.variants[name] for day in days if name in day.variants]
    units = sum(one.units for one in here)
    total = sum(one.units for day in days for one in day.variants.values())
    reasons = sorted({reason for one in here for reason in one.not_shown})
    return VariantReading(
        name=name,
        units=units,
        wanted=wanted_shares(definition)[name],
        found=units / total if total else None,
        testers=sum(one.testers for one in here),
        not_shown={reason: sum(one.not_shown.get(reason, 0) for one in here) for reason in reasons},
        by_day={_day(day.day_us): day.variants[name].units for day in days if name in day.variants},
    )


def _metrics(
    definition: Experiment,
    state: ExperimentState,
    closed: Sequence[ExperimentDay],
    completeness: Sequence[Completeness],
) -> list[MetricReading]:
    shown, found = days_shown(definition, state, closed), []
    days = [one for one in shown if one.excluded is None]
    seen = [one for one in closed if shown and one.day_us <= shown[-1].day_us]
    late = [one.as_known_late for one in closed] if any(one.with_late for one in closed) else None
    for metric in definition.metrics:
        for name in list(definition.variants)[1:]:
            looks = looks_of(definition, metric, state, closed, name)
            if not looks:
                continue
            share = next((one for one in completeness if one.variant == name), None)
            last = looks[-1]
            bounded = (
                None
                if share is None or metric.prediction not in ("loss", "label")
                else share.bounds(last.low, last.high, (last.control, last.variant), limit_of(metric, days))
            )
            with_late = last if late is None else (looks_of(definition, metric, state, late, name) or looks)[-1]
            at_close = verdict(metric, last, bounded)
            stands = with_late == last or verdict(metric, with_late) == at_close
            probability, loss = bayesian(definition, metric, days, name)
            found.append(
                MetricReading(
                    metric=metric.name,
                    kind=metric.kind,
                    role=metric.role,
                    better=metric.better,
                    variant=name,
                    looks=looks,
                    verdict=at_close if stands else "open",
                    at_close=at_close,
                    with_late=None if with_late == last else with_late,
                    adjusted_p=_shared(definition, metric, last.p),
                    margin=metric.margin if metric.role == "guardrail" else None,
                    bounded=bounded,
                    probability_better=probability,
                    expected_loss=loss,
                    by_week=novelty_of(definition, metric, state, days, name),
                    by_age=effects_by_age(definition, metric, days, name),
                    left_out=_left_out(metric, seen, {definition.control, name}),
                )
            )
    secondary = [one for one in found if one.role == "secondary"]
    corrected = dict(zip(map(id, secondary), adjusted([one.looks[-1].p for one in secondary]), strict=True))
    return [_corrected(definition, one, corrected[id(one)]) if id(one) in corrected else one for one in found]


def _left_out(metric: Metric, closed: Sequence[ExperimentDay], names: Set[str]) -> list[str]:
    """Return the days that do not count, but on which units of the named variants have an event of a metric."""
    return [
        _day(day.day_us)
        for day in closed
        if day.excluded is not None
        and any(
            name in names and metric.name in one.metrics and has_event(metric, one.metrics[metric.name])
            for name, one in day.variants.items()
        )
    ]


def _shared(definition: Experiment, metric: Metric, p: float | None) -> float | None:
    """Return the p of a primary metric, corrected for the comparisons with which its interval shares the error."""
    return None if p is None or metric.role != "primary" else min(1.0, p * comparisons(definition))


def _corrected(definition: Experiment, one: MetricReading, p: float | None) -> MetricReading:
    """Return a secondary metric with its corrected p. If this is too large for a proof, the verdict is "open"."""
    proven = p is not None and p <= 1.0 - definition.level
    return msgspec.structs.replace(one, adjusted_p=p, verdict=one.verdict if proven else "open")


def _late(days: Sequence[ExperimentDay]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for day in days:
        for metric, of in day.late.items():
            for name, count in of.items():
                found.setdefault(metric, {})[name] = found.get(metric, {}).get(name, 0) + count
    return found


def _notes(definition: Experiment, days: Sequence[ExperimentDay], metrics: Sequence[MetricReading]) -> list[str]:
    """Return what weakens the effects: changed weights, crossed units, missing events, and outcomes that came late."""
    found = list[str]()
    is_first = definition.crossovers == "first"
    rule = "count for their first one" if is_first else "do not count if their day was not closed yet"
    smaller = ", which makes differences smaller" if is_first else ""
    if changed := [_day(one.day_us) for one in days if one.excluded == CHANGED]:
        found.append(
            f"the weights changed on {', '.join(changed)}: units that got another variant then, and came "
            f"back, {rule}{smaller}. If many come back, start the experiment again"
        )
    if crossed := sum(one.crossed for one in days):
        or_where = "" if definition.where is None else ", or they no longer fulfilled where= and got the control"
        found.append(
            f"{crossed:,} units were exposed to another variant than their first (an override or the weights changed, "
            f"the share was lowered, or the experiment was paused{or_where}): {rule}"
        )
    for name in definition.slices:
        if crowded := [one.crowded[name] for one in days if name in one.crowded]:
            adjusts = ", and effects are not adjusted for it" if name == definition.strata else ""
            share = f"{len(crowded)} of {len(days)} days"
            found.append(
                f"{name} has up to {max(crowded):,} values a day, too many for slices: {share} have no "
                f"slices of it{adjusts}. Slice by something with fewer values, such as bins of a number"
            )
    if (text := small_strata(definition, [one for one in days if one.excluded is None])) is not None:
        found.append(text)
    found += without_events(definition.metrics, days)
    counted = [one for one in days if one.excluded is None]
    found += [text for one in definition.metrics if (text := skewed_values(definition, one, counted)) is not None]
    found += [text for one in definition.metrics for text in other_units(definition, one, counted)]
    late, alike = _late(counted), dict[tuple[str, str], list[str]]()
    for metric in definition.metrics:  # metrics of one source mostly have the same late events, so they share a note
        if counts := late.get(metric.name):
            of = ", ".join(
                f"{counts[name]:,} of {name}" if counts[name] else f"corrections of {name}"
                for name in definition.variants
                if name in counts
            )
            alike.setdefault(("" if metric.source is None else metric.source.name, of), []).append(metric.name)
    for (source, of), names in alike.items():
        what, wait = ("events", f"delay of {source!r}") if source else ("labels", "wait for the label")
        came = "came, or were corrected or deleted," if "corrections of" in of else "came"
        text = f"{what} of {', '.join(names)} {came} after their day was closed and do not count: {of}"
        for one in metrics:
            if one.metric in names and one.with_late is not None:
                text += f"; with them, {one.variant} has {shown_effect(one, one.with_late)}"
        found.append(f"{text}. To count such {what}, declare a longer {wait} and start the experiment again")
    return found


def _slices(definition: Experiment, state: ExperimentState, closed: Sequence[ExperimentDay]) -> list[SliceReading]:
    names = sorted({name for day in closed for one in day.variants.values() for name in one.slices})
    found = [
        SliceReading(slice=name, metric=metric.name, variant=variant, look=looks[-1], adjusted_p=None)
        for metric in definition.metrics
        if metric.role == "primary"
        for variant in list(definition.variants)[1:]
        for name in names
        if (looks := looks_of(definition, metric, state, closed, variant, name))
    ]
    corrected = adjusted([one.look.p for one in found], by="holm")
    return [msgspec.structs.replace(one, adjusted_p=p) for one, p in zip(found, corrected, strict=True)]


def _day(at_us: int) -> str:
    return format_time(at_us)[:10]
