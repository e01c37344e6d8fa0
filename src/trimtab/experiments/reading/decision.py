"""The recommendation that follows from an experiment's results, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from trimtab.core.time import DAY_US, format_time
from trimtab.experiments.days import begun, end_us, longest_wait_us
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.reading.effects import days_shown
from trimtab.experiments.reading.looks import (
    Look,
    MetricReading,
    Verdict,
    cannot_be_within,
    distance_from_margin,
    from_margin,
    in_units,
    shown_effect,
    shown_values,
    verdict,
)
from trimtab.experiments.reading.results import Act, RatioCheck, Recommendation
from trimtab.experiments.reading.traffic import TREND_DAYS, trend
from trimtab.experiments.records import ExperimentDay, ExperimentState

HORIZON_DAYS = 60  # an experiment without a declared duration is assumed to run at most this long
_MANY_UNITS = 1_000  # if there is no interval with so many units in each variant, a few units probably have huge values
_EARLY_DAYS = 3  # before this many days, the remaining time is not estimated
# while there are too few days to see a trend, units are said to become fewer if the newest day has less than this share
# of the first day's
_FEWER = 0.75
_ANY_TIME_SCORE, _SCORE = 2.9, 2.0  # about the half-width of an interval in standard errors; see `_score`
_POWER_SCORE = 0.84  # an effect this many standard errors larger than the half-width is seen in four of five cases


def recommend(
    definition: Experiment,
    state: ExperimentState,
    closed: Sequence[ExperimentDay],
    metrics: Sequence[MetricReading],
    ratio: RatioCheck,
    withheld: str | None,
    *,
    final: bool = False,
) -> Recommendation:
    """Return what to do. With `final`, no more days will be closed, because the experiment was started again.

    The rules, in this order: a failed sample-ratio check blocks. While `withheld` says why no effect is shown, wait. A
    variant is shipped if a primary metric is proven better, none is proven worse, and all guardrails are proven within
    their margins. A variant is stopped if a primary metric is proven worse, or a guardrail worse by more than its
    margin; if all variants are, stop the experiment. Otherwise keep running, or say that the effect cannot be seen, or
    at the end that no difference was shown. A metric is undecided if late outcomes contradict the closed days.
    """
    if not ratio.holds:
        return Recommendation(act="blocked", text=f"blocked: {ratio.text} No effect can be trusted.")
    over = final or _is_over(definition, state, closed)
    if withheld is not None:
        if final:
            return Recommendation(act="no difference shown", text=f"no difference shown: {withheld}")
        return Recommendation(act="wait", text=f"{_waits(state)}: {withheld}")
    if not definition.metrics:
        return Recommendation(act="wait", text="keep running: no metric is declared, so nothing is compared.")
    by_variant = {name: [one for one in metrics if one.variant == name] for name in list(definition.variants)[1:]}
    by_variant = {name: some for name, some in by_variant.items() if any(one.role == "primary" for one in some)}
    if not by_variant:
        no_effect = _nothing_to_compare(definition, state, closed, over=over)
        if over:
            return Recommendation(act="no difference shown", text=f"no difference shown: {no_effect}")
        return Recommendation(act="wait", text=f"{_waits(state)}: {no_effect}")
    shipped = [
        name for name, some in by_variant.items() if _may_ship(definition, {one.metric: one.verdict for one in some})
    ]
    if shipped:
        best = max(shipped, key=lambda name: _gain(by_variant[name]))
        return _ship(best, by_variant[best], {name: by_variant[name] for name in shipped if name != best})
    stopped = {name: why for name, some in by_variant.items() if (why := _stops(some)) is not None}
    if len(stopped) == len(by_variant):
        text = "; ".join(f"stop {name}: {why}" for name, why in stopped.items())
        return Recommendation(act="stop", text=text, variant=next(iter(stopped)))
    going = {name: some for name, some in by_variant.items() if name not in stopped}
    if taken_back := [one for some in going.values() for one in some if one.role != "secondary" and one.taken_back]:
        effects = "; ".join(
            f"{one.variant}: {shown_effect(one)}, with them {shown_effect(one, one.with_late)}" for one in taken_back
        )
        what = "no difference shown" if over else "no decision" if state.ended_at_us is None else _waits(state)
        text = (
            f"{what}: outcomes that came late, or were corrected, contradict what the closed days say. {effects}. "
            "These days stay as they are, and if later ones are like them, running on decides nothing: declare a "
            "longer delay of the source (or wait for the label), and start the experiment again"
        )
        return Recommendation(act="no difference shown" if over else "wait", text=text)
    if (why := _too_few_days(definition, closed, going, over)) is not None:
        act: Act = "no difference shown" if over else "cannot be seen"
        return Recommendation(act=act, text=f"{'no decision' if over else act}: {why}")
    if over:
        return _undecided(definition, going, stopped)
    if state.ended_at_us is not None:
        so_far = _undecided(definition, going, stopped).text
        return Recommendation(act="wait", text=f"{_waits(state)}: its last days are not closed yet. So far: {so_far}")
    return _go_on(definition, closed, going, stopped)


def _waits(state: ExperimentState) -> str:
    return "keep running" if state.ended_at_us is None else "wait, it has ended"


def _nothing_to_compare(
    definition: Experiment, state: ExperimentState, closed: Sequence[ExperimentDay], *, over: bool
) -> str:
    """Return why no primary metric has an effect yet."""
    left_out = [one for one in closed if one.excluded is not None]
    if not closed:
        if end_us(state, definition) <= state.started_at_us:
            return "it ended before the window of any unit had ended, so no unit counts."
        if over:
            return "no day was closed before the experiment was started again."
        first_us = begun(state).closed_until_us + DAY_US + longest_wait_us(definition.metrics)
        return f"no day is closed yet. The first one closes on {format_time(first_us)[:10]} at the earliest."
    if len(left_out) == len(closed):
        return f"{_days(len(closed))}, and none counts ({left_out[-1].excluded})."
    if not days_shown(definition, state, closed):
        return "it ended before its first look." if over else f"no look is due after {_days(len(closed))}."
    primary = ", ".join(one.name for one in definition.metrics if one.role == "primary")
    found = f"fewer than two units of the control, or of every other variant, have a value of {primary}"
    return f"{found} after {_days(len(closed) - len(left_out))} that count{'s' * (len(closed) - len(left_out) == 1)}."


def first_act(
    definition: Experiment, looks: Mapping[tuple[str, str], Sequence[Look]], planted: str | None = None
) -> tuple[Literal["ship", "stop", "nothing"], str | None, int | None]:
    """Return what is done first if every look is acted on: the act, the variant, and the time of the look.

    Args:
        looks: By metric and variant: all looks, oldest first.
        planted: The variant that differs from the control. If several variants are compared, stopping this one is an
            act; stopping others is only an act once all are stopped. None: stopping any of them is an act.
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
        stopped = [variant for variant, verdicts in found.items() if _must_stop(definition, verdicts)]
        if planted is not None and len(stopped) < len(found):
            stopped = [variant for variant in stopped if variant == planted]
        if stopped:
            return "stop", stopped[0], at_us
    return "nothing", None, None


