"""The signals about a version's quality, found from its watch (see watches.py) after its newest closed day."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Literal

import msgspec

from trimtab.core.records import DayQuality, Signal
from trimtab.core.time import format_time
from trimtab.monitoring.quality.earlier_levels import LEAST_DAYS, MOST_ABOVE, EarlierLevel
from trimtab.monitoring.quality.watches import CALIBRATION, LOSS, SLICE, MetricValue, Watch
from trimtab.serving.arms.arms import SHADOW
from trimtab.stats.inference.edetector import Level, alarm_level
from trimtab.stats.metrics.loss_names import PROBABILITIES, loss_kind

LEVEL, WORSE, FAR_DAY = "quality_level", "quality_worse", "quality_day"
NO_LABELS, UNLISTED = "no_labels", "unlisted_labels"
KINDS = (LOSS, CALIBRATION, SLICE, LEVEL, WORSE, FAR_DAY, NO_LABELS, UNLISTED)
RENEWED = (LOSS, CALIBRATION, SLICE, LEVEL, FAR_DAY, UNLISTED)  # these have numbers that change from day to day
SILENT_DAYS = 2  # there is a signal after this many closed days in a row that have predictions but no label
UNLISTED_SHARE = 0.01  # if at least this share of a day's labels is of undeclared classes, the signal is red
_MOST_SLICES = 3  # of slices whose alarms began within `_TOGETHER_DAYS`, at most this many have a signal
_TOGETHER_DAYS = 28
_WHAT = {
    (LOSS, True): "daily loss beyond the loss that is expected from the scores",
    (LOSS, False): "daily loss",
    (CALIBRATION, False): "gap between predicted and true mean",
}
_SIDE = {LOSS: "above", CALIBRATION: "away from"}  # an alarm about the gap may be for either side of its reference


def signals_of(
    watch: Watch,
    day: DayQuality | None,
    now_us: int,
    standing: Collection[str] = (),
    name_of: Callable[[str], str] = lambda version: version[:12],
    *,
    declared: Collection[str] = (),
    outlook: Callable[[Watch], str] = lambda watch: "",
) -> list[Signal]:
    """Return all quality signals of a version that hold now, and those of the replaced version (`watch.earlier`).

    Args:
        watch: The watch over the version, after `day`.
        day: The newest closed day; None if the version was only just put in service.
        standing: The subjects of the signals that stand until now.
        name_of: Returns the name of a version, given its id.
        declared: The classes that the label declares now, if there are several.
        outlook: Returns in words what will be done about slices with an alarm, and about losses that are not restored.
    """
    at_us = now_us if day is None else day.day_us
    found = _levels(watch, at_us, now_us, standing)
    for kind, figure in watch.figures.items():
        for number, one in enumerate(figure.rises):
            found.append(_quality(watch, kind, one, at_us, now_us, number))
    found += _slices(watch, at_us, now_us, standing)
    if day is not None and day.day_us == watch.last_day_us and watch.far:
        found.append(_far_day(watch, day, now_us))
    if watch.arm:
        return [_of_arm(_with_names(one, watch, name_of), watch.arm) for one in found]
    if watch.earlier is not None:
        earlier = signals_of(watch.earlier, day, now_us, standing, name_of)
        found += [one for one in earlier if one.kind != LEVEL]  # the new version has signals about the same levels
    if day is not None and watch.silent_days >= SILENT_DAYS:
        found.append(_silence(watch, day, now_us))
    if watch.unlisted_day is not None and watch.unlisted_told != "no":
        found.append(_unlisted(watch, watch.unlisted_day, watch.unlisted_told, now_us, declared))
    told = [n for n, one in enumerate(found) if one.kind in (SLICE, LEVEL)]
    said = outlook(watch) if told else ""
    for n in told if said else []:
        found[n] = msgspec.structs.replace(found[n], message=f"{found[n].message} {said}")
    return [_with_names(one, watch, name_of) for one in found]


def _with_names(signal: Signal, watch: Watch, name_of: Callable[[str], str]) -> Signal:
    """Return a signal whose message has the names of versions in place of the beginnings of their ids."""
    said = signal.message
    for version in {watch.version, watch.healthy_version, *(one.version for one in watch.earlier_levels.values())}:
        said = said if version is None else said.replace(version[:12], name_of(version))
    return msgspec.structs.replace(signal, message=said)


def _quality(watch: Watch, kind: str, figure: MetricValue, at_us: int, now_us: int, number: int) -> Signal:
    onset_us = _onset_us(watch, figure)
    what = _what(watch, kind, figure)
    since = f"since about {format_time(onset_us)[:10]}"
    message = f"The {what} has been {_SIDE[kind]} its reference, {_unit(watch, kind) * figure.spec.mean:.3g}, {since}."
    if number:
        message = f"The {what} moved further away while the alarm was open, {since}."
    about = partial(_signal, watch, WORSE if number else kind, at_us, now_us, onset_us=onset_us, message=message)
    return about(evidence=_evidence(watch, kind, figure), subject=f"{kind}, rise {number}" if number else "")


def _levels(watch: Watch, at_us: int, now_us: int, standing: Collection[str]) -> list[Signal]:
    """Return signals that a version is worse than the last healthy one (an arm: than the champion; `Watch.healthy`).

    Also return signals that its loss is not back at the level before a change (`Watch.earlier_levels`). Of slices, at
    most three have a signal: those that have one already, and then the worst.
    """
    found: list[Signal] = []
    other = (watch.healthy_version or "")[:12]
    whose = "the version in service" if watch.arm else "the last healthy version"
    whole = watch.earlier_levels.get("")
    rows_above = 0.0 if whole is None else whole.above or 0.0
    for kind, figure in watch.healthy.items():
        if not figure.alarming and kind not in watch.short_of:
            continue
        begun_us = watch.anchored_at_us if whole is None else whole.changed_us
        onset_us = _onset_us(watch, figure) if figure.alarming else begun_us
        by = abs(alarm_level(figure.spec, figure.state).mean - figure.spec.mean)
        unit = 1.0 if kind == CALIBRATION else watch.healthy_cap or watch.loss_cap
        by, level = unit * (by if figure.alarming else watch.short_of[kind]), unit * figure.spec.mean
        rows_above = max(rows_above, by / level if kind == LOSS and level > 0.0 and not figure.excess else 0.0)
        message = (
            f"The {_what(watch, kind, figure)} is {by:.3g} {_SIDE[kind]} {level:.3g}, the level of {whose} ({other}). "
            f"The signal lasts until the mean of seven days is {_until(figure, unit)}{_or_accept(watch)}"
        )
        evidence = {**_evidence(watch, kind, figure), "worse_by": by}
        about = partial(_signal, watch, LEVEL, at_us, now_us, onset_us=onset_us, subject=kind)
        found.append(about(evidence=evidence, message=message))
    told = any(one.subject == LOSS for one in found)  # one signal about the loss of all rows is enough
    # a slice has a signal of its own if it is much further above its level than all rows are
    above = {
        name: one.above
        for name, one in watch.earlier_levels.items()
        if one.above is not None and (one.above > 2.0 * rows_above if name else not told)
    }
    order = sorted(above, key=lambda name: (name != "", f"slice {name}" not in standing, -above[name]))
    listed = order[: _MOST_SLICES + ("" in above)]
    for name in listed:
        earlier, others = watch.earlier_levels[name], len(order) - len(listed) if name == listed[-1] else 0
        found.append(_not_restored(watch, name, earlier, above[name], others, at_us, now_us))
    return found or ([] if watch.worse_since_us is None else [_moved_in_alarm(watch, watch.worse_since_us, now_us)])


def _moved_in_alarm(watch: Watch, since_us: int, now_us: int) -> Signal:
    """Return the signal that a person replaced a version during an alarm, and that the new one has no days yet."""
    message = (
        f"{watch.version[:12]} was put in service by hand during an alarm about the quality, since about "
        f"{format_time(since_us)[:10]}. Whether it is better is known once a week of its days is closed"
        f"{_or_accept(watch)}"
    )
    about = partial(_signal, watch, LEVEL, watch.anchored_at_us, now_us, onset_us=since_us)
    return about(evidence={}, message=message, subject="moved by hand")


def _until(figure: MetricValue, unit: float) -> str:
    """Return in words how good seven days must be; see `met`. `unit` turns the value into the metric's unit."""
    if figure.alarming:
        return "at that level"
    spec = figure.spec
    within = unit * max(side.baseline for side in spec.sides) * spec.sd / (1.0 - spec.correlation)
    return f"within {within:.3g} of that level"


