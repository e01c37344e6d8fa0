"""A watch over one version: reference values of its daily quality, and the evidence that it became worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.records import LOSS_CAP, ChangeOnset, DayQuality
from trimtab.core.time import DAY_US
from trimtab.monitoring.quality.earlier_levels import EarlierLevel, LossLevel
from trimtab.stats.inference.edetector import (
    HIGH,
    LOW,
    AlarmSpec,
    AlarmState,
    Direction,
    Onset,
    alarm_level,
    alarm_onset,
    learn_alarm,
    newest_steps,
    shifted_alarm,
    update_alarm,
)

LOSS, CALIBRATION, SLICE = "quality_loss", "quality_calibration", "quality_slice"
MET_DAYS = 7  # an alarm ends when the mean of this many days with labels is back at that of the reference
# a second reference is kept while its log evidence exceeds this, even if seven days reach it: a small change takes
# weeks to show, and without a change, the evidence after a month is at most 30 on average
SUSPICIOUS = math.log(30.0)
FULL_REFERENCE = 28  # a reference of fewer days is called provisional
# A new version is called worse if the mean of its reference days exceeds the upper bound (`AlarmSide.baseline`) of the
# second reference (that of an earlier version, `Watch.healthy`) by more than this many standard errors:
_AFTER_ALARM = 1.645  # one-sided 95 %: after an alarm, less evidence is enough
_WITHOUT_ALARM = 3.09  # one-sided 99.9 %: the test is made at every promotion, so it must rarely err
# `low` of `learn_alarm` for slices: changes by more than a day's variation are found sooner than with `LOW`  # D0003
_SLICE_LOW = -0.75
_LEAST_OF_EACH = 5  # the reference days of a slice need this many labels of each outcome
_HARMLESS_LOSS = 0.005  # a loss is no evidence if it is above the reference by at most this share  # D0223
_HARMLESS_GAP = 0.001  # a gap of the calibration is no evidence if it adds at most this share to the loss
_SLICE_STEPS = 60  # days that are kept, from which the onset of a slice's change is estimated
# a day is far if it exceeds the baseline by this many standard deviations; slices are many, so they need more  # D0232
FAR_DAY, FAR_DAY_OF_SLICE = HIGH, 2.0 * HIGH


class MetricValue(msgspec.Struct, frozen=True, kw_only=True):
    """A daily value that is watched, with its reference and its alarm."""

    spec: AlarmSpec
    state: AlarmState = AlarmState()
    excess: bool = False  # for a loss: whether it is the excess loss, the loss minus the expected loss
    # in standard deviations. For a calibration gap: how far 0 is from the reference's mean; values between these are no
    # evidence. For an estimated loss: how far above the reference's mean it may be when an alarm ends.
    to_zero: float = 0.0
    # during an alarm: the same value, with its mean since the change as the reference; it finds a further rise
    worse: MetricValue | None = None

    @property
    def alarming(self) -> bool:
        return self.state.alarm_day is not None

    def far(self, least: float = FAR_DAY) -> bool:
        """Return whether the newest day has enough labels and is `least` standard deviations beyond the baseline."""
        state = self.state
        if self.alarming or not state.recent or state.recent[-1].day != state.days:
            return False
        return any(one.sign * state.newest[-1] - max(0.0, one.baseline) >= least for one in self.spec.sides)

    @property
    def latest(self) -> MetricValue:
        """The value with the newest alarm: this one, or that for a further rise."""
        worse = self.worse
        return worse.latest if worse is not None and worse.alarming else self

    @property
    def rises(self) -> list[MetricValue]:
        """This value and those for its further rises, oldest first. Only values with an alarm now are included."""
        if not self.alarming:
            return []
        return [self, *([] if self.worse is None else self.worse.rises)]


class ShortReference(msgspec.Struct, frozen=True, kw_only=True):
    """Reference days of a version, oldest first. A watch keeps them while they are too few to learn from."""

    days: tuple[DayQuality, ...]
    slices: dict[str, tuple[DayQuality, ...]] = {}
    allowance: dict[str, float] = {}  # by kind of value, as in `learnt_values`


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """A watch over one version.

    The version's daily quality is compared with a reference, which is fixed ("anchored") when the version is promoted.
    """

    model: str
    version: str
    anchored_at_us: int
    figures: dict[str, MetricValue]  # the watched value for each kind of signal
    unwatched: dict[str, str] = {}  # kinds of signals that cannot be watched, each with the reason
    loss_cap: float = LOSS_CAP  # larger losses of a row count as this; in units of the metric
    first_day_us: int | None = None  # the first day that was compared; None: no day was compared yet
    last_day_us: int | None = None
    silent_days: int = 0  # the number of days with predictions since the newest day that had a label
    silent_since_us: int | None = None  # the first of these days; None: there are none
    unlisted: int = 0  # the number of labels of undeclared classes on all days
    # the highest severity of a signal about such labels; "no": none for seven days; see `_after` in quality.py
    unlisted_told: Literal["no", "info", "red"] = "no"
    unlisted_since_us: int | None = None  # the first of the days with such labels; None: as `unlisted_day`
    unlisted_day: DayQuality | None = None  # the newest day with such labels; None: there was none for seven days
    slices: dict[str, MetricValue] = {}  # the loss of each slice, such as "carrier=UA"
    slice_gaps: dict[str, MetricValue] = {}  # the calibration gap of each slice
    short: ShortReference | None = None  # the reference days, while they are too few to learn from  # D0223
    # the second reference: that of an earlier version, kept until seven days of this version are as good (see `met`),
    # and longer for kinds of values that have no reference of their own
    healthy: dict[str, MetricValue] = {}
    healthy_version: str | None = None  # the id of that earlier version
    healthy_cap: float | None = None  # the cap of the losses in the second reference; None: the cap of this version
    metric: str = ""  # the metric of the losses
    classes: tuple[str, ...] = ()  # the declared classes, sorted, if the model has several
    reference_loss: float | None = None  # mean loss of the reference days, in units of the cap; None: not known
    levels: dict[str, LossLevel] = {}  # the loss of the reference days, for all rows ("") and for each slice
    # after a change, the losses before it, for all rows ("") and slices, until this version is back at them  # D0224
    earlier_levels: dict[str, EarlierLevel] = {}
    short_of: dict[str, float] = {}  # for each kind, how much worse the reference is than the second
    # set if the version was promoted without an alarm: the beginning of the change that `short_of` shows. `short_of`
    # then counts as an alarm
    short_since: ChangeOnset | None = None
    # set if a person replaced a version during an alarm: when the quality had become worse. It is kept until days of
    # this version that began a week after the move are compared, or a person accepts the quality
    worse_since_us: int | None = None
    arm: str = ""  # "canary" or "shadow"; empty: the version in service
    # the watch over the version that this one replaced on a schedule, until that one's last days are closed # D0214
    earlier: Watch | None = None

    @property
    def alarming(self) -> bool:
        """Whether there is an alarm about all rows, from either reference. Alarms about slices do not count."""
        own = any(figure.alarming for figure in (*self.figures.values(), *self.healthy.values()))
        return own or self._short or (self.earlier is not None and self.earlier.alarming)

    @property
    def far(self) -> list[tuple[str, str, MetricValue]]:
        """The kind, slice and value of what was far from its reference on the newest day, if all rows have no alarm."""
        whole = [(kind, "", one) for kind, one in self.figures.items() if one.far()]
        slices = [(LOSS, name, one) for name, one in self.slices.items() if one.far(FAR_DAY_OF_SLICE)]
        slices.sort(key=lambda item: -item[2].state.newest[-1])
        return [] if self.alarming else whole + slices

    @property
    def _short(self) -> bool:
        return bool(self.short_of) and self.short_since is not None

    @property
    def days_before(self) -> int:
        """The number of days from the first one that was compared until the version was put in service."""
        return 0 if self.first_day_us is None else max(0, (self.anchored_at_us - self.first_day_us) // DAY_US)

    @property
    def onset(self) -> ChangeOnset | None:
        """The estimated beginning of the newest change that has an alarm; None if there is no alarm."""
        found = [onset for f in (*self.figures.values(), *self.healthy.values()) if (onset := self.onset_of(f))]
        if self.earlier is not None and self.earlier.onset is not None:
            found.append(self.earlier.onset)
        if self._short and self.short_since is not None and not found:
            found.append(self.short_since)
        return max(found, key=lambda onset: onset.at_us, default=None)

    @property
    def risen_us(self) -> int:
        """The newest day on which a further rise during an alarm was found; 0 if there was none."""
        risen_us = 0 if self.earlier is None else self.earlier.risen_us
        if self.first_day_us is None:
            return risen_us
        figures = [one for f in (*self.figures.values(), *self.healthy.values()) for one in f.rises[1:]]
        days = [one.state.alarm_day for one in figures if one.state.alarm_day is not None]
        return max((risen_us, *(self.first_day_us + (day - 1) * DAY_US for day in days)))

    @property
    def alarming_kinds(self) -> list[str]:
        """The kinds of watched values (such as the loss) that have an alarm."""
        own = [
            kind
            for kind in (*self.figures, *self.healthy)
            if any(kind in part and part[kind].alarming for part in (self.figures, self.healthy))
            or (self._short and kind in self.short_of)
        ]
        return list(dict.fromkeys(own if self.earlier is None else [*own, *self.earlier.alarming_kinds]))

    @property
    def slice_onsets(self) -> dict[str, ChangeOnset]:
        """For each slice that has an alarm, the estimated beginning of the newest change."""
        found: dict[str, ChangeOnset] = {} if self.earlier is None else self.earlier.slice_onsets
        for figures in (self.slices, self.slice_gaps):
            for name, figure in figures.items():
                onset = self.onset_of(figure)
                if onset is not None and (name not in found or found[name].at_us < onset.at_us):
                    found[name] = onset
        return found

    @property
    def changed_us(self) -> int | None:
        """When the data changed, if there is an alarm, or one that a person's move to another version has ended.

        A version that was worse from its first days on shows no change of the data.
        """
        onsets = [one for one in (self.onset, *self.slice_onsets.values()) if one is not None]
        found = [one.at_us for one in onsets if one.earliest_us > self.anchored_at_us + DAY_US]
        return min([*found, *([] if self.worse_since_us is None else [self.worse_since_us])], default=None)

    @property
    def provisional(self) -> bool:
        """Whether the reference has fewer than 28 days."""
        return any(figure.spec.reference_blocks < FULL_REFERENCE for figure in self.figures.values())

    def onset_of(self, figure: MetricValue) -> ChangeOnset | None:
        """Return the estimated beginning of the newest change of a value; None if it has no alarm."""
        latest = figure.latest
        return self.begun(latest) if latest.alarming else None

    def begun(self, figure: MetricValue) -> ChangeOnset | None:
        """Return when the change of a value most likely began, with or without an alarm; None: no day was compared."""
        onset = alarm_onset(figure.spec, figure.state)
        return None if onset is None or self.first_day_us is None else _dated(onset, self.first_day_us)


def learnt_values(
    kinds: Sequence[str],
    days: Sequence[DayQuality],
    run_length: float,
    allowance: Mapping[str, float],
    low: float = LOW,
) -> tuple[dict[str, MetricValue], dict[str, str]]:
    """Return the watched value of each kind, with its reference. Also return why some kinds cannot be watched.

    Args:
        days: The reference days, oldest first. Their rows were not used for training.
        run_length: At least this many days pass on average until a false alarm of one kind.
        allowance: For each kind, the distance from the reference up to which a value is no evidence, in units of the
            value. Half a percent of the loss is also allowed and, for the calibration of probabilities, the gap that
            adds a thousandth to the loss.
        low: As in `learn_alarm`.
    """
    usable = _whole_weeks([day for day in days if day.labelled])
    rows = [day.labelled for day in usable]
    excess = bool(usable) and all(day.expected_loss_sum is not None for day in usable)
    figures: dict[str, MetricValue] = {}
    unwatched: dict[str, str] = {}
    for kind in kinds:
        values = [value_of(kind, day, excess) for day in usable]
        direction: Direction = "both" if kind == CALIBRATION else "up"
        try:
            spec = learn_alarm(
                values,
                rows,
                run_length=run_length,
                direction=direction,
                allowance=allowance.get(kind, 0.0) + _harmless(kind, usable, excess),
                low=low,
            )
        except Misuse as error:  # too few reference days, or all values are equal
            unwatched[kind] = str(error)
        else:
            figure = MetricValue(spec=spec, excess=excess and kind != CALIBRATION)
            figures[kind] = _up_to_zero(figure) if kind == CALIBRATION or figure.excess else figure
    return figures, unwatched


def _harmless(kind: str, days: Sequence[DayQuality], excess: bool) -> float:
    """Return the distance from the reference, in units of the value, that costs only a small share of the loss.

    A gap g between mean score and mean label costs about g^2 / (2 p (1 - p)) of log loss, if p is the share of positive
    labels.
    """
    rows = sum(day.labelled for day in days)
    if not rows or (kind == CALIBRATION and not excess):
        return 0.0
    if kind != CALIBRATION:
        return _HARMLESS_LOSS * abs(sum(day.capped_loss_sum for day in days)) / rows
    share, loss = sum(day.label_sum for day in days) / rows, sum(day.loss_sum for day in days) / rows
    return math.sqrt(_HARMLESS_GAP * max(loss, 0.0) * 2.0 * share * (1.0 - share))


def learnt_slices(
    kind: str, slices: Mapping[str, Sequence[DayQuality]], run_length: float, allowance: Mapping[str, float]
) -> dict[str, MetricValue]:
    """Return the watched value of one kind for each slice whose reference days show how much it varies."""
    found = {
        name: learnt_values((kind,), days, run_length, allowance, _SLICE_LOW)[0].get(kind)
        for name, days in slices.items()
        if _varied(days)
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def _varied(days: Sequence[DayQuality]) -> bool:
    """Return whether the days show how much a day varies. If there are two outcomes, each must have come often enough.

    The result is False, for example, for a daily flight that was late twice in two months. The losses of its other days
    hardly differ, so the next days on which it is late would be many standard deviations from the mean.
    """
    if any(day.expected_loss_sum is None for day in days):  # scores are not probabilities
        return True
    rows, came = sum(day.labelled for day in days), sum(day.label_sum for day in days)
    return min(came, rows - came) >= _LEAST_OF_EACH


def advanced(figure: MetricValue, kind: str, day: DayQuality, skipped: int) -> MetricValue:
    """Return the value after one more closed day (a day whose wait for labels is over).

    Before this day, `skipped` days had no predictions.

    A sequential test (an e-detector) decides each day whether the value has left its reference. An alarm ends when the
    mean of the newest seven days with labels is back at the reference's mean. During an alarm, days are also compared
    with the mean since the change began, so that a further rise gives an alarm of its own.

    Source: `trimtab.stats.inference.edetector`.
    """
    state = figure.state
    for _ in range(skipped):
        state = update_alarm(figure.spec, state, 0.0, 0)
    value = value_of(kind, day, figure.excess) if day.labelled else math.nan
    state = update_alarm(figure.spec, state, value, 0 if math.isnan(value) else day.labelled)
    after = msgspec.structs.replace(figure, state=state)
    if not after.alarming:
        return after
    if met(after):
        return msgspec.structs.replace(after, state=AlarmState(days=state.days, last=state.last), worse=None)
    if not figure.alarming:
        return msgspec.structs.replace(after, worse=_risen(after))
    worse = None if figure.worse is None else advanced(figure.worse, kind, day, skipped)
    return msgspec.structs.replace(after, worse=worse)


def advanced_slice(figure: MetricValue, kind: str, day: DayQuality, skipped: int) -> MetricValue:
    """Do what `advanced` does, for a slice: fewer days are kept, and during an alarm no further rise is looked for."""
    after = advanced(msgspec.structs.replace(figure, worse=None), kind, day, skipped)
    return msgspec.structs.replace(after, state=newest_steps(after.spec, after.state, _SLICE_STEPS), worse=None)


def met(figure: MetricValue, *, after: int = 0) -> bool:
    """Return whether the newest seven days with labels after day number `after` are as good as the reference.

    Without an alarm, their mean must not be worse than the upper bound of the reference (`AlarmSide.baseline`). During
    an alarm, it must have come back to the reference's mean, or crossed it; for a gap, 0 is as good as that mean.
    """
    steps = figure.state.recent[-MET_DAYS:]
    if len(steps) < MET_DAYS or steps[0].day <= after:
        return False
    mean = sum(step.surprise for step in steps) / MET_DAYS
    if not figure.alarming:
        return all(side.sign * mean <= side.baseline for side in figure.spec.sides)
    above = alarm_level(figure.spec, figure.state).mean >= figure.spec.mean
    return mean <= max(0.0, figure.to_zero) if above else mean >= min(0.0, figure.to_zero)


def fresh(figures: Mapping[str, MetricValue]) -> dict[str, MetricValue]:
    """Return the values with their references and without evidence."""
    return {kind: msgspec.structs.replace(figure, state=AlarmState(), worse=None) for kind, figure in figures.items()}


def shortfalls(
    healthy: Mapping[str, MetricValue], days: Sequence[DayQuality], *, after_alarm: bool
) -> dict[str, float]:
    """Return by how much the mean of some days is worse than a reference, in units of the value.

    The result only has the kinds for which this is proven.

    Args:
        healthy: The watched values with their references, which are those of an earlier version.
        days: The reference days of the version that follows.
        after_alarm: Whether an alarm about the quality is open. Then one-sided 95 % is enough, otherwise 99.9 % is
            needed.
    """
    errors = _AFTER_ALARM if after_alarm else _WITHOUT_ALARM
    found: dict[str, float] = {}
    for kind, figure in healthy.items():
        values = [(value_of(kind, day, figure.excess), day.labelled) for day in days if day.labelled]
        # usual days have about twice `least_rows` rows; a day with fewer counts as a part of a day
        parts = [(value, min(1.0, rows / (2.0 * figure.spec.least_rows))) for value, rows in values if value == value]
        if parts:
            count = sum(part for _, part in parts)
            away = sum(value * part for value, part in parts) / count - figure.spec.mean
            whitened = away * (1.0 - figure.spec.correlation) / figure.spec.sd
            over = max(side.sign * whitened - side.baseline for side in figure.spec.sides)
            if over > errors / math.sqrt(count):
                found[kind] = abs(away)
    return found


def in_units_of(day: DayQuality, cap: float, other: float) -> DayQuality:
    """Return the day with its losses in units of the cap `other` instead of `cap`. They are not cut to `other`."""
    if cap == other:
        return day
    expected = None if day.expected_loss_sum is None else day.expected_loss_sum * cap / other
    return msgspec.structs.replace(day, capped_loss_sum=day.capped_loss_sum * cap / other, expected_loss_sum=expected)


def value_of(kind: str, day: DayQuality, excess: bool) -> float:
    """Return the watched value of a day with labels, per labelled row; NaN if an expected loss is missing."""
    if kind == CALIBRATION:
        return (day.score_sum - day.label_sum) / day.labelled
    expected = day.expected_loss_sum if excess else 0.0
    return (day.capped_loss_sum - (math.nan if expected is None else expected)) / day.labelled


def _risen(figure: MetricValue) -> MetricValue:
    """Return the value, whose alarm has just begun, with its mean since the change as the new reference."""
    spec = shifted_alarm(figure.spec, figure.state)
    return msgspec.structs.replace(figure, spec=spec, state=AlarmState(days=figure.state.days), to_zero=0.0, worse=None)


def _up_to_zero(figure: MetricValue) -> MetricValue:
    """Return the watched value, for which days between the reference's mean and 0 (the ideal value) are no evidence.

    For an excess loss, the bound moves by at most two standard errors. Luck explains no more: a model
    with a mean further below 0 is less sure than it could be.
    """
    spec = figure.spec
    to_zero, luck = -spec.mean * (1.0 - spec.correlation) / spec.sd, 2.0 / math.sqrt(spec.reference_blocks)
    towards = abs(to_zero)
    more = [min(max(towards - side.baseline, 0.0), luck) if figure.excess else towards for side in spec.sides]
    sides = tuple(
        msgspec.structs.replace(side, baseline=side.baseline + by) if side.sign * spec.mean < 0 else side
        for side, by in zip(spec.sides, more, strict=True)
    )
    spec = msgspec.structs.replace(spec, sides=sides)
    return msgspec.structs.replace(figure, spec=spec, to_zero=0.0 if figure.excess else to_zero)


def _whole_weeks(days: list[DayQuality]) -> list[DayQuality]:
    """Return the newest whole weeks, so that all weekdays occur equally often; of fewer than 14 days, return all."""
    return days if len(days) < 14 else days[len(days) % 7 :]


def _dated(onset: Onset, first_day_us: int) -> ChangeOnset:
    at_us, earliest_us, latest_us = (
        first_day_us + (day - 1) * DAY_US for day in (onset.day, onset.earliest, onset.latest)
    )
    return ChangeOnset(at_us=at_us, earliest_us=earliest_us, latest_us=latest_us)
