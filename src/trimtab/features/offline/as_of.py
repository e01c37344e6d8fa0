"""Features of many requests, each as of its own time t and its own position P in the log.

P is how much of the log was used for the request: a position in each partition.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.events.columns.frame_index import key_values
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.versions import Versions
from trimtab.events.definitions import Source
from trimtab.events.records import Event, decode_all
from trimtab.features.definitions import Join, View
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FeatureFrame
from trimtab.features.offline.evaluation import evaluate_by
from trimtab.features.offline.keys import match_keys
from trimtab.features.offline.view_columns import evaluate_view
from trimtab.store.ports import LogRecord

Array: TypeAlias = NDArray[Any]
# returns all records of the log in batches, in any order
Reread: TypeAlias = Callable[[], Iterable[Sequence[LogRecord]]]
Wanted: TypeAlias = "dict[str, set[Any]]"  # the keys of entities, by the hash of the view
LookUps: TypeAlias = "list[tuple[Join, Sequence[Column]]]"  # joins, each with the keys that were looked up

_FEW = 4  # if at most this many rows are left, they are evaluated in groups of equal P


class AsOf(msgspec.Struct, frozen=True, eq=False):
    """Features of requests, computed twice: as of their own positions, and with everything that is in the log now."""

    features: FeatureFrame  # from records up to P that were known at t
    newest: FeatureFrame  # from all records that were known at t
    apart: NDArray[np.bool_]  # rows whose results may differ: records after P that were known at t may affect them


def evaluate_as_of(
    features: FeatureSet,
    requests: Columns,
    at_us: Array,
    positions: Sequence[Mapping[str, int]],
    frames: Mapping[str, EventFrame],
    *,
    conflicts: Collection[str] = (),
    reread: Reread,
) -> AsOf:
    """Compute the features of each request as of its own time t and its own position P in the log.

    Most records after P became known after t, so they do not matter. Therefore all rows are first evaluated together,
    with the events of the whole log. If one of a row's entities has a record after P that was known at t, the result
    may be wrong, and the row is evaluated again, using only the records of its entities up to P. # D37

    Args:
        at_us: The time t of each request in microseconds, int64.
        positions: The position P of each request, by partition.
        frames: For each source of a view, the events in the whole log.
        conflicts: Sources in which records were dropped because their ids conflict. Without the records after P, a
            dropped record may count after all, so any record after P may affect any row.
        reread: Returns the records of the log again. It is called if rows have to be evaluated a second time.

    Raises:
        Misuse: A column or a source is missing, or has the wrong type.
    """
    at_us = np.asarray(at_us, np.int64)
    looked: LookUps = []
    newest, apart = _at_once(features, requests, at_us, positions, frames, conflicts, looked)
    rows = np.flatnonzero(apart)
    if not len(rows):
        return AsOf(newest, newest, apart)
    wanted: Wanted = {}
    for join, keys in looked:
        wanted.setdefault(join.view.hash, set()).update(_keys([key.take(rows) for key in keys]))
    exact = _RowsApart(features, wanted, conflicts, reread).evaluate(
        requests.take(rows), at_us[rows], [positions[row] for row in rows.tolist()]
    )
    return AsOf(_replaced(newest, rows, exact), newest, apart)


def _at_once(
    features: FeatureSet,
    requests: Columns,
    at_us: Array,
    positions: Sequence[Mapping[str, int]],
    frames: Mapping[str, EventFrame],
    conflicts: Collection[str],
    looked: LookUps,
) -> tuple[FeatureFrame, NDArray[np.bool_]]:
    """Compute the features from all events in `frames`. Also return which rows may have other values as of their own P.

    Append each join to `looked`, with the keys that were looked up.
    """
    behind = {name: _Behind(frame, at_us, positions) for name, frame in frames.items()}
    apart = np.zeros(len(at_us), bool)

    def answer(join: Join, keys: Sequence[Column], at_us: Array) -> Mapping[str, tuple[Column, Array]]:
        source = join.view.source.name
        looked.append((join, keys))
        apart[behind[source].touched(join.view, keys, everything=source in conflicts)] = True
        return evaluate_view(join.view, keys, at_us, frames[source])

    return evaluate_by(answer, features, requests, at_us), apart


class _Behind:
    """The records of one source that come after the P of a request, but were known at its t."""

    def __init__(self, frame: EventFrame, at_us: Array, positions: Sequence[Mapping[str, int]]) -> None:
        self._frame = frame
        self._at_us = at_us
        limits = [[of_row.get(name, 0) for name in frame.partitions] for of_row in positions]
        self._limits = np.array(limits, np.int64).reshape(len(at_us), len(frame.partitions))
        self._rows = np.flatnonzero(self._any())
        self._deleted = np.flatnonzero(frame.deleted) if len(self._rows) else np.zeros(0, np.int64)
        self._by_known: tuple[Array, Array] | None = None

    def touched(self, view: View, keys: Sequence[Column], *, everything: bool) -> Array:
        """Return the requests whose entity in `view` may be affected by a record (or any deletion) after their P."""
        if everything or not len(self._rows):
            return self._rows
        frame = self._frame
        of_events, of_requests, count = match_keys(
            [frame.columns[name] for name in view.by], [key.take(self._rows) for key in keys]
        )
        order = np.argsort(of_events, kind="stable")
        bounds = np.searchsorted(of_events[order], np.arange(count + 1))
        found = []
        for row, number in zip(self._rows.tolist(), of_requests.tolist(), strict=True):
            mine = order[bounds[number] : bounds[number + 1]] if number >= 0 else order[:0]
            if self._is_behind(mine, row) or self._is_behind(self._deleted, row) or self._was_replaced(mine, row):
                found.append(row)
        return np.array(found, np.int64)

    def _any(self) -> NDArray[np.bool_]:
        """Return a boolean array: which requests have any record after their P that was known at their t."""
        frame, found = self._frame, np.zeros(len(self._at_us), bool)
        for number in range(len(frame.partitions)):
            mine = np.flatnonzero(frame.partition == number)
            mine = mine[np.argsort(frame.position[mine], kind="stable")]
            # for each record: the earliest known-at time of this and all later records
            least = np.append(np.minimum.accumulate(frame.known_at_us[mine][::-1])[::-1], NEVER_US)
            found |= least[np.searchsorted(frame.position[mine], self._limits[:, number], "right")] <= self._at_us
        return found

    def _is_behind(self, events: Array, row: int) -> bool:
        frame = self._frame
        later = frame.position[events] > self._limits[row][frame.partition[events]]
        return bool((later & (frame.known_at_us[events] <= self._at_us[row])).any())

    def _was_replaced(self, events: Array, row: int) -> bool:
        """Return whether an event may have been replaced by a record after P.

        The table of events does not say which record replaced an event. So this considers all records that became known
        at the time of the replacement.
        """
        until = self._frame.superseded_at_us[events]
        times = np.unique(until[until <= self._at_us[row]])
        if not len(times):
            return False
        if self._by_known is None:
            order = np.argsort(self._frame.known_at_us, kind="stable")
            self._by_known = order, self._frame.known_at_us[order]
        order, known = self._by_known
        first, last = np.searchsorted(known, times, "left"), np.searchsorted(known, times, "right")
        return any(self._is_behind(order[a:b], row) for a, b in zip(first.tolist(), last.tolist(), strict=True))


class _RowsApart:
    """Evaluates requests using only the records of their entities up to the P of each request.

    Args:
        wanted: The keys of the entities, by the hash of the view. If a feature of one view is the key of another,
            `evaluate` adds keys.
        conflicts: Sources in which any record may affect any row.
    """

    def __init__(self, features: FeatureSet, wanted: Wanted, conflicts: Collection[str], reread: Reread) -> None:
        self._features = features
        self._wanted = wanted
        self._conflicts = conflicts
        self._reread = reread
        self._sources = {view.source.name: view.source for view in features.views}

    def evaluate(self, requests: Columns, at_us: Array, positions: Sequence[Mapping[str, int]]) -> FeatureFrame:
        """Compute the features of the requests, in the order of the requests."""
        while True:
            records = entity_records(self._features.views, self._wanted, self._reread)
            looked: LookUps = []
            found = self._pass(records, requests, at_us, positions, looked)
            complete = True
            for join, keys in looked:  # a view may be looked up several times, under different names
                # with fewer records, a feature that is another view's key may have another value; look this key up, too
                new = _keys(keys) - self._wanted[join.view.hash]
                self._wanted[join.view.hash] |= new
                complete = complete and not new
            if complete:
                return found

    def _pass(
        self,
        records: Mapping[str, list[tuple[LogRecord, Event]]],
        requests: Columns,
        at_us: Array,
        positions: Sequence[Mapping[str, int]],
        looked: LookUps,
    ) -> FeatureFrame:
        """Evaluate all requests once, with the given records.

        First, the requests are evaluated together, with the records up to the largest P (by the sum of its positions).
        Two kinds of requests are left: those whose own P is further in some partition, and those whose result may be
        wrong, because of a record after their own P. The left ones are evaluated in the same way, as long as this gives
        at least a quarter of them a result. The rest is evaluated in groups of equal P, beginning with the smallest.
        """
        parts: list[FeatureFrame] = []
        order: list[Array] = []
        left = np.arange(len(at_us))

        def at_once(rows: Array, frames: Mapping[str, EventFrame]) -> NDArray[np.bool_]:
            found, apart = _at_once(
                self._features,
                requests.take(rows),
                at_us[rows],
                [positions[row] for row in rows.tolist()],
                frames,
                self._conflicts,
                looked,
            )
            parts.append(found.take(~apart))
            order.append(rows[~apart])
            return apart

        pays = True
        while pays and len(left) > _FEW:
            upto = max((positions[row] for row in left.tolist()), key=lambda of_row: sum(of_row.values()))
            under = np.array([_within(positions[row], upto) for row in left.tolist()])
            apart = at_once(left[under], _Growing(self._sources, records).upto(upto))
            pays = bool(np.count_nonzero(~apart) * 4 >= len(left))
            left = np.concatenate([left[under][apart], left[~under]])
        growing = _Growing(self._sources, records)
        for upto, places in same_positions([positions[row] for row in left.tolist()]):
            at_once(left[places], growing.upto(upto))
        return FeatureFrame.concat(parts).take(np.argsort(np.concatenate(order)))


def _within(positions: Mapping[str, int], upto: Mapping[str, int]) -> bool:
    return all(position <= upto.get(name, 0) for name, position in positions.items())


class _Growing:
    """Makes tables of the events in the given records up to some positions.

    If positions grow from call to call of `upto`, each call only adds the new records.
    """

    def __init__(self, sources: Mapping[str, Source], records: Mapping[str, Sequence[tuple[LogRecord, Event]]]) -> None:
        self._sources = sources
        self._records: dict[tuple[str, str], list[tuple[LogRecord, Event]]] = {}  # by source and partition
        for source, of_source in records.items():
            for one in of_source:
                self._records.setdefault((source, one[0].partition), []).append(one)
        self._names = sorted({partition for _, partition in self._records})
        self._reached: dict[str, int] = {}
        self._versions: dict[str, Versions] = {}

    def upto(self, positions: Mapping[str, int]) -> dict[str, EventFrame]:
        if not self._versions or any(positions.get(name, 0) < self._reached.get(name, 0) for name in self._names):
            self._reached = {}
            self._versions = {name: Versions(source, self._names) for name, source in self._sources.items()}
        for (source, partition), records in self._records.items():
            first = bisect_right(records, self._reached.get(partition, 0), key=_position)
            last = bisect_right(records, positions.get(partition, 0), key=_position)
            if last > first:
                new = records[first:last]
                self._versions[source].add([record for record, _ in new], [event for _, event in new])
        self._reached = dict(positions)
        return {name: versions.frame() for name, versions in self._versions.items()}


def _position(one: tuple[LogRecord, Event]) -> int:
    return one[0].position


def same_positions(positions: Sequence[Mapping[str, int]]) -> list[tuple[Mapping[str, int], Array]]:
    """Return groups of requests with the same position P, sorted by P."""
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for row, of_row in enumerate(positions):
        groups.setdefault(tuple(sorted(of_row.items())), []).append(row)
    ordered = sorted(groups.items(), key=lambda group: (sum(position for _, position in group[0]), group[0]))
    return [(dict(key), np.array(rows, np.int64)) for key, rows in ordered]


def entity_records(
    views: Sequence[View], wanted: Mapping[str, set[Any]], reread: Reread
) -> dict[str, list[tuple[LogRecord, Event]]]:
    """Return the records of some entities by source, sorted by position.

    If any version of an event belongs to one of the entities, all of its versions are included.

    Args:
        wanted: The keys of the entities, by the hash of the view.
    """
    lookups: dict[str, list[tuple[Callable[[Event], Any], set[Any]]]] = {}
    for view in views:
        places = [list(view.source.columns).index(name) for name in view.by]
        lookups.setdefault(view.source.name, []).append((_key_reader(places), wanted.get(view.hash, set())))
    found: dict[str, dict[tuple[str, int], tuple[LogRecord, Event]]] = {name: {} for name in lookups}
    ids: dict[str, set[str]] = {name: set() for name in lookups}
    several = False  # True if events may have several versions
    for block in reread():
        for record, event in zip(block, decode_all([r.payload for r in block]), strict=True):
            of_source = lookups.get(event.source)
            if of_source is None:
                continue
            several |= event.op == "delete"
            if any(key(event) in keys for key, keys in of_source):
                found[event.source][record.partition, record.position] = record, event
                ids[event.source].add(event.id)
    if several or any(view.source.key for view in views):
        for block in reread():
            for record, event in zip(block, decode_all([r.payload for r in block]), strict=True):
                if event.id in ids.get(event.source, ()):
                    found[event.source].setdefault((record.partition, record.position), (record, event))
    return {name: [of_source[place] for place in sorted(of_source)] for name, of_source in found.items()}


def _key_reader(places: Sequence[int]) -> Callable[[Event], Any]:
    """Return a function that returns the entity of an event in the form of `key_values`."""
    if len(places) == 1:
        place = places[0]
        return lambda event: event.values[place] if place < len(event.values) else None
    return lambda event: tuple(event.values[p] if p < len(event.values) else None for p in places)


def _keys(keys: Sequence[Column]) -> set[Any]:
    return set(key_values(keys)) - {None}


def _replaced(frame: FeatureFrame, rows: Array, exact: FeatureFrame) -> FeatureFrame:
    """Return the feature values, with those of some rows replaced."""
    places = np.arange(frame.values.rows)
    places[rows] = frame.values.rows + np.arange(len(rows))
    return FeatureFrame.concat([frame, exact]).take(places)
