"""Versions of the events of one source: which records count, in what order, and which are repetitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns
from trimtab.core.time import HOUR_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.rows import (
    DELETED,
    EVENT_AT,
    KNOWN_AT,
    LOADED_H,
    PARTITION,
    POSITION,
    SUPERSEDED_AT,
    Block,
    Rows,
)
from trimtab.events.definitions import Source
from trimtab.events.records import Event, Op, decode, encode
from trimtab.store.ports import LogRecord


class _Dropped(msgspec.Struct, frozen=True):
    """A record that does not count now, because it repeats or contradicts another record.

    It is kept, because a late record that is sorted before it may change this.
    """

    partition: int
    position: int
    known_at_us: int
    loaded_h: int
    payload: bytes
    conflict: bool  # True: in a source without a key, it has the id of an earlier record, but other content


class EventCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many versions of events of one source count, and how many of its records do not count."""

    events: int = 0  # versions that count, including deletions; an event may have several
    newest_us: int | None = None  # the event time of the newest event
    duplicates: int = 0  # records that repeat an event without any change
    id_conflicts: int = 0  # records that have an existing id but other content, in a source without a key
    exact: bool = True  # False: some records of `events` may be repetitions or conflicts


class Versions:
    """Finds the versions of the events of one source.

    The result depends on the records, but not on the order in which they are added. The versions of an id are ordered
    by (known at, partition, position). A version with the content of the previous one is a repetition and does not
    count. In a source without a key, the first version of an id decides the content; versions with other content are
    conflicts and do not count.
    """

    def __init__(self, source: Source, partitions: list[str]) -> None:
        self.source = source
        self.duplicates = 0
        self.id_conflicts = 0
        self._partitions = partitions  # the caller appends to this list; rows hold indexes into it
        self._rows = Rows(source.columns)
        self._first: dict[str, int] = {}  # for each id, its first row
        self._all: dict[str, list[int]] = {}  # for each id with several versions, all of its rows in order
        self._dropped: dict[str, list[_Dropped]] = {}  # for each id, its records that do not count
        # for each deletion (by partition and position), the columns that are null in its record
        self._holes: dict[tuple[int, int], tuple[str, ...]] = {}

    def add(self, records: Sequence[LogRecord], events: Sequence[Event]) -> None:
        """Add records of this source, in any order."""
        place = {name: i for i, name in enumerate(self._partitions)}
        appended_at = np.array([r.appended_at_us for r in records], np.int64)
        declared = np.array([e.known_at_us for e in events], np.int64)
        history = np.array([e.history for e in events], bool)
        # the rule of the function `known_at_us`
        known = np.where(declared == 0, appended_at, np.maximum(declared, appended_at))
        block = self._rows.block([e.values for e in events])
        block |= {
            EVENT_AT: np.array([e.event_at_us for e in events], np.int64),
            KNOWN_AT: np.where(history, declared, known),
            DELETED: np.array([e.op == "delete" for e in events], bool),
            PARTITION: np.array([place[r.partition] for r in records], np.int16),
            POSITION: np.array([r.position for r in records], np.int64),
            LOADED_H: np.where(history, appended_at // HOUR_US, 0),
        }
        self._add(block, [e.id for e in events], [r.payload for r in records])

    def add_table(self, rows: Columns) -> None:
        """Add rows from the source's table of record (the permanent copy of its events)."""
        if not rows.rows:
            return
        place = {name: i for i, name in enumerate(self._partitions)}
        block = self._rows.block_of(rows)
        block |= {
            EVENT_AT: rows["_event_at"].values,
            KNOWN_AT: rows["_known_at"].values,
            DELETED: np.array([op == "delete" for op in rows["_op"].values], bool),
            PARTITION: np.array([place[name] for name in rows["_partition"].values], np.int16),
            POSITION: rows["_position"].values,
            LOADED_H: _loaded_h(rows),
        }
        self._add(block, rows["_id"].values.tolist(), None)

    def frame(self) -> EventFrame:
        """Return all versions that count."""
        return self._rows.frame(self.source.name, self._partitions)

    def count(self) -> EventCount:
        """Return how many versions count, and how many records do not, because they repeat or contradict another."""
        return EventCount(
            events=self._rows.size,
            newest_us=int(self._rows[EVENT_AT].max()) if self._rows.size else None,
            duplicates=self.duplicates,
            id_conflicts=self.id_conflicts,
        )

    def _add(self, block: Block, ids: Sequence[str], payloads: Sequence[bytes] | None) -> None:
        start = self._rows.size
        self._rows.append(block)
        if block[DELETED].any():
            self._note_holes(np.flatnonzero(block[DELETED]) + start)
        if len(set(ids)) == len(ids) and self._first.keys().isdisjoint(ids):
            self._first.update(zip(ids, range(start, self._rows.size), strict=True))
            return
        touched: dict[str, list[int]] = {}
        for row, event_id in enumerate(ids, start):
            if self._first.setdefault(event_id, row) != row:
                touched.setdefault(event_id, []).append(row)
        kept_payloads = dict(enumerate(payloads, start)) if payloads is not None else {}
        self._bring_back(touched, kept_payloads)
        for event_id, rows in touched.items():
            rows[:0] = self._all.get(event_id, [self._first[event_id]])
        self._resolve(touched, start, set(ids), kept_payloads)

    def _note_holes(self, rows: Iterable[int]) -> None:
        partition, position = self._rows[PARTITION], self._rows[POSITION]
        for row in rows:
            nulls = tuple(name for name in self._rows.dtypes if not self._rows.present(name)[row])
            self._holes[int(partition[row]), int(position[row])] = nulls

    def _bring_back(self, touched: dict[str, list[int]], payloads: dict[int, bytes]) -> None:
        """Add the dropped records of the ids in `touched` again, to judge them together with the new records."""
        back = [(event_id, dropped) for event_id in touched for dropped in self._dropped.pop(event_id, [])]
        if not back:
            return
        events = [decode(d.payload) for _, d in back]
        block = self._rows.block([e.values for e in events])
        block |= {
            EVENT_AT: np.array([e.event_at_us for e in events], np.int64),
            KNOWN_AT: np.array([d.known_at_us for _, d in back], np.int64),
            DELETED: np.array([e.op == "delete" for e in events], bool),
            PARTITION: np.array([d.partition for _, d in back], np.int16),
            POSITION: np.array([d.position for _, d in back], np.int64),
            LOADED_H: np.array([d.loaded_h for _, d in back], np.int32),
        }
        for row, (event_id, dropped) in enumerate(back, self._rows.size):
            touched[event_id].append(row)
            payloads[row] = dropped.payload
            self.id_conflicts -= dropped.conflict
            self.duplicates -= not dropped.conflict
        self._rows.append(block)

    def _resolve(self, touched: dict[str, list[int]], start: int, batch: set[str], payloads: dict[int, bytes]) -> None:
        """Decide for the ids in `touched` which of their rows count, and until when. Move the others to `_dropped`."""
        names = list(touched)
        rows = np.array([row for name in names for row in touched[name]], np.int64)
        group = np.repeat(np.arange(len(names)), [len(touched[name]) for name in names])
        order = self._version_order(rows, group)
        rows, group = rows[order], group[order]
        conflict = np.zeros(len(rows), bool) if self.source.key else self._conflicts(rows, group)
        left, of = rows[~conflict], group[~conflict]
        repeats = np.zeros(len(left), bool)
        both_deleted = self._rows[DELETED][left[1:]] & self._rows[DELETED][left[:-1]]
        repeats[1:] = (of[1:] == of[:-1]) & (both_deleted | self._rows.same(left[1:], left[:-1]))
        kept, of = left[~repeats], of[~repeats]
        followed = np.zeros(len(kept), bool)
        followed[:-1] = of[1:] == of[:-1]
        until = np.full(len(kept), NEVER_US)
        until[followed] = self._rows[KNOWN_AT][kept[1:][followed[:-1]]]
        self._rows.set(SUPERSEDED_AT, kept, until)
        self._fill_tombstones(kept, of)
        self._index(names, kept, of)
        dropped = np.concatenate([rows[conflict], left[repeats]])
        if len(dropped):
            owners = np.concatenate([group[conflict], group[~conflict][repeats]])
            self._drop(dropped, [names[g] for g in owners.tolist()], int(conflict.sum()), payloads)
            self._close_gaps(dropped, start, batch | touched.keys())

    def _version_order(self, rows: NDArray[Any], group: NDArray[Any]) -> NDArray[Any]:
        rank = np.argsort(np.argsort(np.array(self._partitions)))  # compare partitions by name, not by index
        partition = rank[self._rows[PARTITION][rows]]
        return np.lexsort((self._rows[POSITION][rows], partition, self._rows[KNOWN_AT][rows], group))

    def _conflicts(self, rows: NDArray[Any], group: NDArray[Any]) -> NDArray[Any]:
        """Return a boolean array: True for rows that are not deletions but differ from the first such row of the id."""
        live = ~self._rows[DELETED][rows]
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        nowhere = len(rows)
        first = np.minimum.reduceat(np.where(live, np.arange(len(rows)), nowhere), starts)[group]
        reference = rows[np.minimum(first, nowhere - 1)]
        conflict: NDArray[np.bool_] = live & (first < nowhere) & ~self._rows.same(rows, reference)
        return conflict

    def _fill_tombstones(self, kept: NDArray[Any], group: NDArray[Any]) -> None:
        """Fill the nulls of deletions with the deleted version's values, for example those that identify the entity."""
        for i in np.flatnonzero(self._rows[DELETED][kept]).tolist():
            row = int(kept[i])
            before = int(kept[i - 1]) if i and group[i - 1] == group[i] else None
            for name in self._holes[self._place(row)]:
                self._rows.copy_value(name, row, before)

    def _index(self, names: Sequence[str], kept: NDArray[Any], group: NDArray[Any]) -> None:
        bounds = np.searchsorted(group, np.arange(len(names) + 1)).tolist()
        rows: list[int] = kept.tolist()
        for name, a, b in zip(names, bounds, bounds[1:], strict=False):
            self._first[name] = rows[a]
            if b - a > 1:
                self._all[name] = rows[a:b]
            else:
                self._all.pop(name, None)

    def _drop(self, rows: NDArray[Any], owners: list[str], conflicts: int, payloads: dict[int, bytes]) -> None:
        known_at, loaded_h = self._rows[KNOWN_AT], self._rows[LOADED_H]
        for i, (row, owner) in enumerate(zip(rows.tolist(), owners, strict=True)):
            partition, position = self._place(row)
            payload = payloads.get(row) or self._payload(row, owner)
            dropped = _Dropped(partition, position, int(known_at[row]), int(loaded_h[row]), payload, i < conflicts)
            self._dropped.setdefault(owner, []).append(dropped)
        self.id_conflicts += conflicts
        self.duplicates += len(rows) - conflicts

    def _payload(self, row: int, event_id: str) -> bytes:
        """Encode a row that is dropped: the record from which it came, but with the computed known-at time."""
        deleted = bool(self._rows[DELETED][row])
        values = self._rows.values(row)
        if deleted:
            holes = self._holes[self._place(row)]
            values = [None if name in holes else v for name, v in zip(self._rows.dtypes, values, strict=True)]
        op: Op = "delete" if deleted else "upsert"
        event_at, known_at = int(self._rows[EVENT_AT][row]), int(self._rows[KNOWN_AT][row])
        return encode(Event(self.source.name, event_id, event_at, known_at, op, True, tuple(values)))

    def _place(self, row: int) -> tuple[int, int]:
        return int(self._rows[PARTITION][row]), int(self._rows[POSITION][row])

    def _close_gaps(self, dropped: NDArray[Any], start: int, ids: set[str]) -> None:
        """Remove dropped rows from the buffers, and correct the indexes of later rows.

        This is fast as long as only new rows are dropped.
        """
        low = int(dropped.min())
        if low < start:
            ids = set(self._first)
        low = min(low, start)
        stay = np.ones(self._rows.size - low, bool)
        stay[dropped - low] = False
        moved: list[int] = (np.cumsum(stay) - 1 + low).tolist()
        self._rows.keep(low, stay)
        for event_id in ids:
            row = self._first[event_id]
            if row >= low:
                self._first[event_id] = moved[row - low]
            several = self._all.get(event_id)
            if several is not None:
                several[:] = [r if r < low else moved[r - low] for r in several]


def _loaded_h(rows: Columns) -> NDArray[Any]:
    if "_history" not in rows:  # parts of a large history are read without it
        return np.zeros(rows.rows, np.int32)
    return np.where(rows["_history"].values, rows["_append_at"].values // HOUR_US, 0)
