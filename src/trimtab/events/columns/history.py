"""The event log as columns: all versions of all events of the declared sources."""

from __future__ import annotations

import gc
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import ContextDecorator
from functools import partial
from itertools import compress
from operator import attrgetter

import numpy as np

from trimtab.core.errors import Misuse, NotFound
from trimtab.events.columns.frames import EventFrame
from trimtab.events.columns.versions import EventCount, Versions
from trimtab.events.definitions import Source
from trimtab.events.records import ERASED, Event, decode_all
from trimtab.events.tables import Moved, read_table
from trimtab.store.log_order import Gap, intervals
from trimtab.store.ports import Log, LogRecord, Table

_position = attrgetter("position")
_COLLECT_AFTER = 100_000  # new objects between two garbage collections; with Python's 700, reading takes 20 % longer


class _LessCollection(ContextDecorator):
    """Makes Python collect garbage less often, while many objects are made that are in no cycles."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # several threads may be within a block
        self._within = 0
        self._before = gc.get_threshold()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._within:
                self._before = gc.get_threshold()
                gc.set_threshold(max(_COLLECT_AFTER, self._before[0]), *self._before[1:])
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._mutex:
            self._within -= 1
            if not self._within:
                gc.set_threshold(*self._before)


_collecting_less = _LessCollection()


class History:
    """The events in a log as columns.

    `refresh` reads what is new in the log. The result is as if the whole log had been read at once.

    Args:
        sources: The sources to read. Records of other sources are skipped, and counted in `unknown`.
        upto: For each partition, the last position to read. Partitions that are not listed are not read. None: read
            all.
        tables: The tables of record (copies of the log's events, one for each source), by source name, or a function
            that returns them. They are needed if copied records were removed from the log. They are read at the first
            `refresh`, and again if records were removed before they were read from the log.
    """

    def __init__(
        self,
        log: Log,
        sources: Sequence[Source],
        *,
        upto: Mapping[str, int] | None = None,
        tables: Mapping[str, Table] | Callable[[], Moved] | None = None,
    ) -> None:
        self._log = log
        self._upto = upto
        self._moved = tables if callable(tables) else partial(Moved, dict(tables or {}), {})
        # by source and partition, the position up to which the source's table has its records
        self._recorded: dict[str, dict[str, int]] = {}
        self._partitions: list[str] = []  # the names of partitions, in the order in which they were first read
        self._versions = {source.name: Versions(source, self._partitions) for source in sources}
        self._frames: dict[str, EventFrame] = {}
        self.positions: dict[str, int] = {}
        self.unknown = 0

    @property
    def duplicates(self) -> dict[str, int]:
        """For each source, the number of records that repeat an event without any change."""
        return {name: v.duplicates for name, v in self._versions.items()}

    @property
    def id_conflicts(self) -> dict[str, int]:
        """For each source without a key, the number of records that have an existing id but other content."""
        return {name: v.id_conflicts for name, v in self._versions.items()}

    def counts(self) -> dict[str, EventCount]:
        """Return for each source the number of its events, as of the last `refresh`."""
        return {name: v.count() for name, v in self._versions.items()}

    def keeps(self, source: Source) -> bool:
        """Return whether the history reads a source with exactly this definition."""
        kept = self._versions.get(source.name)
        return kept is not None and kept.source == source

    @_collecting_less
    def refresh(self) -> int:
        """Read the new records of the log, and return their number.

        Records of several partitions are ordered by (append time, partition, position).

        Raises:
            Misuse: Records that were not read yet were removed from the log, and no table has them.
        """
        count = 0 if self.positions else self._read_tables()
        while True:
            try:
                ends = {name: self._end(name, last) for name, last in self._log.positions().items()}
                for parts in intervals(self._log, self.positions, ends):
                    self._take(parts)
                    count += sum(map(len, parts))
                return count
            except Gap as gap:
                before = self.positions.get(gap.partition, 0)
                count += self._read_tables()
                if self.positions.get(gap.partition, 0) == before:
                    raise Misuse(
                        f"history: {gap} The missing records were truncated, and no table of record holds all of "
                        "them. Give tables of record (`tables=`) that do."
                    ) from None

    def frame(self, source: str) -> EventFrame:
        """Return the events of one source, as of the last `refresh`.

        A frame never changes. Until `refresh` finds new records of the source, this returns the same object.

        Raises:
            NotFound: The history does not contain the source.
        """
        if source not in self._versions:
            raise NotFound(f"history: no source {source!r} among {', '.join(self._versions)}.")
        if source not in self._frames:
            self._frames[source] = self._versions[source].frame()
        return self._frames[source]

    def _read_tables(self) -> int:
        """Add the records in the tables of record that were not read yet, and return their number.

        Then set `positions`, from which the log is read next, to the positions that all tables have reached.
        """
        moved = self._moved()
        if not moved.tables:
            return 0
        partitions = list(self._log.positions())
        count = 0
        for name, versions in self._versions.items():
            found = read_table(moved.tables.get(name), partitions, self._upto, moved.through)
            self._partitions += sorted(found.reached.keys() - set(self._partitions))
            held = self._recorded.setdefault(name, {})
            after = {p: max(held.get(p, 0), self.positions.get(p, 0)) for p in self._partitions}
            if found.rows is not None and found.rows.rows:
                floors = np.array([after[p] for p in found.rows["_partition"].values.tolist()], np.int64)
                new = found.rows.take(found.rows["_position"].values > floors)
                versions.add_table(new)
                self._frames.pop(name, None)
                count += new.rows
            held.update({p: max(after[p], found.reached.get(p, 0)) for p in self._partitions})
        for partition in self._partitions:
            reached = [positions.get(partition, 0) for positions in self._recorded.values()]
            # if the log no longer has this partition, nothing is left to read: take the position of the furthest table
            position = min(reached) if partition in partitions else max(reached)
            self.positions[partition] = self._end(partition, max(position, self.positions.get(partition, 0)))
        return count

    def _end(self, partition: str, last: int) -> int:
        return last if self._upto is None else min(last, self._upto.get(partition, 0))

    def _take(self, parts: list[list[LogRecord]]) -> None:
        kept: dict[str, tuple[list[LogRecord], list[Event]]] = {}
        mixed: set[str] = set()  # sources whose new records come from several partitions
        for part in parts:
            partition = part[0].partition
            if partition not in self._partitions:
                self._partitions.append(partition)
            for name, (records, events) in _by_source(part).items():
                if name not in self._versions:
                    self.unknown += len(records) if name != ERASED else 0
                    continue
                reached = self._recorded.get(name, {}).get(partition, 0)
                new = bisect_right(records, reached, key=_position)
                if name in kept:
                    mixed.add(name)
                    kept[name][0].extend(records[new:])
                    kept[name][1].extend(events[new:])
                else:
                    kept[name] = records[new:], events[new:]
        for name, (records, events) in kept.items():
            # the sort is stable, so records with the same append time stay in the order of their partitions
            if name in mixed:
                order = sorted(range(len(records)), key=[r.appended_at_us for r in records].__getitem__)
                records, events = [records[i] for i in order], [events[i] for i in order]
            if records:
                self._frames.pop(name, None)
                self._versions[name].add(records, events)
        self.positions.update({part[0].partition: part[-1].position for part in parts})


def _by_source(records: list[LogRecord]) -> dict[str, tuple[list[LogRecord], list[Event]]]:
    events = decode_all([r.payload for r in records])
    names = [e.source for e in events]
    out = {}
    for name in dict.fromkeys(names):
        mine = [n == name for n in names]
        out[name] = (records, events) if all(mine) else (list(compress(records, mine)), list(compress(events, mine)))
    return out
