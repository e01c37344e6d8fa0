"""Quality with labels: one alarm on the daily excess loss, one on the daily calibration gap, per deployed version."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.records import LOSS_CAP, ChangeOnset, DayQuality, Signal
from trimtab.core.time import DAY_US, format_moment
from trimtab.stats.edetector import AlarmSpec, AlarmState, Direction, alarm_onset, learn_alarm, update_alarm
from trimtab.store.ports import Append, Catalog, Put

KIND = "quality_watch"
LOSS, CALIBRATION = "quality_loss", "quality_calibration"
SIGNALS = "signals"  # the journal of what rang
SILENT_DAYS = 2  # closed days in a row with predictions but not one label: the labels stopped
UNLISTED_SHARE = 0.01  # of a day's labels, from which on labels of no declared class are red


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One daily figure under watch: what healthy means, and how far the evidence has come."""

    spec: AlarmSpec
    state: AlarmState = AlarmState()
    excess: bool = False  # of the loss: whether it is what exceeds the expected loss; else the loss itself


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What stands watch over one version; anchored when it was promoted, never moved by what it then sees."""

    model: str
    version: str
    anchored_at_us: int
    figures: dict[str, Figure]  # by signal kind
    unwatched: dict[str, str] = {}  # by signal kind: why its reference cannot be used
    loss_cap: float = LOSS_CAP  # the most that one row can cost a day, in units of the metric
    first_day_us: int | None = None  # the first day observed
    last_day_us: int | None = None
    silent_days: int = 0
    unlisted: int = 0  # labels of no declared class in all days observed
    unlisted_told: Literal["no", "info", "red"] = "no"  # the most that was signalled of them

    @property
    def alarming(self) -> bool:
        """Whether any figure's alarm has rung since the watch was anchored."""
        return any(figure.state.alarm_day is not None for figure in self.figures.values())

    @property
    def onset(self) -> ChangeOnset | None:
        """When the change began that rang the alarm; None while all is quiet."""
        if self.first_day_us is None:
            return None
        found = [
            onset
            for f in self.figures.values()
            if f.state.alarm_day is not None and (onset := alarm_onset(f.spec, f.state)) is not None
        ]
        if not found:
            return None
        first = min(found, key=lambda onset: onset.day)
        at_us, earliest_us, latest_us = (
            self.first_day_us + (day - 1) * DAY_US for day in (first.day, first.earliest, first.latest)
        )
        return ChangeOnset(at_us=at_us, earliest_us=earliest_us, latest_us=latest_us)


