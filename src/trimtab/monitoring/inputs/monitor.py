"""The monitor of inputs: takes logged predictions, closes hours, says what is wrong with columns, feeds and traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Conflict
from trimtab.core.records import DayQuality, Prediction, Signal
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.events.columns.frames import EventFrame
from trimtab.monitoring.inputs.column_checks import column_findings, lost_columns
from trimtab.monitoring.inputs.event_values import NEWEST_US, value_findings
from trimtab.monitoring.inputs.feeds import Arrivals, feed_findings
from trimtab.monitoring.inputs.findings import KINDS, LONGEST_H, Finding
from trimtab.monitoring.inputs.input_hours import HourCounts, Layout, summarise, text_hashes
from trimtab.monitoring.inputs.input_state import InputWatch, WatchStore, hour_of
from trimtab.monitoring.inputs.label_checks import label_findings
from trimtab.monitoring.inputs.profile_distances import HOURS, ColumnDistance, column_distances
from trimtab.monitoring.inputs.question_hashes import aside_of, question_hashes
from trimtab.monitoring.inputs.red_windows import Reach, RedWindow, red_windows, window_changes
from trimtab.monitoring.inputs.shape_checks import shape_findings
from trimtab.monitoring.inputs.traffic import KEPT_H, TrafficHour, traffic_findings
from trimtab.monitoring.profiles.input_rows import ColumnPlan, RowReader, planned
from trimtab.monitoring.profiles.profile_records import InputProfile
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.monitoring.signals import Settled, listed_signals, settle, stored
from trimtab.registry import Registry, Version
from trimtab.registry.protection import CHAMPION
from trimtab.serving.answer.answering import PAST
from trimtab.serving.arms.arms import SHADOW
from trimtab.store.ports import Append, Catalog, Put, Remove
from trimtab.training.definitions import Model

GRACE_US = 5 * MINUTE_US  # after an hour's end, for answers that are logged late
_AGAIN_US = 5 * MINUTE_US  # between two looks at the hour that goes on
_Standing: TypeAlias = Mapping[tuple[str, str], Signal]  # by kind and subject
_SAMPLES = 4_000  # rows that are kept whole, of the newest hours
_LIVE = frozenset(("live", "online", "replay"))


class _Watched(msgspec.Struct, frozen=True, eq=False):
    """The version in service, and how its rows are read."""

    version: str
    layout: Layout
    plans: tuple[ColumnPlan, ...]
    reader: RowReader


class InputMonitor:
    """Watches what one model is asked and what it is computed from.

    `add` takes predictions as they were logged; those of closed hours change nothing, so they may be given again.
    Closed hours, signals and how far hours are closed are stored in one write; the open hours are rebuilt from the log:
    after a restart give all predictions that were made since `read_from_us`.

    Args:
        catalog: Where hours and signals are.
        model: Whose predictions.
        profiles: The input profiles of versions.
        registry: Says which version is in service.
        frame_of: Gives the events of a source by its name.
        now_us: The time when it begins.
        owner: Who is asked to act on its signals.
        known: What other monitors of the same events and requests found, by what it was found in; added to.
    """

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
        known: dict[object, list[Finding]] | None = None,
    ) -> None:
        self._owner = owner
        self._known = known
        self._catalog = catalog
        self._model = model
        self._profiles = profiles
        self._registry = registry
        self._frame_of = frame_of
        self._store = WatchStore(catalog, model.name)
        self._reach = Reach.of(model)
        self._aside = aside_of(model.request)
        self._views = model.features.views
        self._begun_us = now_us
        self._watched: _Watched | None = None
        self._version: str | None = None
        self._hours: dict[int, HourCounts] = {}  # closed, of the newest week
        self._feeds: dict[str, Arrivals] = {}
        self.unprofiled: str | None = None  # why the columns of the version in service are not looked at
        self.reload()

    @property
    def read_from_us(self) -> int:
        """Predictions made since then must be given by `add`, also again after a restart or a `reload`."""
        return max(self._watch.closed_until_us, self._begun_us - KEPT_H * HOUR_US)

    def reload(self) -> None:
        """Forget the open hours and read again what is stored."""
        self._watch, self._revision = self._store.watch()
        self._open: dict[int, HourCounts] = {}
        self._ids: dict[int, list[NDArray[np.int64]]] = {}  # of requests, by open hour
        self._questions: dict[int, list[NDArray[np.int64]]] = {}  # the same of what they ask
        self._last_us = self._watch.last_us
        self._looked_us: int | None = None
        self._seen: tuple[str, int, int] | None = None  # the rows of which `_columns` is said
        self._columns: list[Finding] = []
        self._read_hours()

    def add(self, block: Sequence[Prediction]) -> None:
        """Take in predictions as they were logged."""
        since_us, name = self.read_from_us, self._model.name
        rows = [
            p
            for p in block
            if p.made_at_us >= since_us and p.model == name and p.arm != SHADOW and not (p.flags and PAST in p.flags)
        ]
        if not rows:
            return
        asked = [p for p in rows if p.mode in _LIVE]
        if asked:
            made_at_us = np.array([p.made_at_us for p in asked], np.int64)
            questions = question_hashes([p.request for p in asked], self._aside)
            self._count_traffic(made_at_us, text_hashes([p.request_id for p in asked]), questions)
        if self._watched is None or {p.version for p in rows} != {self._watched.version}:
            self.follow()
        if self._watched is None:
            return
        version, inputs = self._watched.version, self._watched.reader.inputs
        recent_us = self._begun_us - LONGEST_H * HOUR_US
        mine = [
            p
            for p in rows
            if p.version == version
            and p.made_at_us >= recent_us
            and not (p.flags and p.is_degraded)
            and (p.mode in _LIVE or p.at_us >= p.made_at_us)
            and len(p.values) == 8 * inputs
            and len(p.reasons) == inputs
        ]
        self._take(summarise(self._watched.layout, self._watched.reader, mine))

    def add_live(
        self,
        version: str,
        made_at_us: NDArray[np.int64],
        ids: NDArray[np.int64],
        questions: NDArray[np.int64],
        counted: Callable[[Layout, tuple[ColumnPlan, ...]], Mapping[int, HourCounts]],
    ) -> None:
        """Take in answers to live requests that are at hand in columns: what `add` does, without a look at each.

        Args:
            version: Who gave them.
            made_at_us: When, shape (rows,).
            ids: The hashes of their request keys, by `text_hashes`, shape (rows,).
            questions: The hashes of what was asked, by `question_hashes`, shape (rows,).
            counted: Summarises them by hour for a profile of `version`; it is asked if there is one.
        """
        if not made_at_us.size:
            return
        self._count_traffic(made_at_us, ids, questions)
        if self._watched is None or self._watched.version != version:
            self.follow()
        if self._watched is not None and self._watched.version == version:
            self._take(counted(self._watched.layout, self._watched.plans))

    def _take(self, counted: Mapping[int, HourCounts]) -> None:
        for hour, counts in counted.items():
            before = self._open.get(hour)
            self._open[hour] = counts if before is None else before.plus(counts)

    def look(self, now_us: int, closed: Sequence[DayQuality] = ()) -> Settled:
        """Close the hours that are over, and hold the newest ones against what is usual; what began and ended.

        All of it is stored in one write.

        Args:
            now_us: The time of the look.
            closed: Days that were closed since the last look.

        Raises:
            Conflict: Another process looked meanwhile. Nothing was stored; give the predictions since `read_from_us`.
        """
        self._begun_us = max(self._begun_us, now_us)
        until_us = (now_us - GRACE_US) // HOUR_US * HOUR_US
        over = sorted(hour for hour in self._ids.keys() | self._open.keys() if hour * HOUR_US < until_us)
        due = self._looked_us is None or now_us - self._looked_us >= _AGAIN_US
        if not over and not closed and not due:
            return Settled()
        self._refresh()
        self.follow()
        over = [hour for hour in over if hour in self._ids or hour in self._open]
        watch, changes = self._closing(over, until_us, now_us, closed)
        listed = listed_signals(self._catalog, self._model.name)
        stand = [one for one in listed if one.ended_at_us is None and (one.severity == "red" or one.kind == "shape")]
        found = self._findings(watch, now_us, {(one.kind, one.subject): one for one in stand})
        version = self._version or ""
        signals = [one.signal(self._model.name, version, now_us) for one in found]
        settled = settle(listed, KINDS, signals, now_us=now_us, owner=self._owner)
        windows = window_changes(self._catalog, settled.begun, settled.ended, reach=self._reach)
        self._write(watch, [*changes, *stored(settled, now_us), *windows], over)
        self._looked_us = now_us
        return settled

    def _write(self, watch: InputWatch, changes: list[Put | Remove | Append], over: list[int]) -> None:
        if watch != self._watch or changes:
            try:
                self._catalog.write([self._store.put(watch, self._revision), *changes])
            except Conflict:
                self._refresh()
                raise
            self._watch, self._revision = watch, self._revision + 1
        for hour in over:
            self._ids.pop(hour, None)
            self._questions.pop(hour, None)
            counts = self._open.pop(hour, None)
            if counts is not None:
                self._hours[hour] = counts
        if over:
            self._hours = {hour: one for hour, one in self._hours.items() if hour >= over[-1] - LONGEST_H}

    def _closing(
        self, over: list[int], until_us: int, now_us: int, closed: Sequence[DayQuality]
    ) -> tuple[InputWatch, list[Put | Remove | Append]]:
        """The state after these hours are closed, and the writes of their summaries."""
        traffic = dict(self._watch.traffic)
        changes: list[Put | Remove | Append] = []
        for hour in over:
            ids = np.concatenate(self._ids.get(hour) or [np.zeros(0, np.int64)])
            asked = np.concatenate(self._questions.get(hour) or [np.zeros(0, np.int64)])
            often = np.unique(asked, return_counts=True)[1]
            counts = self._open.get(hour)
            if self._watched is not None and counts is not None and lost_columns(self._watched.layout.profile, counts):
                often = often[:0]  # without a column's values questions look alike that are not
            traffic[hour] = TrafficHour(ids.size, int(np.unique(ids).size), often.size, int((often > 1).sum()))
            if counts is not None and self._version is not None:
                changes.append(self._store.put_hour(hour, self._version, counts))
        if over:
            changes += self._without_samples(over[-1] - LONGEST_H)
        oldest = hour_of(now_us) - KEPT_H
        changes += [self._store.remove_hour(hour) for hour in traffic if hour < oldest]
        days = [*self._watch.days, *closed]
        return (
            InputWatch(
                closed_until_us=max(until_us, self._watch.closed_until_us) if over else self._watch.closed_until_us,
                last_us=self._last_us if over else self._watch.last_us,
                traffic={hour: one for hour, one in traffic.items() if hour >= oldest},
                days=[day for day in days if day.day_us >= now_us - KEPT_H * HOUR_US] if closed else self._watch.days,
                columns=self._distances(over) if over else self._watch.columns,
            ),
            changes,
        )

    def _distances(self, over: list[int]) -> dict[str, ColumnDistance]:
        """Of the columns in the newest closed hours, `over` among them."""
        if self._watched is None:
            return {}
        closed = {**self._hours, **{hour: self._open[hour] for hour in over if hour in self._open}}
        return column_distances(self._watched.layout, [one for hour, one in closed.items() if hour > over[-1] - HOURS])

    def _without_samples(self, oldest: int) -> list[Put | Remove | Append]:
        """Drop the sampled rows of older hours: they are the largest part, and only new hours are compared by them."""
        changes: list[Put | Remove | Append] = []
        kept = sum(len(one.marks) for one in self._open.values())
        sampled = [hour for hour, one in self._hours.items() if len(one.marks)]
        for hour in sorted(sampled, reverse=True):
            kept += len(self._hours[hour].marks)
            if (kept > _SAMPLES or hour < oldest) and self._version is not None:
                self._hours[hour] = self._hours[hour].without_sample()
                changes.append(self._store.put_hour(hour, self._version, self._hours[hour]))
        return changes

    def _findings(self, watch: InputWatch, now_us: int, standing: _Standing) -> list[Finding]:
        """All that is wrong now. Nothing is said of a model that never had a request."""
        if not watch.traffic and not self._ids:
            return []
        profile = None if self._watched is None else self._watched.layout.profile
        found = traffic_findings(
            watch.traffic,
            now_us,
            self._last_us,
            profile,
            doubled=("traffic_doubled", "traffic") in standing,
            repeated=self._repeated,
        )
        stopped = any(one.kind == "traffic_stopped" for one in found)
        found += self._of_feeds(now_us, stopped=stopped)
        if self._watched is not None:
            found += [] if stopped else self._of_columns(self._watched, now_us, standing)
            found += self._of_labels(watch, self._watched.layout.profile)
        return found

    def _repeated(self) -> list[RedWindow]:
        """The times in which requests were found to repeat."""
        return [one for one in red_windows(self._catalog, self._model.name) if one.kind == "duplicates"]

    def _of_columns(self, watched: _Watched, now_us: int, standing: _Standing) -> list[Finding]:
        """Of the newest week of hours; as at the last look where no row has come since."""
        oldest = hour_of(now_us) - LONGEST_H
        hours = {h: one for h, one in {**self._hours, **self._open}.items() if h >= oldest and one.rows}
        seen = (watched.version, min(hours, default=0), sum(one.rows for one in hours.values()))
        if seen != self._seen:
            self._columns = self._once((seen, frozenset(standing)), lambda: _found_in(watched.layout, hours, standing))
            self._seen = seen
        return self._columns

    def _once(self, key: object, find: Callable[[], list[Finding]]) -> list[Finding]:
        """What was found by another monitor in the same, or is found now."""
        if self._known is None:
            return find()
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]

    def _of_feeds(self, now_us: int, *, stopped: bool) -> list[Finding]:
        """Of the sources of features, and of labels unless requests stopped before them."""
        label = self._model.label.source.name
        sources = {view.source.name: view for view in self._views}
        names = sources.keys() | ({label} if not stopped else set())
        found: list[Finding] = []
        for name in sorted(names):
            found += self._once((name, now_us), partial(self._of_feed, name, now_us))
        since_us = self._unlooked_since_us(now_us)
        for name in sorted(sources):
            keys = {key for view in self._views if view.source.name == name for key in view.by}
            keys |= {sources[name].source.key or ""}
            skipped = frozenset(keys)
            found += self._once(
                (name, since_us, now_us, skipped),
                partial(self._of_values, name, since_us, now_us, skipped),
            )
        return found

    def _of_feed(self, name: str, now_us: int) -> list[Finding]:
        return feed_findings(self._arrivals(name), now_us)

    def _of_values(self, name: str, since_us: int, now_us: int, skipped: frozenset[str]) -> list[Finding]:
        return value_findings(self._arrivals(name), since_us, now_us, skipped)

    def _unlooked_since_us(self, now_us: int) -> int:
        """Since when events have not been looked at: the last look, of an earlier process too; at most a day."""
        last_us = self._watch.closed_until_us if self._looked_us is None else self._looked_us
        return min(now_us - NEWEST_US, max(last_us, now_us - DAY_US))

    def _arrivals(self, source: str) -> Arrivals:
        frame, before = self._frame_of(source), self._feeds.get(source)
        if before is None or before.frame is not frame:
            before = self._feeds[source] = Arrivals(frame)
        return before

    def _of_labels(self, watch: InputWatch, profile: InputProfile) -> list[Finding]:
        if self._model.task not in ("binary", "regression", "count", "quantile"):
            return []
        days = sorted((day for day in watch.days if day.version == self._version), key=lambda day: day.day_us)
        source = self._model.label.source.name
        return label_findings(days, profile.labels, subject=f"labels of {source}", binary=self._model.task == "binary")

    def _count_traffic(
        self, made_at_us: NDArray[np.int64], ids: NDArray[np.int64], questions: NDArray[np.int64]
    ) -> None:
        hours = made_at_us // HOUR_US
        for hour in np.unique(hours).tolist():
            self._ids.setdefault(hour, []).append(ids[hours == hour])
            self._questions.setdefault(hour, []).append(questions[hours == hour])
        newest_us = int(made_at_us.max())
        self._last_us = newest_us if self._last_us is None else max(newest_us, self._last_us)

    def follow(self) -> None:
        """Look which version is in service; another one has another profile, and hours of its own.

        Its profile is made if it was never needed before, which may take seconds.
        """
        version = self._registry.alias(self._model.name, CHAMPION)
        if (None if version is None else version.id) == self._version:
            return
        self._version = None if version is None else version.id
        self._watched, self.unprofiled = None, None
        self._open = {}
        if version is not None:
            found = self._profiles.of(version)
            if isinstance(found, str):
                self.unprofiled = found
            else:
                self._watched = self._reading(version, found)
        self._read_hours()

    def _reading(self, version: Version, profile: InputProfile) -> _Watched:
        features, encoding = self._profiles.inputs_of(version)
        plans = planned(features, encoding)
        return _Watched(version.id, Layout(profile), plans, RowReader(plans, profile.request))

    def _refresh(self) -> None:
        """Take over what another process closed; hours that are open there are open here, by the same log."""
        if self._store.revision() == self._revision:
            return
        watch, self._revision = self._store.watch()
        self._watch = watch
        for hour in [hour for hour in self._ids.keys() | self._open.keys() if hour * HOUR_US < watch.closed_until_us]:
            self._ids.pop(hour, None)
            self._questions.pop(hour, None)
            self._open.pop(hour, None)
        self._read_hours()

    def _read_hours(self) -> None:
        self._hours = {}
        if self._watched is not None and self._version is not None:
            oldest = hour_of(self._begun_us) - LONGEST_H
            hours = [hour for hour in self._watch.traffic if hour >= oldest]
            self._hours = self._store.hours(hours, self._version, self._watched.layout)


def _found_in(layout: Layout, hours: Mapping[int, HourCounts], standing: _Standing) -> list[Finding]:
    """What is wrong with the columns of the newest week of hours."""
    shapes = shape_findings(layout, hours, standing)
    units = {one.subject for one in shapes if one.kind == "units"}
    columns = column_findings(layout.profile, hours, standing)
    return [one for one in columns if one.kind != "range" or one.subject not in units] + shapes