def days_needed(look: Look, days: int, distance: float) -> float:
    """Return after how many days in all the half-width of the interval would be `distance`; `days` have passed.

    The width of an interval shrinks with the square root of the number of days.
    """
    reach = _reach(look)
    return days * (reach / abs(distance)) ** 2 if distance and math.isfinite(reach) else math.inf


def smallest_effect(definition: Experiment, look: Look, days: int, horizon: float) -> float | None:
    """Return the smallest effect that `horizon` days show in four of five cases, as a share of the control's value."""
    found = _reach(look) * math.sqrt(days / horizon) * (1.0 + _POWER_SCORE / _score(definition))
    return found / abs(look.control) if look.control and math.isfinite(found) else None


def _score(definition: Experiment) -> float:
    """Return about how many standard errors the half-width of an interval has."""
    return _ANY_TIME_SCORE if definition.rule in ("sequence", "msprt") else _SCORE


def _reach(look: Look) -> float:
    """Return how far the interval reaches from the difference, on its wider or only side; infinite without a bound."""
    return max((abs(end - look.difference) for end in (look.low, look.high) if end is not None), default=math.inf)


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
            # The margin is a share of the control's value, which is uncertain as well. So the interval of the effect
            # may contain the margin; the interval of the distance from the margin decides.
            low, high = from_margin(one.looks[-1], one.bounded)
            least = abs((low if one.better == "lower" else high) or 0.0)
            beyond = in_units(least, one.kind, signed=True).removeprefix("+")
            beyond += " more" if one.better == "lower" else " less"
            effect = shown_values(one.looks[-1], one.kind)[0]
            return (
                f"guardrail {one.metric} is worse by more than its margin of {margin}: {one.metric} {effect}, which "
                f"is at least {beyond} than the margin allows"
            )
    for one in some:
        if one.role == "primary" and one.verdict == "worse":
            return f"it is worse: {shown_effect(one)}"
    return None