class QualityMonitor:
    """Turns closed days of one model into signals; its whole state is one record of the catalogue.

    Where the scores are probabilities the loss watch bets on the *excess loss*: the loss minus the loss that the scores
    themselves expect. A season that the model knows, or requests that are harder to answer, move both alike.  # D0176

    Of several classes the calibration gap is that of the likeliest one: how often it is the label, against its mean
    chance. It lies in [-1, 1] a row like that of two classes, so that the stated run length holds as well.  # D0077

    Both figures together keep the stated run length: each is given twice as much (a union bound). A ranking has scores
    that are no chances, so the loss of its lists is watched alone. # D87
    """

    def __init__(self, catalog: Catalog, model: str, *, run_length_days: float, calibrated: bool = True) -> None:
        self._catalog = catalog
        self._model = model
        self._run_length = run_length_days
        self.kinds: tuple[str, ...] = (LOSS, CALIBRATION) if calibrated else (LOSS,)  # what there is to watch
        self.reload()

    @property
    def watch(self) -> Watch | None:
        """The watch that stands now; None before the first version was anchored."""
        return self._watch

    def reload(self) -> None:
        """Read the watch again: another process may have moved it."""
        record = self._catalog.get(KIND, self._model)
        self._revision = 0 if record is None else record.revision
        self._watch = None if record is None else msgspec.json.decode(record.body, type=Watch)

    def loss_cap(self, version: str) -> float:
        """The most that one row of a version can cost a day: fixed when its watch was anchored."""
        return self._watch.loss_cap if self._watch is not None and self._watch.version == version else LOSS_CAP

    def anchor(
        self, version: str, reference: Sequence[DayQuality], *, at_us: int, loss_cap: float = LOSS_CAP
    ) -> tuple[Watch, Put]:
        """A watch over `version` from out-of-sample days: its gate window, never its own live days.

        Nothing is stored: write the change together with what else says that the version is in service, then `reload`.

        Args:
            version: What will be watched.
            reference: Its days on the gate's window.
            at_us: The moment that it was made for service; days that were over by then are not its own.
            loss_cap: What the losses of `reference` were capped at; those of live days will be too.
        """
        usable = [day for day in reference if day.labelled]
        figures: dict[str, Figure] = {}
        unwatched: dict[str, str] = {}
        rows = [day.labelled for day in usable]
        run_length = len(self.kinds) * self._run_length
        excess = bool(usable) and all(day.expected_loss_sum is not None for day in usable)
        for kind in self.kinds:
            values = [_value(kind, day, excess) for day in usable]
            direction: Direction = "up" if kind == LOSS else "both"
            try:
                spec = learn_alarm(values, rows, run_length=run_length, direction=direction)
            except Misuse as error:  # too short or constant a reference
                unwatched[kind] = str(error)
            else:
                figures[kind] = Figure(spec=spec, excess=excess and kind == LOSS)
        watch = Watch(
            model=self._model,
            version=version,
            anchored_at_us=at_us,
            figures=figures,
            unwatched=unwatched,
            loss_cap=loss_cap,
        )
        return watch, self._put(watch)

    def observe(self, days: Sequence[DayQuality], *, now_us: int, also: Sequence[Put | Append] = ()) -> list[Signal]:
        """Take in closed days, oldest first; what rang because of them.

        The watch, the signals and the changes in `also` are stored in one write, so a crash keeps all or none. Days of
        other versions than the watched one, days that were over when the watch was anchored, and days that are not
        newer than the last, change nothing. Days without predictions in between pass without evidence.

        Raises:
            Conflict: Another process moved the watch meanwhile. Nothing was stored; `reload` before the next try.
        """
        before = after = self._watch
        signals: list[Signal] = []
        for day in days:
            if after is None or day.version != after.version or day.day_us + DAY_US <= after.anchored_at_us:
                continue
            if after.last_day_us is not None and day.day_us <= after.last_day_us:
                continue
            after, found = self._look(after, day, now_us)
            signals += found
        changes = [Append(SIGNALS, now_us, msgspec.json.encode(signal)) for signal in signals]
        moved = after is not None and after is not before
        if after is not None and moved:
            self._catalog.write([self._put(after), *changes, *also])
            self._watch, self._revision = after, self._revision + 1
        elif also:
            self._catalog.write(also)
        return signals

    def _look(self, watch: Watch, day: DayQuality, now_us: int) -> tuple[Watch, list[Signal]]:
        skipped = 0 if watch.last_day_us is None else (day.day_us - watch.last_day_us) // DAY_US - 1
        figures = {kind: self._advance(kind, figure, day, skipped) for kind, figure in watch.figures.items()}
        silent = watch.silent_days + 1 if day.predictions and not day.labelled + day.unlisted else 0
        told = _unlisted_severity(watch, day)
        after = msgspec.structs.replace(
            watch,
            figures=figures,
            first_day_us=day.day_us if watch.first_day_us is None else watch.first_day_us,
            last_day_us=day.day_us,
            silent_days=silent,
            unlisted=watch.unlisted + day.unlisted,
            unlisted_told=told or watch.unlisted_told,
        )
        rung = [
            kind
            for kind, figure in figures.items()
            if figure.state.alarm_day is not None and watch.figures[kind].state.alarm_day is None
        ]
        signals = [self._quality_signal(after, kind, day, now_us) for kind in rung]
        if silent == SILENT_DAYS:
            signals.append(self._silence_signal(after, day, now_us))
        if told is not None:
            signals.append(self._unlisted_signal(after, day, told, now_us))
        return after, signals

    @staticmethod
    def _advance(kind: str, figure: Figure, day: DayQuality, skipped: int) -> Figure:
        state = figure.state
        for _ in range(skipped):
            state = update_alarm(figure.spec, state, 0.0, 0)
        value = _value(kind, day, figure.excess) if day.labelled else math.nan
        rows = 0 if math.isnan(value) else day.labelled
        return msgspec.structs.replace(figure, state=update_alarm(figure.spec, state, value, rows))

    def _quality_signal(self, watch: Watch, kind: str, day: DayQuality, now_us: int) -> Signal:
        figure = watch.figures[kind]
        onset = alarm_onset(figure.spec, figure.state)
        assert onset is not None  # an alarm has days
        assert watch.first_day_us is not None  # set by `observe`
        onset_us = watch.first_day_us + (onset.day - 1) * DAY_US
        what = "gap between predicted and true rate"
        if kind == LOSS:
            what = "daily loss in excess of what the scores expect" if figure.excess else "daily loss"
        return Signal(
            id=f"{kind}/{watch.model}/{watch.version[:12]}/{day.day_us}",
            kind=kind,
            model=watch.model,
            version=watch.version,
            raised_at_us=now_us,
            onset_us=onset_us,
            severity="red",
            evidence={
                "log_evidence": figure.state.log_evidence,
                "run_length_days": figure.spec.run_length,
                "reference_mean": figure.spec.mean,
                "reference_days": float(figure.spec.reference_blocks),
            },
            message=f"The {what} left the level of its reference, since about {format_moment(onset_us)[:10]}.",
        )

    @staticmethod
    def _silence_signal(watch: Watch, day: DayQuality, now_us: int) -> Signal:
        since_us = day.day_us - (SILENT_DAYS - 1) * DAY_US
        since, alike = format_moment(since_us)[:10], day.predictions - day.missing  # alike: of a ranking only
        message = f"No label has come for any prediction since {since}. Is the feed down?"
        if alike:
            message = f"No list since {since} tells what should come first: {alike} had all labels, all alike."
        return Signal(
            id=f"no_labels/{watch.model}/{watch.version[:12]}/{day.day_us}",
            kind="no_labels",
            model=watch.model,
            version=watch.version,
            raised_at_us=now_us,
            onset_us=since_us,
            severity="red",
            evidence={"days": float(SILENT_DAYS), "predictions": float(day.predictions)},
            message=message,
        )

    @staticmethod
    def _unlisted_signal(watch: Watch, day: DayQuality, severity: Literal["info", "red"], now_us: int) -> Signal:
        known = day.labelled + day.unlisted
        return Signal(
            id=f"unlisted_labels/{watch.model}/{watch.version[:12]}/{day.day_us}",
            kind="unlisted_labels",
            model=watch.model,
            version=watch.version,
            raised_at_us=now_us,
            onset_us=day.day_us,
            severity=severity,
            evidence={"unlisted": float(day.unlisted), "labels": float(known)},
            message=f"{day.unlisted} of {known} labels of {format_moment(day.day_us)[:10]} are none of the declared "
            "classes; they are neither judged nor learnt from. Add the new class to tt.label(..., classes=[...]) and "
            "train, or mend the label's expression.",
        )

    def _put(self, watch: Watch) -> Put:
        return Put(KIND, watch.model, msgspec.json.encode(watch), expected=self._revision)


def _value(kind: str, day: DayQuality, excess: bool) -> float:
    """The watched value of a day with labels, per labelled row; NaN where an expected loss is missing."""
    if kind == CALIBRATION:
        return (day.score_sum - day.label_sum) / day.labelled
    expected = day.expected_loss_sum if excess else 0.0
    return (day.capped_loss_sum - (math.nan if expected is None else expected)) / day.labelled


def _unlisted_severity(watch: Watch, day: DayQuality) -> Literal["info", "red"] | None:
    """What is to be said of a day's labels of no declared class: each severity once for a version.  # D90"""
    if not day.unlisted or watch.unlisted_told == "red":
        return None
    if day.unlisted >= UNLISTED_SHARE * (day.labelled + day.unlisted):
        return "red"
    return "info" if watch.unlisted_told == "no" else None
