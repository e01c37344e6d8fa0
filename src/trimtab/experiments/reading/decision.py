"""The recommendation that follows from an experiment's results, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from trimtab.core.time import DAY_US
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.reading.looks import Look, MetricReading, Verdict, shown_effect, verdict
from trimtab.experiments.reading.results import Act, RatioCheck, Recommendation
from trimtab.experiments.records import ExperimentDay, ExperimentState

HORIZON_DAYS = 60  # how long an experiment without a declared duration is taken to run at most
_EARLY_DAYS = 3  # before this many days, the remaining time is not estimated
_ANY_TIME_SCORE, _SCORE = 2.9, 2.0  # about how many standard errors wide the half of an interval is


def recommend(
    definition: Experiment,
    state: ExperimentState,
    closed: Sequence[ExperimentDay],
    metrics: Sequence[MetricReading],
    ratio: RatioCheck,
    withheld: str | None,
) -> Recommendation:
    """Return what to do.

    The order of the rules: a failed sample-ratio check blocks; a guardrail that is proven worse than its margin, or a
    primary metric that is proven worse, stops a variant; a variant is shipped if a primary metric is proven better,
    none is proven worse, and all guardrails are proven within their margins; else the experiment goes on.
    """
    if not ratio.holds:
        return Recommendation(act="blocked", text=f"blocked: {ratio.text} No effect can be trusted.")
    if withheld is not None:
        return Recommendation(act="wait", text=f"keep running: {withheld}")
    by_variant = {name: [one for one in metrics if one.variant == name] for name in list(definition.variants)[1:]}
    by_variant = {name: some for name, some in by_variant.items() if any(one.role == "primary" for one in some)}
    if not by_variant:
        return Recommendation(act="wait", text="keep running: no look is due yet. A look sees closed days only.")
    shipped = [
        name for name, some in by_variant.items() if _may_ship(definition, {one.metric: one.verdict for one in some})
    ]
    if shipped:
        return _ship(max(shipped, key=lambda name: _gain(by_variant[name])), by_variant)
    stopped = {name: why for name, some in by_variant.items() if (why := _stops(some)) is not None}
    if len(stopped) == len(by_variant):
        text = "; ".join(f"stop {name}: {why}" for name, why in stopped.items())
        return Recommendation(act="stop", text=text, variant=next(iter(stopped)))
    going = {name: some for name, some in by_variant.items() if name not in stopped}
    if _is_over(definition, state, closed):
        return _undecided(going)
    return _go_on(definition, state, closed, going, stopped)


def first_act(
    definition: Experiment, looks: Mapping[tuple[str, str], Sequence[Look]]
) -> tuple[Literal["ship", "stop", "nothing"], str | None, int | None]:
    """Return what is done first if every look is acted on: the act, the variant, and the time of the look.

    Args:
        definition: The definition of the experiment.
        looks: By metric and variant: all looks, oldest first.
    """
    metrics = {one.name: one for one in definition.metrics}
    for at_us in sorted({look.until_us for some in looks.values() for look in some}):
        found: dict[str, dict[str, Verdict]] = {}
        for (name, variant), some in looks.items():
            newest = next((look for look in reversed(some) if look.until_us <= at_us), None)
            if newest is not None:
                found.setdefault(variant, {})[name] = verdict(metrics[name], newest)
        for variant, verdicts in found.items():
            if _may_ship(definition, verdicts):
                return "ship", variant, at_us
        if found and all(_must_stop(definition, verdicts) for verdicts in found.values()):
            return "stop", next(iter(found)), at_us
    return "nothing", None, None


def days_needed(look: Look, days: int, *, margin: float | None = None) -> float:
    """Return after how many days in all the interval would exclude 0 (or the margin) if the effect stays as it is.

    The width of an interval shrinks with the square root of the number of days.
    """
    distance = look.difference if margin is None else margin
    reach = _reach(look)
    return days * (reach / abs(distance)) ** 2 if distance and math.isfinite(reach) else math.inf


def smallest_effect(look: Look, days: int, horizon: int) -> float | None:
    """Return the smallest effect that so many days can show, as a share of the control's value."""
    reach = _reach(look)
    if not look.control or not math.isfinite(reach):
        return None
    return reach * math.sqrt(days / horizon) / abs(look.control)


def _reach(look: Look) -> float:
    """Return the half-width of an interval."""
    if look.low is None or look.high is None:
        ends = [abs(end - look.difference) for end in (look.low, look.high) if end is not None]
        return ends[0] if ends else math.inf
    return (look.high - look.low) / 2.0


def _may_ship(definition: Experiment, verdicts: Mapping[str, Verdict]) -> bool:
    """Return whether a primary metric is better, none is worse, and every guardrail is within its margin."""
    primary = [verdicts.get(one.name) for one in definition.metrics if one.role == "primary"]
    guardrails = [verdicts.get(one.name) for one in definition.metrics if one.role == "guardrail"]
    return "better" in primary and "worse" not in primary and all(one == "within margin" for one in guardrails)


def _must_stop(definition: Experiment, verdicts: Mapping[str, Verdict]) -> bool:
    return any(one.role != "secondary" and verdicts.get(one.name) == "worse" for one in definition.metrics)


