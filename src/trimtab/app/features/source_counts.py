"""Count the events of each source for the status, without reading the whole log.

The counts are stored in the catalogue with the log positions up to which records are counted, so only newer records are
read. If the history (the event log in memory) is used to count, the counts are exact. Otherwise, records are not
compared with earlier events, so a repetition of an event counts as another event.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import msgspec

from trimtab.app.system import System
from trimtab.core.errors import Conflict, Unavailable
from trimtab.events.columns.versions import EventCount
from trimtab.events.records import ERASED, decode_heads
from trimtab.store.duckdb_opening import open_duckdb
from trimtab.store.ports import Put, Remove

KIND = "source_counts"  # the kind of the catalogue record
_KEY = "all"
_FEW = 20_000  # at most this many records are read for a status: 100 ms with a history, 30 ms without
_BATCH = 10_000


class SourceCounts(msgspec.Struct, frozen=True):
    """The number of events of each source in the log up to some positions."""

    positions: dict[str, int] = {}  # for each partition, the position of the last record that is counted
    sources: dict[str, EventCount] = {}
    unknown: int = 0  # the number of records of undeclared sources, which are not in `sources`
    behind: int = 0  # the number of records in the log that are not counted

    def of(self, source: str) -> EventCount:
        """Return the counts of a source."""
        return self.sources.get(source) or EventCount()


def read_counts(system: System) -> SourceCounts:
    """Return the counts for a status, for which at most 20,000 records are read.

    They are exact if the log has at most so many records, or if the history is in memory. If more records are new,
    `behind` says how many are not counted; `store_counts` counts all.
    """
    if system.in_memory() and (_is_small(system) or _has_history(system)):
        return _exact(system)
    return _with_new(system, most=_FEW)


def store_counts(system: System) -> None:
    """Count all new records, and store the result for `read_counts`.

    The counts are exact if the history is in memory. Otherwise the records are read once, in batches.
    """
    if _is_small(system):
        return
    if system.in_memory() and _has_history(system):
        _store(system, *_stored(system), _exact(system))
    else:
        _with_new(system)


def discard_counts(system: System) -> None:
    """Remove the stored counts. Call this before events are removed, and `store_counts` afterwards."""
    if "_history" in system.__dict__:
        system.history.outdated = True
    system.state.catalog.write([Remove(KIND, _KEY)])


def _is_small(system: System) -> bool:
    return sum(system.state.events.positions().values()) <= _FEW


def _has_history(system: System) -> bool:
    """Return whether the history is in memory, and holds no event that was removed since it was read."""
    return "_history" in system.__dict__ and not system.history.outdated


def _exact(system: System) -> SourceCounts:
    sources, positions = system.history.counts_at()
    return SourceCounts(positions, sources, system.history.unknown)


def _stored(system: System) -> tuple[SourceCounts, int]:
    """Return the stored counts, and the revision of their record.

    If the stored counts do not fit the log or the declared sources, empty counts are returned instead.
    """
    record, ends = system.state.catalog.get(KIND, _KEY), system.state.events.positions()
    if record is None:
        return SourceCounts(), 0
    stored = msgspec.json.decode(record.body, type=SourceCounts)
    if any(position > ends.get(name, position) for name, position in stored.positions.items()):
        return SourceCounts(), record.revision  # an older copy replaced the log
    if stored.unknown and not stored.sources.keys() >= system.definitions.sources.keys():
        # the unknown records may be those of a source that was declared since
        return SourceCounts(), record.revision
    return stored, record.revision


def _store(system: System, before: SourceCounts, revision: int, now: SourceCounts) -> None:
    if now != before:
        # the disk cannot be written, or another process wrote or removed counts: the next status counts again
        with suppress(Conflict, Unavailable):
            system.state.catalog.write([Put(KIND, _KEY, msgspec.json.encode(now), expected=revision)])


def _with_new(system: System, *, most: int | None = None) -> SourceCounts:
    """Add the new records to the stored counts, at most `most` of them, and store the result."""
    log, (stored, revision) = system.state.events, _stored(system)
    ends = log.positions()
    positions, sources = dict(stored.positions), dict(stored.sources)
    left = sum(ends.values()) if most is None else most
    for partition, end in ends.items():
        after = positions.get(partition, 0)
        while after < end and left:
            records = log.read(partition, after, limit=min(_BATCH, end - after, left))
            first = records[0].position if records else end + 1
            if first > after + 1:  # earlier records were removed from the log
                if most is not None:
                    break
                _add(sources, _in_tables(system, partition, after, first - 1))
                after = first - 1
                continue
            _add(sources, ((head.source, 1, head.event_at_us) for head in decode_heads([r.payload for r in records])))
            after, left = records[-1].position, left - len(records)
        positions[partition] = after
    counted = SourceCounts(positions, sources, stored.unknown)
    _store(system, stored, revision, counted)
    behind = sum(max(0, end - positions.get(name, 0)) for name, end in ends.items())
    return msgspec.structs.replace(counted, behind=behind)


def _add(sources: dict[str, EventCount], new: Iterable[tuple[str, int, int]]) -> None:
    """Add records to the counts. `new` yields source, number of records, and their newest event time."""
    found: dict[str, tuple[int, int]] = {}
    for source, records, newest_us in new:
        count, before_us = found.get(source, (0, newest_us))
        found[source] = count + records, max(before_us, newest_us)
    found.pop(ERASED, None)
    for source, (records, newest_us) in found.items():
        before = sources.get(source) or EventCount()
        sources[source] = msgspec.structs.replace(
            before,
            events=before.events + records,
            newest_us=newest_us if before.newest_us is None else max(before.newest_us, newest_us),
            exact=False,
        )


def _in_tables(system: System, partition: str, after: int, last: int) -> list[tuple[str, int, int]]:
    """Count the records between two positions of a partition in the tables of record, for `_add`."""
    from trimtab.app.features.recorded_events import table_files  # imported here: they load DuckDB
    from trimtab.features.parts.event_files import literal, parquet

    found: list[tuple[str, int, int]] = []
    between = f'"_partition" = {literal(partition)} AND "_position" > {after} AND "_position" <= {last}'
    with open_duckdb() as connection:
        for source, table in system.state.tables(system.sources, make=False).items():
            if files := table_files(table):
                query = f'SELECT count(*), epoch_us(max("_event_at")) FROM {parquet(files)} WHERE {between}'
                found += [(source, n, newest_us) for n, newest_us in connection.execute(query).fetchall() if n]
    return found
