"""The monitor of inputs: takes logged predictions, closes hours, and checks columns, sources, labels and traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Conflict
from trimtab.core.records import DayQuality, Prediction, Signal
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.events.columns.frames import EventFrame
from trimtab.feedback.blocks import day_qualities
from trimtab.monitoring.inputs.checks.columns import column_findings, lost_columns
from trimtab.monitoring.inputs.checks.findings import KINDS, LONGEST_H, Finding, Known, found_once
from trimtab.monitoring.inputs.checks.labels import label_findings, lacking_days
from trimtab.monitoring.inputs.checks.shapes import shape_findings
from trimtab.monitoring.inputs.checks.traffic import KEPT_H, traffic_findings
from trimtab.monitoring.inputs.input_hours import HourCounts, Layout, merged, outside, summarise_rows
from trimtab.monitoring.inputs.input_state import InputWatch, WatchStore, hour_of
from trimtab.monitoring.inputs.open_traffic import OpenTraffic
from trimtab.monitoring.inputs.profile_distances import HOURS, ColumnDistance, column_distances
from trimtab.monitoring.inputs.red_windows import Reach, RedWindow, red_windows, window_changes, with_late_labels
from trimtab.monitoring.inputs.source_checks import SourceChecks
from trimtab.monitoring.inputs.watched_version import Reading, WatchedVersion
from trimtab.monitoring.profiles.input_rows import Rows
from trimtab.monitoring.profiles.profile_records import InputProfile
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.monitoring.quality import loss_estimates
from trimtab.monitoring.quality.loss_estimates import EstimatedDays, EstimatedSums
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.monitoring.signals import Settled, listed_signals, settle, stored
from trimtab.registry import Registry
from trimtab.serving.answer.answering import PAST
from trimtab.serving.arms.arms import SHADOW
from trimtab.store.ports import Append, Catalog, Put, Remove
from trimtab.training.data.sets import LABEL_FAULTS
from trimtab.training.definitions import Model

GRACE_US = 5 * MINUTE_US  # an hour is closed this long after its end, because answers may be logged late
_AGAIN_US = 5 * MINUTE_US  # the current hour is checked again after this time
_SAMPLES = 4_000  # at most this many sampled rows are kept in all hours together
_LIVE = frozenset(("live", "online", "replay"))


class Counts(msgspec.Struct, frozen=True, eq=False):
    """Summaries of predictions by hour (counted since 1970)."""

    hours: Mapping[int, HourCounts]
    estimated: Mapping[int, EstimatedSums]  # empty: the losses of the version cannot be estimated


_Standing: TypeAlias = Mapping[tuple[str, str], Signal]  # signals by kind and subject
_Changes: TypeAlias = list[Put | Remove | Append]


class InputMonitor:
    """Watches the requests of one model, and the data from which its features are computed.

    `add` takes logged predictions, each once. Closed hours and signals are stored in one write; open hours are only in
    memory. So after a restart or a `reload`, give all predictions since `read_from_us` again. Predictions of closed
    hours change nothing.

    Args:
        catalog: Stores the hours and the signals.
        registry: Says which version is in service.
        frame_of: Returns the events of the source with a given name.
        now_us: The time at which the monitor begins.
        owner: The owner of the monitor's signals.
        known: Findings that monitors of the same events and requests share; see `found_once`.
    """

    estimates_red = False  # whether the signal that the estimated loss has risen is red

    def __init__(
        self,
        catalog: Catalog,
        model: Model,
        *,
        profiles: Profiles,
        registry: Registry,
        frame_of: Callable[[str], EventFrame],
        now_us: int,
        owner: str | None = None,
        known: Known | None = None,
    ) -> None:
        self._owner = owner
        self._known = known
        self._catalog = catalog
        self._model = model
        self._store = WatchStore(catalog, model.name)
        self._reach = Reach.of(model)
        self._newest_us = now_us
        self._watched = WatchedVersion(model.name, registry, profiles, catalog)
        self._sources = SourceChecks(model, frame_of, known)
        self._hours: dict[int, HourCounts] = {}  # closed hours of the newest week
        self.reload()

    @property
    def unprofiled(self) -> str | None:
        """Why the columns of the version in service are not checked; None if they are checked."""
        return self._watched.unprofiled

    @property
    def read_from_us(self) -> int:
        """Predictions since this time must be given to `add`, and given again after a restart or a `reload`."""
        return max(self._watch.closed_until_us, self._newest_us - KEPT_H * HOUR_US)

    def reload(self) -> None:
        """Forget the open hours, and read the stored state again."""
        self._watch, self._revision = self._store.watch()
        self._open: dict[int, HourCounts] = {}
        self._estimated: dict[int, EstimatedSums] = {}  # of open hours
        self._traffic = OpenTraffic(self._model.request, self._watch.last_us)
        self._looked_us: int | None = None
        self._seen: tuple[str, int, int] | None = None  # the rows that the findings in `_columns` are about
        self._columns: list[Finding] = []
        self._read_hours()

    def unseen_days(self, until_us: int) -> list[DayQuality]:
        """Return the closed days before `until_us` that were never given to `look`, because a process ended first."""
        self._refresh()
        if not self._watch.days:
            return []
        from_us = max(day.day_us for day in self._watch.days) + DAY_US
        return day_qualities(stored_days(self._catalog, self._model.name, from_us=from_us, until_us=until_us))

    def add(self, block: Sequence[Prediction]) -> None:
        """Add predictions that were logged."""
        since_us, name = self.read_from_us, self._model.name
        rows = [
            p
            for p in block
            if p.made_at_us >= since_us and p.model == name and p.arm != SHADOW and not (p.flags and PAST in p.flags)
        ]
        if not rows:
            return
        live = [p for p in rows if p.mode in _LIVE]
        if live:
            self._traffic.add(live)
        if self._watched.has_unread({p.version for p in rows}):
            self.follow()
        reading = self._watched.reading
        if reading is None:
            return
        recent_us, inputs = self._newest_us - LONGEST_H * HOUR_US, reading.reader.inputs
        mine = [
            p
            for p in rows
            if p.version == reading.version
            and p.made_at_us >= recent_us
            and not (p.flags and p.is_degraded)
            and (p.mode in _LIVE or p.at_us >= p.made_at_us)
            and len(p.values) == 8 * inputs
            and len(p.reasons) == inputs
        ]
        if mine:
            made_at_us = np.array([p.made_at_us for p in mine], np.int64)
            scores = np.array([p.score for p in mine])
            self._take(counts_of(reading, reading.reader.read(mine), made_at_us, [p.id for p in mine], scores))

    def add_live(
        self,
        version: str,
        made_at_us: NDArray[np.int64],
        ids: NDArray[np.int64],
        questions: NDArray[np.int64],
        counted: Callable[[Reading], Counts],
    ) -> None:
        """Like `add`, for answers to live requests that are in columns already.

        Args:
            version: The version that gave the answers.
            made_at_us: When the answers were made, shape (rows,).
            ids: The hashes of the ids of their requests, by `text_hashes`, shape (rows,).
            questions: The hashes of the requests, by `question_hashes`, shape (rows,).
            counted: Returns what `counts_of` does. It is only called if `version` is in service and has a profile.
        """
        if not made_at_us.size:
            return
        self._traffic.add_columns(made_at_us, ids, questions)
        if self._watched.has_unread({version}):
            self.follow()
        reading = self._watched.reading
        if reading is not None and reading.version == version:
            self._take(counted(reading))

    def _take(self, counted: Counts) -> None:
        for hour, counts in counted.hours.items():
            before = self._open.get(hour)
            self._open[hour] = counts if before is None else merged((before, counts))
        for hour, sums in counted.estimated.items():
            known = self._estimated.get(hour)
            self._estimated[hour] = sums if known is None else loss_estimates.added(known, sums)

    def look(self, now_us: int, closed: Sequence[DayQuality] = ()) -> Settled:
        """Close the hours that are over, check the newest hours, and return the signals that began and ended.

        All changes are stored in one write.

        Args:
            closed: Days that were closed since the last look.

        Raises:
            Conflict: Another process has stored a newer state meanwhile. Nothing was stored by this call. Call
                `reload`, and give the predictions since `read_from_us` again.
        """
        self._newest_us = max(self._newest_us, now_us)
        until_us = (now_us - GRACE_US) // HOUR_US * HOUR_US
        over = sorted(hour for hour in self._open_hours() if hour * HOUR_US < until_us)
        due = self._looked_us is None or now_us - self._looked_us >= _AGAIN_US
        if not over and not closed and not due:
            return Settled()
        self._refresh()
        self.follow()
        over = [hour for hour in over if hour in self._open_hours()]
        watch, changes = self._closing(over, until_us, now_us, closed)
        listed = listed_signals(self._catalog, self._model.name)
        stand = [one for one in listed if one.ended_at_us is None and (one.severity == "red" or one.kind == "shape")]
        found = self._findings(watch, now_us, {(one.kind, one.subject): one for one in stand})
        version = self._watched.version or ""
        signals = self._caused([one.signal(self._model.name, version, now_us) for one in found])
        if watch.estimated is not None and watch.estimated.watch.version == version:
            signals += loss_estimates.estimated_signals(watch.estimated, now_us, red=self.estimates_red)
        of_estimates = [one for one in listed if one.kind == loss_estimates.SIGNAL and one.ended_at_us is None]
        replaced = any(one.version != version for one in of_estimates)
        because = {loss_estimates.SIGNAL: "another version was put in service"} if replaced else None
        kinds = (*KINDS, loss_estimates.SIGNAL)
        settled = settle(listed, kinds, signals, now_us=now_us, because=because, owner=self._owner)
        windows = window_changes(self._catalog, settled.begun, settled.ended, reach=self._reach)
        late = self._with_late_labels(now_us) if over or closed else []
        self._write(watch, [*changes, *stored(settled, now_us), *windows, *late], over)
        self._looked_us = now_us
        return settled

    def _caused(self, signals: Sequence[Signal]) -> list[Signal]:
        """Name red signals about a source as the cause of those about features that are computed from its events."""
        source_of = {
            f"column {join.name}.{feature}": join.view.source.name
            for join in self._model.features.joins
            for feature in join.view.features
        }
        causes = {
            one.subject.partition(" ")[2].partition(".")[0]: f"{one.kind} of {one.subject}"
            for one in signals
            if one.severity == "red" and one.subject not in source_of and (one.kind == "range" or "feed_" in one.kind)
        }
        return [msgspec.structs.replace(one, cause=causes.get(source_of.get(one.subject, ""))) for one in signals]

    def _with_late_labels(self, now_us: int) -> _Changes:
        if self._watched.reading is None:
            return []
        lacking_of = partial(lacking_days, labels=self._watched.reading.layout.profile.labels)
        came = partial(self._sources.caught_up, now_us)
        return list(with_late_labels(self._catalog, self._model.name, lacking_of, came, reach=self._reach))

    def _open_hours(self) -> set[int]:
        return {*self._traffic.hours, *self._open}

    def _write(self, watch: InputWatch, changes: _Changes, over: list[int]) -> None:
        if changes or watch != self._watch:
            try:
                self._catalog.write([self._store.put(watch, self._revision), *changes])
            except Conflict:
                self._refresh()
                raise
            self._watch, self._revision = watch, self._revision + 1
        for hour in over:
            self._traffic.drop(hour)
            self._estimated.pop(hour, None)
            counts = self._open.pop(hour, None)
            if counts is not None:
                self._hours[hour] = counts
        if over:
            self._hours = {hour: one for hour, one in self._hours.items() if hour >= over[-1] - LONGEST_H}

    def _closing(
        self, over: list[int], until_us: int, now_us: int, closed: Sequence[DayQuality]
    ) -> tuple[InputWatch, _Changes]:
        """Return the state after some hours are closed, and changes that store, shorten or remove hourly summaries."""
        traffic, reading = dict(self._watch.traffic), self._watched.reading
        changes: _Changes = []
        for hour in over:
            counts, counted = self._open.get(hour), self._traffic.counted(hour)
            profile = None if reading is None else reading.layout.profile
            if profile is not None and counts is not None and lost_columns(profile, counts, counted.questions):
                # without the values of a column, different questions look equal, so they are not counted
                counted = msgspec.structs.replace(counted, questions=0, asked_again=0)
            traffic[hour] = counted
            if counts is not None and self._watched.version is not None:
                changes.append(self._store.put_hour(hour, self._watched.version, counts))
        if over:
            changes += self._without_samples(over[-1] - LONGEST_H)
        oldest = hour_of(now_us) - KEPT_H
        for hour in list(takewhile(lambda hour: hour < oldest, traffic)):  # hours are in order
            del traffic[hour]
            changes.append(self._store.remove_hour(hour))
        days = [*self._watch.days, *closed]
        return (
            InputWatch(
                closed_until_us=max(until_us, self._watch.closed_until_us) if over else self._watch.closed_until_us,
                last_us=self._traffic.last_us if over else self._watch.last_us,
                traffic=traffic,
                days=[day for day in days if day.day_us >= now_us - KEPT_H * HOUR_US] if closed else self._watch.days,
                columns=self._distances(over) if over else self._watch.columns,
                estimated=self._with_estimates(over, until_us, now_us),
            ),
            changes,
        )

    def _with_estimates(self, over: list[int], until_us: int, now_us: int) -> EstimatedDays | None:
        """Return the estimated losses of the version in service, with hours that are over.

        If it has none, those of the last version that had them are returned. Hours with inputs that are known to be
        faulty are left out. A day is compared with the reference once its last hour is over.
        """
        reading, known = self._watched.reading, self._watch.estimated
        if reading is None or reading.estimate is None:
            return known
        if known is None or known.watch.version != reading.version:
            learnt_until_us = self._model.label.final_until(reading.cut_us)
            known = loss_estimates.begin(
                self._model.name,
                reading.version,
                reading.estimate,
                now_us,
                before=known,
                learnt_until_us=learnt_until_us,
            )
        red = [one for one in red_windows(self._catalog, self._model.name) if self._of_inputs(one)] if over else []
        hours = [
            (hour, self._estimated[hour])
            for hour in over
            if hour in self._estimated and not any(one.covers(hour * HOUR_US) for one in red)
        ]
        return loss_estimates.with_hours(known, hours, until_us)

    def _of_inputs(self, window: RedWindow) -> bool:
        """Return whether a red window is about inputs, and not about labels alone."""
        label, sources = self._model.label.source.name, {one.source.name for one in self._model.features.views}
        of_label = window.subject.partition(",")[0] == f"source {label}" and label not in sources
        return window.kind not in LABEL_FAULTS and not of_label

    def _distances(self, over: list[int]) -> dict[str, ColumnDistance]:
        """Return the distances of the columns in the newest closed hours, which include the hours in `over`."""
        reading = self._watched.reading
        if reading is None:
            return {}
        closed = {**self._hours, **{hour: self._open[hour] for hour in over if hour in self._open}}
        return column_distances(reading.layout, [one for hour, one in closed.items() if hour > over[-1] - HOURS])

    def _without_samples(self, oldest: int) -> _Changes:
        """Drop the sampled rows of older hours. They take most of the space, and only new hours need them."""
        changes: _Changes = []
        kept = sum(len(one.marks) for one in self._open.values())
        sampled = [hour for hour, one in self._hours.items() if len(one.marks)]
        for hour in sorted(sampled, reverse=True):
            kept += len(self._hours[hour].marks)
            if (kept > _SAMPLES or hour < oldest) and self._watched.version is not None:
                self._hours[hour] = self._hours[hour].without_sample
                changes.append(self._store.put_hour(hour, self._watched.version, self._hours[hour]))
        return changes

    def _findings(self, watch: InputWatch, now_us: int, standing: _Standing) -> list[Finding]:
        """Return all present findings; none if there was no request in the newest 60 days."""
        if not watch.traffic and not self._traffic.hours:
            return []
        reading = self._watched.reading
        found = traffic_findings(
            watch.traffic,
            now_us,
            self._traffic.last_us,
            None if reading is None else reading.layout.profile,
            doubled=("traffic_doubled", "traffic") in standing,
            repeated=("duplicates", "traffic") in standing,
            is_repeating=self._is_repeating,
        )
        stopped = any(one.kind == "traffic_stopped" for one in found)
        checked_us = self._watch.closed_until_us if self._looked_us is None else self._looked_us
        windows = red_windows(self._catalog, self._model.name)
        found += self._sources.findings(now_us, checked_us, stopped=stopped, windows=windows)
        if reading is not None:
            found += [] if stopped else self._of_columns(reading, now_us, standing)
            found += self._of_labels(watch, reading.layout.profile)
        return found

    def _is_repeating(self) -> Callable[[int], bool]:
        """Return a function that says of a time whether requests of that time were found to be repeated."""
        windows = [one for one in red_windows(self._catalog, self._model.name) if one.kind == "duplicates"]
        return lambda at_us: any(window.covers(at_us) for window in windows)

    def _of_columns(self, reading: Reading, now_us: int, standing: _Standing) -> list[Finding]:
        """Return the findings about columns in the newest week. They are only computed again if rows have come."""
        oldest = hour_of(now_us) - LONGEST_H
        hours = {h: one for h, one in {**self._hours, **self._open}.items() if h >= oldest and one.rows}
        seen = (reading.version, min(hours, default=0), sum(one.rows for one in hours.values()))
        if seen != self._seen:
            find = partial(_found_in, reading.layout, hours, standing)
            self._columns = found_once(self._known, (seen, frozenset(standing)), find)
            self._seen = seen
        return self._columns

    def _of_labels(self, watch: InputWatch, profile: InputProfile) -> list[Finding]:
        if self._model.task == "ranking":
            return []
        mine = by_day([day for day in watch.days if day.version == self._watched.version])
        subject = f"labels of {self._model.label.source.name}"
        find = partial(label_findings, labels=profile.labels, subject=subject, task=self._model.task)
        missing = [one for one in find(mine) if one.kind == "labels_missing"]
        every = find(by_day(watch.days))  # the values of labels depend on no version
        return missing + [one for one in every if one.kind != "labels_missing"]

    def follow(self) -> None:
        """Read which version is in service. If it has changed, use the profile and the hours of the new version."""
        if self._watched.follow():
            self._open, self._estimated = {}, {}
            self._read_hours()

    def _refresh(self) -> None:
        """If another process closed hours, read its state. Both read one log, so they have the same open hours."""
        if self._store.revision() == self._revision:
            return
        self._watch, self._revision = self._store.watch()
        for hour in [hour for hour in self._open_hours() if hour * HOUR_US < self._watch.closed_until_us]:
            self._traffic.drop(hour)
            self._open.pop(hour, None)
            self._estimated.pop(hour, None)
        self._read_hours()

    def _read_hours(self) -> None:
        self._hours, reading = {}, self._watched.reading
        if reading is not None:
            oldest = hour_of(self._newest_us) - LONGEST_H
            hours = [hour for hour in self._watch.traffic if hour >= oldest]
            self._hours = self._store.hours(hours, reading.version, reading.layout)


def by_day(days: Sequence[DayQuality]) -> list[DayQuality]:
    """Return the sums of each day over all versions that answered on it, oldest first. Labels belong to no version."""
    found: dict[int, DayQuality] = {}
    for day in sorted(days, key=lambda one: one.day_us):
        known = found.get(day.day_us)
        summed = ("predictions", "labelled", "missing", "label_sum", "score_sum")
        sums = {} if known is None else {name: getattr(known, name) + getattr(day, name) for name in summed}
        classes = {} if known is None else dict(known.classes)
        for name, (labels, scores) in day.classes.items():
            before = classes.get(name, (0.0, 0.0))
            classes[name] = before[0] + labels, before[1] + scores
        found[day.day_us] = msgspec.structs.replace(day, **sums, classes=classes)
    return list(found.values())


def counts_of(
    reading: Reading, rows: Rows, made_at_us: NDArray[np.int64], ids: Sequence[str], scores: NDArray[np.float64]
) -> Counts:
    """Summarise predictions of the version in service by the hour in which they were made.

    Args:
        ids: The ids of the predictions.
        scores: Their scores; NaN: another version answered, and no loss is estimated.
    """
    hours = summarise_rows(reading.layout, rows, made_at_us, ids)
    if reading.estimate is None:
        return Counts(hours, {})
    answered = ~np.isnan(scores)
    losses = reading.estimate.losses(scores[answered], rows.values[answered, : reading.reader.inputs])
    unknown = outside(reading.layout, rows)[answered]
    return Counts(hours, loss_estimates.sums_by_hour(made_at_us[answered] // HOUR_US, losses, unknown))


def _found_in(layout: Layout, hours: Mapping[int, HourCounts], standing: _Standing) -> list[Finding]:
    """Return the findings about columns, without extreme numbers that another unit explains."""
    shapes = shape_findings(layout, hours, standing)
    units = {one.subject for one in shapes if one.kind == "units"}
    columns = column_findings(layout.profile, hours, standing)
    return [one for one in columns if one.kind != "range" or one.subject not in units] + shapes
