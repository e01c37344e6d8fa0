"""The log in columns: every version of every event of the declared sources, up to a position."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, compress, islice

from trimtab.core.errors import Misuse, NotFound
from trimtab.events.definitions import Source
from trimtab.events.frames import EventFrame
from trimtab.events.records import Event, decode
from trimtab.events.tables import Recorded, read_table
from trimtab.events.versions import Versions
from trimtab.store.ports import Log, LogRecord, Table

_BATCH = 10_000


class History:
    """A columnar view of an event log.

    It reads when told to (`refresh`), and is then the same as a history built from nothing up to `positions`.

    Args:
        log: The event log.
        sources: The sources to keep; records of others are skipped and counted in `unknown`.
        upto: Read no further than this position of each partition (partitions not named: not at all).
        tables: Tables of record by source name, to start from: then the log may have been truncated up to where they
            reach. They are read at the first `refresh`.
    """

    def __init__(
        self,
        log: Log,
        sources: Sequence[Source],
        *,
        upto: Mapping[str, int] | None = None,
        tables: Mapping[str, Table] | None = None,
    ) -> None:
        self._log = log
        self._upto = upto
        self._tables = dict(tables or {})
        self._recorded: dict[str, dict[str, int]] = {}  # source -> partition -> position that its table reached
        self._partitions: list[str] = []  # in the order seen
        self._versions = {source.name: Versions(source, self._partitions) for source in sources}
        self._frames: dict[str, EventFrame] = {}
        self.positions: dict[str, int] = {}
        self.unknown = 0

    @property
    def duplicates(self) -> dict[str, int]:
        """Records of each source that repeat what was known."""
        return {name: v.duplicates for name, v in self._versions.items()}

    @property
    def id_conflicts(self) -> dict[str, int]:
        """Records of each source that give an id another content although the source has no key."""
        return {name: v.id_conflicts for name, v in self._versions.items()}

    def refresh(self) -> int:
        """Read what is new in the log; how many records.

        Records of several partitions are taken by (append time, partition, position).

        Raises:
            Misuse: Records that were not read yet have been truncated from the log.
        """
        count = self._read_tables()
        ends = {name: self._end(name, last) for name, last in self._log.positions().items()}
        streams = [self._new(name, end) for name, end in sorted(ends.items()) if end > self.positions.get(name, 0)]
        records = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_log_order)
        while batch := list(islice(records, _BATCH)):
            self._take(batch)
            count += len(batch)
        return count

    def frame(self, source: str) -> EventFrame:
        """The events of one source as of the last `refresh`.

        A frame never changes; the same object comes back until `refresh` finds new records of the source.

        Raises:
            NotFound: The history keeps no such source.
        """
        if source not in self._versions:
            raise NotFound(f"history: no source {source!r} among {', '.join(self._versions)}.")
        if source not in self._frames:
            self._frames[source] = self._versions[source].frame()
        return self._frames[source]

    def _read_tables(self) -> int:
        """At the first refresh, take what the tables have and begin the log where the shortest of them ends."""
        if self._recorded or not self._tables:
            return 0
        partitions = list(self._log.positions())
        found = {
            name: read_table(self._tables[name], partitions, self._upto) if name in self._tables else Recorded(None, {})
            for name in self._versions
        }
        self._recorded = {name: recorded.reached for name, recorded in found.items()}
        self._partitions += sorted({p for recorded in found.values() for p in recorded.reached})
        count = 0
        for name, recorded in found.items():
            if recorded.rows is not None:
                self._versions[name].add_table(recorded.rows)
                count += recorded.rows.rows
        for partition in self._partitions:
            reached = [positions.get(partition, 0) for positions in self._recorded.values()]
            # A partition that is gone from the log cannot be read on: it is where the longest table says.
            position = min(reached) if partition in partitions else max(reached)
            self.positions[partition] = self._end(partition, position)
        return count

    def _end(self, partition: str, last: int) -> int:
        return last if self._upto is None else min(last, self._upto.get(partition, 0))

    def _new(self, partition: str, end: int) -> Iterator[LogRecord]:
        after = self.positions.get(partition, 0)
        return chain.from_iterable(self._chunks(partition, after, end))

    def _chunks(self, partition: str, after: int, end: int) -> Iterator[list[LogRecord]]:
        while after < end:
            chunk = self._log.read(partition, after, limit=min(_BATCH, end - after))
            found = chunk[0].position if chunk else None
            if found != after + 1:
                raise Misuse(
                    f"history: needs the records of partition {partition!r} from {after + 1} to {end}, found "
                    f"{'none' if found is None else f'{found} as the first'} . They were "
                    "truncated: start from the tables of record."
                )
            yield chunk
            after = chunk[-1].position

    def _take(self, records: list[LogRecord]) -> None:
        for name in dict.fromkeys([r.partition for r in records]):
            if name not in self._partitions:
                self._partitions.append(name)
        groups: dict[str, tuple[list[LogRecord], list[Event]]] = {name: ([], []) for name in self._versions}
        for record in records:
            event = decode(record.payload)
            group = groups.get(event.source)
            if group is None:
                self.unknown += 1
            else:
                group[0].append(record)
                group[1].append(event)
        for name, (kept, events) in groups.items():
            reached = self._recorded.get(name)
            if reached:
                new = [r.position > reached.get(r.partition, 0) for r in kept]
                kept, events = list(compress(kept, new)), list(compress(events, new))
            if kept:
                self._frames.pop(name, None)
                self._versions[name].add(kept, events)
        self.positions.update({r.partition: r.position for r in records})


def _log_order(record: LogRecord) -> tuple[int, str, int]:
    return record.appended_at_us, record.partition, record.position