def _not_restored(
    watch: Watch, name: str, earlier: EarlierLevel, above: float, others: int, at_us: int, now_us: int
) -> Signal:
    """Return the signal that the version in service does not reach the loss before a change, as `others` slices."""
    level, how, whose = earlier.loss / (1.0 + above), "", "The loss is"
    if not earlier.days:
        how = f" Whether {watch.version[:12]} is better is known after {LEAST_DAYS} closed days with labels."
        whose = "The loss of the version before was"
    if watch.metric in PROBABILITIES:
        how += (
            f" (Before, it was {earlier.level.loss:.3g}; the level is converted to today's share of positive labels.)"
        )
    message = (
        f"{name + ': ' if name else ''}{whose} {above:.0%} above its level before the change of about "
        f"{format_time(earlier.changed_us)[:10]}: {earlier.loss:.3g} instead of {level:.3g}.{how} Perhaps a feature no "
        "longer contains what it did. The signal lasts until the mean of seven days is within "
        f"{MOST_ABOVE:.0%} of that level{_or_accept(watch)}"
        + (f" The same holds for {others} more slice{'s' * (others != 1)}." if others else "")
    )
    evidence = {"above": above, "level": level, "loss": earlier.loss}
    about = partial(_signal, watch, LEVEL, at_us, now_us, onset_us=earlier.changed_us)
    return about(evidence=evidence, message=message, subject=f"slice {name}" if name else "loss")