def _stops(some: Sequence[MetricReading]) -> str | None:
    for one in some:
        if one.role == "guardrail" and one.verdict == "worse":
            margin = f"{100 * (one.margin or 0.0):.3g} %"
            return f"guardrail {one.metric} is worse than its margin of {margin}: {shown_effect(one)}"
    for one in some:
        if one.role == "primary" and one.verdict == "worse":
            return f"it is worse: {shown_effect(one)}"
    return None


def _gain(some: Sequence[MetricReading]) -> float:
    better = [one.looks[-1] for one in some if one.role == "primary" and one.verdict == "better"]
    return max(abs(one.difference if one.relative is None else one.relative) for one in better)


def _ship(name: str, by_variant: dict[str, list[MetricReading]]) -> Recommendation:
    parts = [shown_effect(one) for one in by_variant[name] if one.role == "primary"]
    guardrails = [one.metric for one in by_variant[name] if one.role == "guardrail"]
    parts += [f"{', '.join(guardrails)} within {'its margin' if len(guardrails) == 1 else 'their margins'}"] * bool(
        guardrails
    )
    return Recommendation(act="ship", variant=name, text=f"ship {name}: {'; '.join(parts)}")


def _is_over(definition: Experiment, state: ExperimentState, closed: Sequence[ExperimentDay]) -> bool:
    """Return whether no more day will come: the experiment ended, or all its planned days are closed."""
    end_us = state.ended_at_us
    if definition.duration_us is not None:
        planned_us = state.started_at_us + definition.duration_us
        end_us = planned_us if end_us is None else min(end_us, planned_us)
    return end_us is not None and bool(closed) and closed[-1].day_us + DAY_US >= end_us


def _undecided(going: dict[str, list[MetricReading]]) -> Recommendation:
    parts, smallest = list[str](), None
    for name, some in going.items():
        for one in some:
            if one.role != "secondary" and one.verdict == "open":
                reach, control = _reach(one.looks[-1]), abs(one.looks[-1].control)
                smallest = reach / control if control and math.isfinite(reach) else None
                seen = f"; effects above about {100 * smallest:.2g} % would have been seen" if smallest else ""
                parts.append(f"{name}: {shown_effect(one)}{seen}")
    return Recommendation(act="no difference shown", text=f"no difference shown: {'; '.join(parts)}", smallest=smallest)


def _go_on(
    definition: Experiment,
    state: ExperimentState,
    closed: Sequence[ExperimentDay],
    going: dict[str, list[MetricReading]],
    stopped: dict[str, str],
) -> Recommendation:
    """Return how long to run on, or that the effect cannot be seen with this traffic."""
    days = sum(one.excluded is None for one in closed)
    horizon = HORIZON_DAYS
    if definition.duration_us is not None:
        horizon = max(days, -(-definition.duration_us // DAY_US))
    said = f" Stop {', '.join(f'{name} ({why})' for name, why in stopped.items())}." if stopped else ""
    needed, one = min((_open_needs(some, days) for some in going.values()), key=lambda one: one[0])
    look = one.looks[-1]
    smallest = smallest_effect(look, days, horizon)
    can = (
        "" if smallest is None else f"the smallest effect that {horizon} days can show is about {100 * smallest:.2g} %"
    )
    if days < _EARLY_DAYS:
        text = f"keep running: too early to say after {days} closed days" + (f"; {can}" if can else "")
        return Recommendation(act="keep running", text=text + "." + said, smallest=smallest)
    if needed > horizon:
        score = _ANY_TIME_SCORE if definition.rule in ("sequence", "msprt") else _SCORE
        reach = _reach(look)
        plausible = abs(look.difference) + reach / score  # the effect may well be one standard error larger
        unseen = not math.isfinite(reach) or days * (reach / plausible) ** 2 > horizon
        start = "cannot be seen with this traffic" if unseen else "keep running"
        text = f"{start}: {shown_effect(one)} after {days} days" + (f"; {can}" if can else "")
        act: Act = "cannot be seen" if unseen else "keep running"
        return Recommendation(act=act, text=text + "." + said, variant=one.variant, smallest=smallest)
    more = max(1, math.ceil(needed - days))
    text = f"keep running: at this rate about {more} more days for {shown_effect(one)}.{said}"
    return Recommendation(act="keep running", text=text, variant=one.variant, days_more=more, smallest=smallest)


def _open_needs(some: Sequence[MetricReading], days: int) -> tuple[float, MetricReading]:
    """Return the number of days after which a variant could be decided, and the metric that takes longest."""
    primary = [
        (days_needed(one.looks[-1], days), one) for one in some if one.role == "primary" and one.verdict == "open"
    ]
    if any(one.role == "primary" and one.verdict == "better" for one in some):
        primary = []  # only guardrails are missing
    elif primary:
        primary = [min(primary, key=lambda one: one[0])]
    guardrails = []
    for one in some:
        if one.role == "guardrail" and one.verdict == "open":
            look, sign = one.looks[-1], 1.0 if one.better == "higher" else -1.0
            distance = sign * look.difference + (one.margin or 0.0) * abs(look.control)
            guardrails.append((days_needed(look, days, margin=max(distance, 0.0)), one))
    return max(primary + guardrails, key=lambda one: one[0], default=(0.0, some[0]))