def _gain(some: Sequence[MetricReading]) -> float:
    better = [one.looks[-1] for one in some if one.role == "primary" and one.verdict == "better"]
    return max(abs(one.difference if one.relative is None else one.relative) for one in better)


def _ship(name: str, some: Sequence[MetricReading], others: Mapping[str, Sequence[MetricReading]]) -> Recommendation:
    """Return the recommendation to ship a variant. The text says that `others` could be shipped, too."""
    parts = [shown_effect(one) for one in some if one.role == "primary"]
    guardrails = [one.metric for one in some if one.role == "guardrail"]
    if guardrails:
        parts.append(f"{', '.join(guardrails)} within {'its margin' if len(guardrails) == 1 else 'their margins'}")
    parts += [shown_effect(one) for one in some if one.role == "guardrail" and one.looks[-1].at_most is not None]
    text = f"ship {name}: {'; '.join(parts)}"
    for other, of in others.items():
        better = ", ".join(shown_effect(one) for one in of if one.role == "primary")
        text += f". {other} could be shipped, too: {better}; it was not compared with {name}, only with the control"
    return Recommendation(act="ship", variant=name, text=text)


def _is_over(definition: Experiment, state: ExperimentState, closed: Sequence[ExperimentDay]) -> bool:
    """Return whether no more day will come: the experiment or its planned time ended, and all its days are closed."""
    until_us = closed[-1].day_us + DAY_US if closed else begun(state).closed_until_us
    return until_us >= end_us(state, definition)


def _undecided(
    definition: Experiment, going: Mapping[str, Sequence[MetricReading]], stopped: Mapping[str, str]
) -> Recommendation:
    parts, smallest, better = list[str](), None, False
    for name, some in going.items():
        proven = _proven(definition, some)
        better = better or bool(proven)
        if proven:
            parts.append(f"{name}: {proven}")
        for one in some:
            if (one.role == "guardrail" or (one.role == "primary" and not proven)) and one.verdict == "open":
                smallest = smallest_effect(definition, one.looks[-1], 1, 1)
                what = "effects" if definition.two_sided or one.role == "guardrail" else "improvements"
                seen = f"; {what} above about {100 * smallest:.2g} % would probably have been seen" if smallest else ""
                seen += _not_looked_for(definition, one)
                seen = f". {_advice(one)}" if cannot_be_within(one) else seen
                parts.append(f"{name}: {shown_effect(one)}{seen}")
    parts += [f"do not choose {name}: {why}" for name, why in stopped.items()]
    said = "no decision" if better else "no difference shown"
    return Recommendation(act="no difference shown", text=f"{said}: {'; '.join(parts)}", smallest=smallest)


def _proven(definition: Experiment, some: Sequence[MetricReading]) -> str:
    """Return a text that names the primary metrics that are better, and the guardrails not yet within their margins.

    It is "" if there are no such primary metrics, or no such guardrails.
    """
    better = [shown_effect(one) for one in some if one.role == "primary" and one.verdict == "better"]
    # the margin is a share of the control's value, which is uncertain, too; so the effect does not show what is proven
    lacking = [
        one.metric
        if one.looks[-1].at_most is not None
        else f"{one.metric} (distance from its margin: "
        f"{distance_from_margin(one)}, and {'below' if one.better == 'lower' else 'above'} 0 is within)"
        for one in some
        if one.role == "guardrail" and one.verdict == "open"
    ]
    lacking += _without_value(definition, some)
    if not better or not lacking:
        return ""
    margin = "its margin" if len(lacking) == 1 else "their margins"
    return f"{', '.join(better)} is proven better, but guardrail {', '.join(lacking)} is not proven within {margin}"


def _without_value(definition: Experiment, some: Sequence[MetricReading]) -> list[str]:
    """Return the guardrails for which fewer than two units of a variant have a value, so that nothing is known."""
    known = {one.metric for one in some}
    return [one.name for one in definition.metrics if one.role == "guardrail" and one.name not in known]


