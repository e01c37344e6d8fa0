"""Quality with labels: one alarm on the daily loss, one on the daily calibration gap, per deployed version."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.records import DayQuality, Signal
from trimtab.core.time import DAY_US, format_moment
from trimtab.stats.edetector import AlarmSpec, AlarmState, alarm_onset, learn_alarm, update_alarm
from trimtab.store.ports import Catalog, Put

KIND = "quality_watch"
SILENT_DAYS = 2  # closed days in a row with predictions but not one label: the labels stopped


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One daily figure under watch: what healthy means, and how far the evidence has come."""

    spec: AlarmSpec
    state: AlarmState = AlarmState()


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What stands watch over one version; anchored when it was promoted, never moved by what it then sees."""

    model: str
    version: str
    anchored_at_us: int
    figures: dict[str, Figure]  # by signal kind; empty while the reference was too short
    first_day_us: int | None = None  # the first day observed
    last_day_us: int | None = None
    silent_days: int = 0

    @property
    def alarming(self) -> bool:
        """Whether any figure's alarm has rung since the watch was anchored."""
        return any(figure.state.alarm_day is not None for figure in self.figures.values())

    @property
    def onset_us(self) -> int | None:
        """The estimated beginning of the change that rang the alarm; None while all is quiet."""
        if self.first_day_us is None:
            return None
        days = [
            onset.day
            for f in self.figures.values()
            if f.state.alarm_day is not None and (onset := alarm_onset(f.spec, f.state)) is not None
        ]
        return self.first_day_us + (min(days) - 1) * DAY_US if days else None


class QualityMonitor:
    """Turns closed days of one model into signals; its whole state is one record of the catalogue.

    Both figures together keep the stated run length: each is given twice as much (a union bound).
    """

    def __init__(self, catalog: Catalog, model: str, *, run_length_days: float) -> None:
        self._catalog = catalog
        self._model = model
        self._run_length = run_length_days
        record = catalog.get(KIND, model)
        self._watch = None if record is None else msgspec.json.decode(record.body, type=Watch)

    @property
    def watch(self) -> Watch | None:
        """The watch that stands now; None before the first version was anchored."""
        return self._watch

    def anchor(self, version: str, reference: Sequence[DayQuality], *, at_us: int) -> Watch:
        """Begin a watch over `version` from out-of-sample days: its gate window, never its own live days."""
        usable = [day for day in reference if day.labelled]
        figures: dict[str, Figure] = {}
        rows = [day.labelled for day in usable]
        for kind, values, direction in (
            ("quality_loss", [day.capped_loss_sum / day.labelled for day in usable], "up"),
            ("quality_calibration", [(day.score_sum - day.label_sum) / day.labelled for day in usable], "both"),
        ):
            try:
                spec = learn_alarm(values, rows, run_length=2 * self._run_length, direction=direction)  # type: ignore[arg-type]  # a Literal from the tuple
            except Misuse:  # too short or constant a reference: shown as "no watch", which is red
                continue
            figures[kind] = Figure(spec=spec)
        watch = Watch(model=self._model, version=version, anchored_at_us=at_us, figures=figures)
        self._save(watch)
        return watch

    def observe(self, day: DayQuality, *, now_us: int) -> list[Signal]:
        """Take in one closed day of the watched version; what rang because of it.

        Days come once and in order: one that is not newer than the last is ignored, so a repeat after a crash
        changes nothing. Days without predictions in between pass without evidence.
        """
        watch = self._watch
        if watch is None or day.version != watch.version:
            return []
        if watch.last_day_us is not None and day.day_us <= watch.last_day_us:
            return []
        skipped = 0 if watch.last_day_us is None else (day.day_us - watch.last_day_us) // DAY_US - 1
        figures = {kind: self._advance(kind, figure, day, skipped) for kind, figure in watch.figures.items()}
        silent = watch.silent_days + 1 if day.predictions and not day.labelled else 0
        after = msgspec.structs.replace(
            watch,
            figures=figures,
            first_day_us=day.day_us if watch.first_day_us is None else watch.first_day_us,
            last_day_us=day.day_us,
            silent_days=silent,
        )
        self._save(after)
        rung = [
            kind
            for kind, figure in figures.items()
            if figure.state.alarm_day is not None and watch.figures[kind].state.alarm_day is None
        ]
        signals = [self._quality_signal(after, kind, day, now_us) for kind in rung]
        if silent == SILENT_DAYS:
            signals.append(self._silence_signal(after, day, now_us))
        return signals

    @staticmethod
    def _advance(kind: str, figure: Figure, day: DayQuality, skipped: int) -> Figure:
        state = figure.state
        for _ in range(skipped):
            state = update_alarm(figure.spec, state, 0.0, 0)
        value = 0.0
        if day.labelled:
            total = day.capped_loss_sum if kind == "quality_loss" else day.score_sum - day.label_sum
            value = total / day.labelled
        return Figure(spec=figure.spec, state=update_alarm(figure.spec, state, value, day.labelled))

    def _quality_signal(self, watch: Watch, kind: str, day: DayQuality, now_us: int) -> Signal:
        figure = watch.figures[kind]
        onset = alarm_onset(figure.spec, figure.state)
        assert onset is not None  # an alarm has days
        assert watch.first_day_us is not None  # set by `observe`
        onset_us = watch.first_day_us + (onset.day - 1) * DAY_US
        what = "daily loss" if kind == "quality_loss" else "gap between predicted and true rate"
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
        return Signal(
            id=f"no_labels/{watch.model}/{watch.version[:12]}/{day.day_us}",
            kind="no_labels",
            model=watch.model,
            version=watch.version,
            raised_at_us=now_us,
            onset_us=since_us,
            severity="red",
            evidence={"days": float(SILENT_DAYS), "predictions": float(day.predictions)},
            message=f"No label has come for any prediction since {format_moment(since_us)[:10]}. Is the feed down?",
        )

    def _save(self, watch: Watch) -> None:
        self._catalog.write([Put(KIND, watch.model, msgspec.json.encode(watch))])
        self._watch = watch