def _or_accept(watch: Watch) -> str:
    return "." if watch.arm else f". To accept the new level: trimtab quality show {watch.model} --accept --why TEXT"


def _of_arm(signal: Signal, arm: str) -> Signal:
    """Return the signal as one about an arm. For a shadow it is not red, because its answers reach no client."""
    return msgspec.structs.replace(
        signal,
        subject=f"{arm}, {signal.subject}" if signal.subject else arm,
        message=f"For the {arm}: {signal.message}",
        severity="info" if arm == SHADOW else signal.severity,
    )


def _slices(watch: Watch, at_us: int, now_us: int, standing: Collection[str]) -> list[Signal]:
    """Return signals about slices with an alarm, each with the slice's mean and a 95 % interval.

    Of slices whose alarms began within four weeks of each other, three have a signal: the earliest, and of those of one
    day the ones that have a signal already, and then the worst. (The three with the largest rise would change daily.)
    Alarms that began before these four weeks do not count, because they would hide a later fault of another slice.
    """
    # for each slice, its loss or its calibration gap, whichever is further from the reference
    alarming: dict[str, tuple[str, MetricValue, Level]] = {}
    rang: dict[str, int] = {}  # for each slice, the number of the day on which its first alarm rang
    for kind, figures in ((LOSS, watch.slices), (CALIBRATION, watch.slice_gaps)):
        for name, figure in figures.items():
            if figure.alarming:
                found = (kind, figure, alarm_level(figure.spec, figure.state))
                alarming[name] = max(found, alarming.get(name, found), key=_away)
                rang[name] = min(figure.state.alarm_day or 0, rang.get(name, figure.state.days))
    listed: list[str] = []
    about = f"{watch.arm}, slice " if watch.arm else "slice "
    for name in sorted(alarming, key=lambda name: (rang[name], about + name not in standing, -_away(alarming[name]))):
        if sum(rang[name] - rang[other] < _TOGETHER_DAYS for other in listed) < _MOST_SLICES:
            listed.append(name)
    others = sorted(alarming.keys() - set(listed))
    rest = ", ".join(others[:_MOST_SLICES])
    rest += f" and {len(others) - _MOST_SLICES} more" if len(others) > _MOST_SLICES else ""
    signals: list[Signal] = []
    for name in listed:
        kind, figure, level = alarming[name]
        unit = _unit(watch, kind)
        mean, half = unit * level.mean, unit * 1.96 * level.sd / math.sqrt(max(1, level.days))
        onset_us = _onset_us(watch, figure)
        more = f" Other slices that are worse than their reference: {rest}." if rest else ""
        message = (
            f"{name}: the {_what(watch, kind, figure)} is {mean:.3g} ({mean - half:.3g} to {mean + half:.3g}) since "
            f"about {format_time(onset_us)[:10]}, and its reference is {unit * figure.spec.mean:.3g}.{more}"
        )
        evidence = {**_evidence(watch, kind, figure), "mean": mean, "low": mean - half, "high": mean + half}
        of_slice = partial(_signal, watch, SLICE, at_us, now_us, onset_us=onset_us, subject=f"slice {name}")
        signals.append(of_slice(evidence=evidence, message=message))
    return signals


def _far_day(watch: Watch, day: DayQuality, now_us: int) -> Signal:
    """Return the signal that the newest day is far from its reference, which is not enough for an alarm."""
    parts, evidence = [], {}
    for kind, name, one in watch.far[: _MOST_SLICES + 2]:
        value, usual = (_unit(watch, kind) * each for each in (one.state.recent[-1].value, one.spec.mean))
        evidence[name or kind] = value
        whose = f" of {name}" if name else ""
        parts.append(f"the {_what(watch, kind, one)}{whose} was {value:.3g} (reference: {usual:.3g})")
    message = (
        f"On {format_time(day.day_us)[:10]}, {'; '.join(parts)}. That is far worse than usual, but no alarm yet, "
        "because a single day can be an exception."
    )
    about = partial(_signal, watch, FAR_DAY, day.day_us, now_us, onset_us=day.day_us)
    return about(severity="info", evidence=evidence, message=message)


