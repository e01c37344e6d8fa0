"""Count the events of each source for the status, without reading the whole log.

The counts are stored in the catalogue with the log positions up to which records are counted, so only newer records are
read. Each new record is compared with the earlier versions of its event, which an index finds, so the counts are the
same as if the whole history were read.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from trimtab.app.state.state import INDEX
from trimtab.app.system import System
from trimtab.core.errors import Conflict, Unavailable
from trimtab.events.columns.versions import EventCount, Versions
from trimtab.events.definitions import Source
from trimtab.events.records import ERASED, Head, decode_all, decode_heads
from trimtab.events.tables import recorded_between
from trimtab.store.ports import LogRecord, Put, Remove

KIND = "source_counts"  # the kind of the catalogue record
_KEY = "all"
_FEW = 20_000  # at most this many records are read for a status: in 100 ms by `_exact`, in 30 ms by `_with_new`
_NONE = EventCount()
_BATCH = 100_000  # records are read in batches of this many


class SourceCounts(msgspec.Struct, frozen=True):
    """The number of events of each source in the log up to some positions."""

    positions: dict[str, int] = {}  # for each partition, the position of the last record that is counted
    sources: dict[str, EventCount] = {}
    unknown: int = 0  # the number of records of undeclared sources; 0 from `_with_new`, whose `sources` include them
    behind: int = 0  # the number of records in the log that are not counted yet

    def of(self, source: str) -> EventCount:
        """Return the counts of a source."""
        return self.sources.get(source) or EventCount()


def read_counts(system: System) -> SourceCounts:
    """Return the counts for a status. At most 20,000 records are read for it.

    If more records are new, `behind` says how many are not counted; `store_counts` counts all.
    """
    return _exact(system) if _is_small(system) else _with_new(system, most=_FEW)


class Appended(msgspec.Struct, frozen=True):
    """Events of one source that were just appended, one after the other. Each has a new id."""

    partition: str
    first: int  # the position of the first
    last: int
    source: str
    newest_us: int  # the newest event time


def store_counts(system: System, appended: Appended | None = None) -> None:
    """Count all new records, and store the result for `read_counts`. Those in `appended` need not be read.

    For a small log, nothing is done, because `read_counts` counts all of its records.
    """
    if not _is_small(system):
        _with_new(system, appended=appended)


def discard_counts(system: System) -> None:
    """Drop the history from memory, and delete the folder `INDEX` and the stored counts.

    Call this before events are removed, and `store_counts` afterwards.
    """
    system.drop_history()
    shutil.rmtree(system.state_folder / INDEX, ignore_errors=True)
    system.state.catalog.write([Remove(KIND, _KEY)])


def _is_small(system: System) -> bool:
    return sum(system.state.events.positions().values()) <= _FEW


def _exact(system: System) -> SourceCounts:
    sources, positions = system.history.counts_at()
    return SourceCounts(positions, sources, system.history.unknown)


def _stored(system: System) -> tuple[SourceCounts, int]:
    """Return the stored counts, and the revision of their record.

    If the stored counts do not fit the log, empty counts are returned instead.
    """
    record, ends = system.state.catalog.get(KIND, _KEY), system.state.events.positions()
    if record is None:
        return SourceCounts(), 0
    stored = msgspec.json.decode(record.body, type=SourceCounts)
    if any(position > ends.get(name, position) for name, position in stored.positions.items()):
        return SourceCounts(), record.revision  # an older copy replaced the log
    return stored, record.revision


def _store(system: System, before: SourceCounts, revision: int, now: SourceCounts) -> None:
    if now != before:
        # if the disk cannot be written, or another process wrote or removed counts, the next status counts again
        with suppress(Conflict, Unavailable):
            system.state.catalog.write([Put(KIND, _KEY, msgspec.json.encode(now), expected=revision)])


def _with_new(system: System, *, most: int | None = None, appended: Appended | None = None) -> SourceCounts:
    """Add the new records to the stored counts, at most `most` of them, and store the result."""
    log, (stored, revision) = system.state.events, _stored(system)
    ends, moved = log.positions(), system.state.moved(system.sources)
    positions, sources = dict(stored.positions), dict(stored.sources)
    left = sum(ends.values()) if most is None else most
    for partition, end in ends.items():
        after = positions.get(partition, 0)
        if most is not None and moved.through.get(partition, 0) > after:
            continue  # the next records were moved to the tables of record, where reading is too slow for a status
        known = (
            appended if appended is not None and partition == appended.partition and after < appended.first else None
        )
        for until in (end,) if known is None else (known.first - 1, end):
            span = partition, after, min(until, after + left)
            for records, reached in recorded_between(log, moved, system.sources, span, batch=_BATCH):
                _add(system, sources, records, positions)
                left -= reached - after
                positions[partition] = after = reached
            if known is not None and after == known.first - 1:
                new = EventCount(events=known.last - after, newest_us=known.newest_us)
                sources[known.source] = _sum(sources.get(known.source) or EventCount(), new)
                positions[partition] = after = known.last
    counted = SourceCounts(positions, sources)
    _store(system, stored, revision, counted)
    behind = sum(max(0, end - positions.get(name, 0)) for name, end in ends.items())
    return msgspec.structs.replace(counted, behind=behind)


def _add(
    system: System, sources: dict[str, EventCount], records: Sequence[LogRecord], positions: Mapping[str, int]
) -> None:
    """Add records to the counts. All records up to `positions` are counted already."""
    by_source: dict[str, list[tuple[Head, LogRecord]]] = {}
    for head, record in zip(decode_heads([one.payload for one in records]), records, strict=True):
        by_source.setdefault(head.source, []).append((head, record))
    by_source.pop(ERASED, None)
    for name, new in by_source.items():
        before, source = sources.get(name) or EventCount(), system.definitions.sources.get(name)
        ids = [head.id for head, _ in new]
        again = system.event_ids.seen(name, ids, positions)
        again |= {one for one, times in Counter(ids).items() if times > 1} if len(set(ids)) < len(ids) else set()
        alone = [head.event_at_us for head, _ in new if head.id not in again]
        found = EventCount(events=len(alone), newest_us=max(alone, default=None))
        if again and source is not None:
            earlier = [
                one for one in system.event_ids.find(source, again) if one.position <= positions.get(one.partition, 0)
            ]
            later = [*earlier, *(record for head, record in new if head.id in again)]
            found = _sum(found, _count(source, later), _count(source, earlier))
        elif again:  # events of a source that is not declared cannot be compared
            found = EventCount(events=len(new), newest_us=max(head.event_at_us for head, _ in new), exact=False)
        sources[name] = _sum(before, found)


def _count(source: Source, records: Sequence[LogRecord]) -> EventCount:
    versions = Versions(source, list(dict.fromkeys(one.partition for one in records)))
    if records:
        versions.add(records, decode_all([one.payload for one in records]))
    return versions.count()


def _sum(one: EventCount, more: EventCount, less: EventCount = _NONE) -> EventCount:
    times = [time for time in (one.newest_us, more.newest_us) if time is not None]
    return EventCount(
        events=one.events + more.events - less.events,
        newest_us=max(times, default=None),
        duplicates=one.duplicates + more.duplicates - less.duplicates,
        id_conflicts=one.id_conflicts + more.id_conflicts - less.id_conflicts,
        exact=one.exact and more.exact,
    )