def _go_on(
    definition: Experiment,
    closed: Sequence[ExperimentDay],
    going: Mapping[str, Sequence[MetricReading]],
    stopped: Mapping[str, str],
) -> Recommendation:
    """Return how long to run on, or that the effect cannot be seen with this traffic. Days without units do not count.

    Coming days have as many units as the past ones on average, or follow their trend (see `trend`), so that a day in
    the future may be worth less than one so far. With O'Brien and Fleming's rule nothing is forecast: its intervals
    shrink faster than with the square root of days.
    """
    seen_us = max(one.looks[-1].until_us for some in going.values() for one in some)
    counted = [
        sum(arm.units for arm in one.variants.values())
        for one in closed
        if one.excluded is None and one.day_us < seen_us
    ]
    units = np.array([one for one in counted if one], np.float64)
    days = units.size
    duration_us = definition.duration_us
    horizon = HORIZON_DAYS if duration_us is None else days + max(0, -(-duration_us // DAY_US) - len(closed))
    expected, follows = trend(units, max(horizon, days)) if days else (units, False)
    # by number of days: how many past days of average traffic they are worth
    worth = np.arange(1.0, max(horizon, days) + 1.0)
    if follows:
        worth = np.cumsum(np.concatenate([units, expected[days:]])) / units.mean()
    needed, one = min((_open_needs(definition, some, days) for some in going.values()), key=lambda one: one[0])
    look = one.looks[-1]
    # if there are several variants, the text says which one is meant
    effect = f"{one.variant}: {shown_effect(one)}" if len(definition.variants) > 2 else shown_effect(one)
    whose = f"{one.metric} of {one.variant}" if len(definition.variants) > 2 else one.metric
    planned = definition.rule == "obrien_fleming"
    most = float(worth[horizon - 1])
    smallest = None if planned else smallest_effect(definition, look, days, most)
    act: Act = "keep running"
    more = None
    if planned:
        seen = f"look {len(one.looks)} of {definition.looks}"
        text = f"keep running: {effect} at {seen}; each later look can see smaller effects"
    elif days < _EARLY_DAYS * (definition.evidence_us // DAY_US):
        text = f"keep running: too early to say after {_days(days)}"
    elif lacking := _without_value(definition, going[one.variant]):
        text = f"keep running: fewer than two units of {one.variant} or of the control have a value of "
        text += f"{', '.join(lacking)} after {_days(days)}, so it cannot be judged"
    elif cannot_be_within(one):
        act = "wait"
        text = f"keep running: {effect}. {_advice(one)}"
    elif look.at_most is None and not math.isfinite(_reach(look)):
        text = f"keep running: too few days or events to say anything about {whose} after {_days(days)}"
        if one.kind in ("mean", "ratio") and look.control and min(look.units) >= _MANY_UNITS:
            text += f"; perhaps a few units have nearly all of its sum{_cut(definition, one)}"
    elif needed <= most:
        more = max(1, int(np.searchsorted(worth, needed)) + 1 - days)
        loses = one.role == "primary" and look.difference * (1.0 if one.better == "higher" else -1.0) < 0.0
        what = f" until {one.variant} is proven worse: {shown_effect(one)}" if loses else f" to decide about {effect}"
        text = f"keep running: at this rate about {more} more day{'s' * (more != 1)}{what}"
    else:
        # the effect may well be one standard error larger
        plausible = abs(look.difference) + _reach(look) / _score(definition)
        if not days_needed(look, days, plausible) <= most:
            act = "cannot be seen"
        text = f"{act}{' with this traffic' * (act != 'keep running')}: {effect} after {_days(days)}"
        if look.at_most is not None:
            least = -math.expm1(math.log1p(-min(look.at_most, 0.999)) * days / most)
            shown = f"{horizon} days without an event would show that at most {100 * least:.2g} %"
            text += f"; {shown} of the units have one"
    text += _not_looked_for(definition, one)
    if more is None and smallest is not None:
        text += f"; the smallest effect that {horizon} days can show is about {100 * smallest:.2g} %"
    fewer = days >= _EARLY_DAYS and not planned and (follows or days < TREND_DAYS)
    if fewer and units[-1] < (1.0 if follows else _FEWER) * units[0]:
        text += f"; new units become fewer ({units[0]:,.0f} on the first day, {units[-1]:,.0f} on the newest)"
        tail = ", so more days add little" if more is None else ""
        text += tail if follows else ", and if this goes on, later days add less than assumed here"
    text += "".join(f". {name}: {proven}" for name, some in going.items() if (proven := _proven(definition, some)))
    text += "".join(f". Stop {name} ({why})" for name, why in stopped.items())
    return Recommendation(act=act, text=f"{text}.", variant=one.variant, days_more=more, smallest=smallest)


def _advice(one: MetricReading) -> str:
    """Return what a person can do about a guardrail without events that cannot be within its margin."""
    if one.left_out:
        return (
            f"So this event does happen. Look at these events: if {one.variant} caused them, do not choose "
            "it; otherwise conclude the experiment with this reason, or start it again"
        )
    if one.kind != "quantile":
        return "Such events are good, so having none proves nothing: does the metric read the right ids and events?"
    return (
        "The quantile is 0 in both variants, and a share of 0 is no margin. Start the experiment again with the share "
        'of the units with an event (kind="proportion") instead, which has a rule for events that never happen'
    )


def _cut(definition: Experiment, one: MetricReading) -> str:
    """Return what can be done about a few units with huge values. The denominator of a ratio is never cut."""
    is_capped = any(metric.name == one.metric and metric.cap is not None for metric in definition.metrics)
    if one.kind != "ratio":
        return ", although cap= cuts values: a smaller cap= cuts more" if is_capped else ": cap= would cut their values"
    named = " or of its denominator, which cap= does not cut: keep such units out, by where= of the experiment"
    return named if is_capped else f"{named}. In the numerator, cap= would cut their values"


def _not_looked_for(definition: Experiment, one: MetricReading) -> str:
    """Return a sentence if a primary metric looks worse, which a one-sided experiment never proves; otherwise ""."""
    sign = 1.0 if one.better == "higher" else -1.0
    if definition.two_sided or one.role != "primary" or sign * one.looks[-1].difference >= 0.0:
        return ""
    return "; it looks worse, which an experiment with two_sided=False cannot prove"


def _too_few_days(
    definition: Experiment, closed: Sequence[ExperimentDay], going: Mapping[str, Sequence[MetricReading]], over: bool
) -> str | None:
    """Return why nothing can be judged if all units came on a few days and no more seem to come; otherwise None."""
    came = [number for number, day in enumerate(closed) if any(one.units for one in day.variants.values())]
    days = [closed[number] for number in came if closed[number].excluded is None]
    primary = [one.looks[-1] for some in going.values() for one in some if one.role == "primary"]
    known = any(end is not None for look in primary for end in (look.low, look.high))
    if known or not days or len(days) >= _EARLY_DAYS or not (over or came[-1] + 1 < len(closed)):
        return None
    units = sum(one.units for day in days for one in day.variants.values())
    on = " and ".join(format_time(day.day_us)[:10] for day in days)
    more = "" if over else "If no more units come, this stays so. "
    return (
        f"all {units:,} units that count came on {on}. Errors are computed from the differences between days, so "
        f"with the rule {definition.rule} nothing can be judged after {_days(len(days))} with units. {more}"
        "Start the experiment again and spread the units over a week or more: for example, send a mailing in parts, "
        "each with all variants"
    )


def _days(days: int) -> str:
    return f"{days} closed day{'s' * (days != 1)}"


def _open_needs(definition: Experiment, some: Sequence[MetricReading], days: int) -> tuple[float, MetricReading]:
    """Return the number of days after which a variant could be decided, and the metric that takes longest.

    One primary metric has to be better, and every guardrail within its margin.
    """
    waits: dict[str, list[tuple[float, MetricReading]]] = {"primary": [], "guardrail": []}
    for one in some:
        if one.role != "secondary" and one.verdict == "open":
            look, sign = one.looks[-1], 1.0 if one.better == "higher" else -1.0
            room = max(0.0, sign * look.difference + (one.margin or 0.0) * abs(look.control))
            # if the interval has only one bound, a harmful effect is never proven
            effect = look.difference if None not in (look.low, look.high) else max(0.0, sign * look.difference)
            needed = days_needed(look, days, effect if one.margin is None else room)
            if look.at_most is not None:  # (1 - at_most)^units equals a fixed error rate, and units grow with the days
                negligible = next(metric.negligible for metric in definition.metrics if metric.name == one.metric)
                needed = days * math.log1p(-min(look.at_most, 0.999)) / math.log1p(-negligible)
                needed = math.inf if cannot_be_within(one) else needed
            waits[one.role].append((needed, one))
    decided = any(one.role == "primary" and one.verdict == "better" for one in some)
    primary = sorted(waits["primary"], key=lambda one: one[0])[: 0 if decided else 1]
    lacking = [(math.inf, some[0])] if _without_value(definition, some) else []
    return max(lacking + primary + waits["guardrail"], key=lambda one: one[0], default=(0.0, some[0]))