def _what(watch: Watch, kind: str, figure: MetricValue) -> str:
    """Return what is watched, in words. Losses of numbers have no limit of their own, so their cap is named."""
    capped = kind == LOSS and watch.metric and loss_kind(watch.metric) in ("regression", "count", "quantile")
    return _WHAT[kind, figure.excess] + (f" (a row counts as at most {watch.loss_cap:.3g})" if capped else "")


def _away(found: tuple[str, MetricValue, Level]) -> float:
    """Return how far a slice is from its reference, in standard deviations of a day."""
    _, figure, level = found
    return abs(level.mean - figure.spec.mean) / figure.spec.sd


def _silence(watch: Watch, day: DayQuality, now_us: int) -> Signal:
    since_us = day.day_us if watch.silent_since_us is None else watch.silent_since_us
    # `alike`: for a ranking, the number of the day's lists whose labels are all known and equal; otherwise 0
    since, alike = format_time(since_us)[:10], day.predictions - day.missing
    message = (
        f"No label has come in time for any prediction since {since}. Check what sends the labels, and whether they "
        "come later than the declared wait (wait= of the label)."
    )
    if alike:
        message = (
            f"No list since {since} shows what should come first: {alike} lists of the newest day have all their "
            "labels, but in each of them all labels are equal."
        )
    evidence = {"days": float(watch.silent_days), "predictions": float(day.predictions)}
    return _signal(watch, NO_LABELS, day.day_us, now_us, onset_us=since_us, evidence=evidence, message=message)


def _unlisted(
    watch: Watch, day: DayQuality, severity: Literal["info", "red"], now_us: int, declared: Collection[str]
) -> Signal:
    known, new = day.labelled + day.unlisted, [one for one in declared if watch.classes and one not in watch.classes]
    todo = "Add the new class to tt.label(..., classes=[...]) and train, or repair the label's expression."
    if new:
        todo = f"The label declares {', '.join(new)} by now. To train a version with it: trimtab train {watch.model}"
    message = (
        f"{day.unlisted} of {known} labels of {format_time(day.day_us)[:10]} are of no class "
        f"that the version in service knows, so they are not evaluated. {todo}"
    )
    evidence = {"unlisted": float(day.unlisted), "labels": float(known)}
    since_us = day.day_us if watch.unlisted_since_us is None else watch.unlisted_since_us
    about = partial(_signal, watch, UNLISTED, day.day_us, now_us, onset_us=since_us, severity=severity)
    return about(evidence=evidence, message=message)


def unlisted_severity(watch: Watch, day: DayQuality) -> Literal["no", "info", "red"]:
    """Return the severity of a new signal about labels of undeclared classes; "no": none begins.

    Each severity is only signalled once, and "info" not after "red", until seven days have passed without such labels
    (see `_after` in quality.py). # D0076
    """
    if not day.unlisted or watch.unlisted_told == "red":
        return "no"
    if day.unlisted >= UNLISTED_SHARE * (day.labelled + day.unlisted):
        return "red"
    return "info" if watch.unlisted_told == "no" else "no"


def _signal(
    watch: Watch,
    kind: str,
    at_us: int,
    now_us: int,
    *,
    onset_us: int,
    evidence: dict[str, float],
    message: str,
    subject: str = "",
    severity: Literal["info", "red"] = "red",
) -> Signal:
    about = f"/{subject}" if subject else ""
    return Signal(
        id=f"{kind}/{watch.model}/{watch.version[:12]}{about}/{at_us}",
        kind=kind,
        model=watch.model,
        version=watch.version,
        raised_at_us=now_us,
        onset_us=onset_us,
        severity=severity,
        evidence=evidence,
        message=message,
        subject=subject,
    )


def _onset_us(watch: Watch, figure: MetricValue) -> int:
    onset = watch.begun(figure)
    assert onset is not None  # an alarm needs at least one day
    return onset.at_us


def _unit(watch: Watch, kind: str) -> float:
    """Return the factor that turns a watched value into the metric's unit: losses are stored in units of the cap."""
    return 1.0 if kind == CALIBRATION else watch.loss_cap


def _evidence(watch: Watch, kind: str, figure: MetricValue) -> dict[str, float]:
    found = {
        "run_length_days": figure.spec.run_length,
        "reference_mean": _unit(watch, kind) * figure.spec.mean,
        "reference_days": float(figure.spec.reference_blocks),
    }
    evidence = figure.state.log_evidence
    return found if math.isinf(evidence) else {"log_evidence": evidence, **found}
