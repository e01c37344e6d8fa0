"""The effect on a metric as it was known at one time, and the verdict that its interval allows."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from trimtab.experiments.definitions import Metric, Role

_TIMES = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))  # seconds of each unit of time
Verdict = Literal["better", "worse", "within margin", "open"]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of a variant on a metric, as it was known at one time. Bounds that are not known yet are None."""

    until_us: int  # the end of the newest day in it
    units: tuple[int, int]  # of the control and of the variant
    control: float  # the control's mean, ratio or quantile
    variant: float
    difference: float
    low: float | None
    high: float | None
    relative: float | None  # the difference as a share of the control's value
    relative_low: float | None
    relative_high: float | None
    p: float | None
    method: str
    # for a guardrail: bounds of the difference between the variant's value and the worst value that the margin allows
    beyond_low: float | None = None
    beyond_high: float | None = None
    # for a guardrail, if no unit of either variant has an event: the share of units with one is surely at most this
    at_most: float | None = None


class MetricReading(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of one variant on one metric, against the control."""

    metric: str
    kind: str
    role: Role
    better: Literal["higher", "lower"]
    variant: str
    looks: list[Look]  # oldest first, at least one
    verdict: Verdict  # "open" if outcomes that came late contradict `at_close`
    at_close: Verdict  # what the closed days alone say
    margin: float | None = None  # for a guardrail: by how much it may be worse, as a share of the control's value
    # the p-value corrected for the number of comparisons: for a primary metric like its interval (Bonferroni), for a
    # secondary metric after Benjamini-Hochberg; None for a guardrail, and without a p-value
    adjusted_p: float | None = None
    bounded: tuple[float, float] | None = None  # the interval after allowing for missing labels, if their shares differ
    probability_better: float | None = None  # the Bayesian reading: the probability that the variant is better
    expected_loss: float | None = None  # the loss to expect from choosing the variant, in units of the metric
    with_late: Look | None = None  # the newest look, if outcomes that came late had counted; None: it is the same
    by_week: list[Look] = []  # the effect on units that were first exposed in each week, to see novelty effects
    by_age: dict[str, Look] = {}  # for a primary metric: the effect by days since the first exposure, such as "day 1"
    left_out: list[str] = []  # days that do not count, but on which a unit of one of the two variants has an event

    @property
    def unit(self) -> str:
        """The unit of the metric's values."""
        return " s" if self.kind == "time_to_event" else ""

    @property
    def taken_back(self) -> bool:
        """Whether the newest look alone would decide, but not together with the outcomes that came late."""
        return self.with_late is not None and self.verdict == "open" and self.at_close != "open"

    @property
    def now(self) -> Look | None:
        """The newest look."""
        return self.looks[-1] if self.looks else None


def verdict(metric: Metric, look: Look, bounded: tuple[float, float] | None = None) -> Verdict:
    """Return what the interval of a look says about a metric.

    A guardrail is "within margin" if it is proven that it is not worse by more than its margin, and "worse" if it is
    proven that it is worse by more. (`beyond_low` and `beyond_high` also allow for the error of the control's value.)
    If no unit has an event, it is "within margin" once at most the share `negligible` of the units can have one.
    """
    if look.at_most is not None:
        return "within margin" if look.at_most <= metric.negligible else "open"
    low, high = from_margin(look, bounded) if metric.role == "guardrail" else bounded or (look.low, look.high)
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    if metric.better == "lower":  # from here on, higher is better
        low, high = -high, -low
    if metric.role != "guardrail":
        return "better" if low > 0.0 else "worse" if high < 0.0 else "open"
    return "within margin" if low > 0.0 else "worse" if high < 0.0 else "open"


def from_margin(look: Look, bounded: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """Return the bounds that decide about a guardrail: those of its distance from the worst value within its margin.

    If the interval of the difference was widened for missing labels to `bounded`, these bounds are widened as much.
    """
    ends = look.low, look.high
    wider = [0.0 if old is None or new is None else new - old for old, new in zip(ends, bounded or ends, strict=True)]
    low, high = look.beyond_low, look.beyond_high
    return None if low is None else low + wider[0], None if high is None else high + wider[1]


def never_is_good(metric: Metric | MetricReading) -> bool:
    """Return whether it is good if no unit ever has an event of a metric: true of crashes, false of orders."""
    return (metric.better == "lower") != (metric.kind == "time_to_event")


def cannot_be_within(one: MetricReading) -> bool:
    """Return whether a guardrail cannot be within its margin, however many units without an event there are.

    This is so if no unit has an event on the days that count, but events are good, or happened on days that are left
    out. It is also so for a quantile that is 0 in both variants.
    """
    last = one.looks[-1]
    if one.margin is None or one.kind == "quantile":
        return one.margin is not None and last.control == last.variant == 0.0
    return last.at_most is not None and (bool(one.left_out) or not never_is_good(one))


def shown_effect(one: MetricReading, look: Look | None = None) -> str:
    """Return the newest effect on a metric, or that of a look, as text: "revenue +3.1 % (1.2 % to 5.0 %)"."""
    if (at_most := (look or one.looks[-1]).at_most) is not None:
        if one.left_out:
            days = ", ".join(one.left_out[:3])
            days += f" and {more} more days" if (more := len(one.left_out) - 3) > 0 else ""
            days += ", which is left out" if len(one.left_out) == 1 else ", which are left out"
            return f"{one.metric}: no event on the days that count, but units of {days}, have events"
        if one.kind == "quantile" or not never_is_good(one):
            return f"{one.metric}: no event in either variant"
        share = f"{100 * at_most:.2g}" if at_most < 0.995 else "100"
        in_time = " in time" if one.with_late is not None and look is None else ""
        return f"{one.metric}: no event in either variant{in_time} (at most {share} % of the units have one)"
    if math.isnan((look or one.looks[-1]).difference):
        return f"{one.metric}: too few units have a value"
    bounds = one.bounded if look is None else None
    effect, low, high = shown_values(look or one.looks[-1], one.kind, bounds)
    ends = [None if end is None else end.removeprefix("+") for end in (low, high)]
    if low is None or high is None:
        between = f"at least {low}" if low is not None else f"at most {high}" if high is not None else "no interval"
    else:
        between = f"{ends[0]} to {ends[1]}"
    return f"{one.metric} {effect} ({between})"


def distance_from_margin(one: MetricReading) -> str | None:
    """Return the interval of a guardrail's distance from the worst value within its margin, as text."""
    if one.margin is None:
        return None
    if one.looks[-1].at_most is not None:
        return "no event"
    low, high = one.looks[-1].beyond_low, one.looks[-1].beyond_high
    if low is not None and high is not None:
        return " to ".join(in_units(end, one.kind, signed=True) for end in (low, high))
    least, most = (None if end is None else in_units(end, one.kind, signed=True) for end in (low, high))
    return f"at least {least}" if least is not None else f"at most {most}" if most is not None else "not known"


def in_units(value: float, kind: str, *, digits: int = 3, signed: bool = False) -> str:
    """Return a value of a metric, or with `signed` a difference, with its unit: times in s, min, h or d, shares in %.

    >>> in_units(205_500.0, "time_to_event"), in_units(0.0209, "proportion", signed=True), in_units(2.5, "mean")
    ('2.38 d', '+2.09 %-points', '2.5')
    """
    form = f"{'+' * signed},.{digits}g"
    if kind == "proportion":
        return f"{100.0 * value:{form}} %{'-points' * signed}"
    if kind != "time_to_event":
        return f"{value:{form}}"
    seconds, unit = next((one for one in _TIMES if abs(value) >= 2.0 * one[0]), _TIMES[-1])
    return f"{value / seconds:{form}} {unit}"


def shown_values(look: Look, kind: str, bounds: tuple[float, float] | None = None) -> list[str | None]:
    """Return the effect and its bounds as texts: in % of the control's value, if that is not too close to 0.

    Bounds in % allow for the error of the control's value as well.

    Args:
        bounds: Bounds of the difference that are further apart than the look's own, for missing labels.
    """
    low, high = bounds or (look.low, look.high)
    if look.relative is None or not look.control:
        return [None if one is None else in_units(one, kind, signed=True) for one in (look.difference, low, high)]
    return [None if one is None else percent(one) for one in (look.relative, *relative_bounds(look, bounds))]


def relative_bounds(look: Look, bounds: tuple[float, float] | None = None) -> list[float | None]:
    """Return the bounds of an effect as shares of the control's value, with allowance for the error of that value."""
    found: list[float | None] = []
    ends = (look.low, look.high)
    for relative, own, end in zip((look.relative_low, look.relative_high), ends, bounds or ends, strict=True):
        if relative is None or own is None or end is None:
            found.append(None)
            continue
        wider = relative + (end - own) / abs(look.control)
        # the bound in % must have the sign of the bound of the difference, because that one decides the verdict
        found.append(wider if wider * end > 0.0 else 0.0)
    return found


def percent(share: float) -> str:
    """Return a change as text.

    >>> percent(0.0312), percent(-0.0004)
    ('+3.1 %', '-0.04 %')
    """
    return f"{100.0 * share:+.1f} %" if abs(share) >= 0.001 or not share else f"{100.0 * share:+.1g} %"
