"""The log in columns: every version of every event of the declared sources, up to a position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import compress
from operator import attrgetter

import numpy as np

from trimtab.core.errors import Misuse, NotFound
from trimtab.events.columns.frames import EventFrame
from trimtab.events.columns.versions import Versions
from trimtab.events.definitions import Source
from trimtab.events.records import ERASED, Event, decode_all
from trimtab.events.tables import Moved, read_table
from trimtab.store.log_order import Gap, intervals
from trimtab.store.ports import Log, LogRecord, Table

_position = attrgetter("position")


class History:
    """A columnar view of an event log.

    The log is read by `refresh`. The result is the same as that of a history built from scratch up to `positions`.

    Args:
        log: The event log.
        sources: The sources to keep. Records of other sources are skipped, and counted in `unknown`.
        upto: The last position to read in each partition. Partitions that are not named are not read.
        tables: Tables of record by source name, or a function that returns them. If they are given, the log may have
            been truncated up to the positions that the tables reach. They are read at the first `refresh`, and again by
            a `refresh` that finds that the log was truncated beyond the positions read so far.
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
        # By source and partition: the position that the source's table has reached.
        self._recorded: dict[str, dict[str, int]] = {}
        self._partitions: list[str] = []  # in the order in which they appeared
        self._versions = {source.name: Versions(source, self._partitions) for source in sources}
        self._frames: dict[str, EventFrame] = {}
        self.positions: dict[str, int] = {}
        self.unknown = 0

    @property
    def duplicates(self) -> dict[str, int]:
        """The number of records of each source that repeat a known event."""
        return {name: v.duplicates for name, v in self._versions.items()}

    @property
    def id_conflicts(self) -> dict[str, int]:
        """The number of records that give an id different content although the source has no key, by source."""
        return {name: v.id_conflicts for name, v in self._versions.items()}

    def keeps(self, source: Source) -> bool:
        """Return whether the history has the events of a source in the form that this source declares."""
        kept = self._versions.get(source.name)
        return kept is not None and kept.source == source

    def refresh(self) -> int:
        """Read the new records of the log. Returns the number of records.

        Records of several partitions are processed by (append time, partition, position).

        Raises:
            Misuse: Records that were not read yet have been truncated from the log.
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
                        f"history: {gap} They were truncated, and no table of record has them all: start from the "
                        "tables of record."
                    ) from None

    def frame(self, source: str) -> EventFrame:
        """Return the events of one source as of the last `refresh`.

        A frame never changes. The same object is returned until `refresh` finds new records of the source.

        Raises:
            NotFound: The history keeps no such source.
        """
        if source not in self._versions:
            raise NotFound(f"history: no source {source!r} among {', '.join(self._versions)}.")
        if source not in self._frames:
            self._frames[source] = self._versions[source].frame()
        return self._frames[source]

    def _read_tables(self) -> int:
        """Add the records of the tables that are not held yet.

        The log is then read from the end of the shortest table on.
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
            # A partition that is gone from the log cannot be read any further. Its position is that of the longest
            # table.
            position = min(reached) if partition in partitions else max(reached)
            self.positions[partition] = self._end(partition, max(position, self.positions.get(partition, 0)))
        return count

    def _end(self, partition: str, last: int) -> int:
        return last if self._upto is None else min(last, self._upto.get(partition, 0))

    def _take(self, parts: list[list[LogRecord]]) -> None:
        kept: dict[str, tuple[list[LogRecord], list[Event]]] = {}
        mixed: set[str] = set()  # sources with records in several partitions
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
            if name in mixed:  # a stable sort keeps the order of partitions among equal append times
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
