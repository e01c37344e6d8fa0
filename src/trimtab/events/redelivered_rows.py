"""Find rows that are sent again: as they were stored, or after columns were added to the source or removed. # D34

In the second case, rows of a source without a key may get new ids, so that they would be stored as new events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from trimtab.events.columns.key_index import KeyIndex
from trimtab.events.definitions import Source
from trimtab.events.records import Event, decode_all
from trimtab.events.tables import Moved, recorded
from trimtab.events.values.fitting import FileRows
from trimtab.store.log_places import records_between
from trimtab.store.ports import Log


def changed_columns(source: Source, rows: FileRows) -> list[str]:
    """Return the columns that would give new ids to rows that were stored before; none if the source has a key.

    These are the columns added to the source in which a row has a value, and the removed ones that the rows still have.
    """
    if source.key is not None:
        return []
    added = [name for place, name in enumerate(source.columns) if _added(source, place) and name in rows.columns]
    return [name for name in added if rows.columns[name].present().any()] + [
        name for name in source.hidden if name in rows.ignored
    ]


def redelivered(source: Source, events: Iterable[Event], log: Log, moved: Moved) -> int:
    """Count the events that would be stored as new, but differ from a stored event only in added or removed columns.

    The log and its permanent copy (the table of record) are read once from beginning to end.

    Args:
        source: The source of the events, as returned by `laid_out`.
        moved: The part of the log that was moved to tables of record.
    """
    added = [place for place in range(len(source.columns)) if _added(source, place)]
    both = [place for place, name in enumerate(source.columns) if place not in added and name not in source.hidden]
    # the values of given events in the columns `added`, by their values in the columns `both`, then by id
    known: dict[object, dict[str, tuple[object, ...]]] = {}
    for event in events:
        known.setdefault(_identity(event, both), {})[event.id] = _values(event, added)
    again: set[str] = set()
    there: set[str] = set()
    for block in _recorded(source, log, moved, log.positions()):
        for event in block:
            same = known.get(_identity(event, both)) if event.source == source.name else None
            if same is None:
                continue
            there.add(event.id)
            had = _values(event, added)
            again.update(
                one for one, has in same.items() if all(a is None or a == b for a, b in zip(had, has, strict=True))
            )
    return len(again - there)


def new_and_changed(
    source: Source, log: Log, index: KeyIndex, before: Mapping[str, int], partition: str, last: int
) -> tuple[int, int]:
    """Return how many of the appended events have a new id, and how many change an event. All others repeat an event.

    Args:
        index: The index of the log by the ids of events.
        before: The positions of the log before the events were appended.
        partition: The partition to which they were appended.
        last: The position of the last of them.
    """
    appended: dict[int, str] = {}  # the id of each event, by the hash of the event
    for records in records_between(log, partition, before.get(partition, 0), last):
        events = decode_all([one.payload for one in records])
        appended |= {_hash(event): event.id for event in events if event.source == source.name}
    ids, known = set(appended.values()), set[str]()
    found = index.find(source, index.seen(source.name, list(ids), before))
    for event in decode_all([one.payload for one in found if one.position <= before.get(one.partition, 0)]):
        known.add(event.id)
        appended.pop(_hash(event), None)
    new = len(set(appended.values()) - known)
    return new, len(appended) - new


def _hash(event: Event) -> int:
    """Return a hash of what an event says, without the time at which it became known."""
    width = len(event.values)
    while width and event.values[width - 1] is None:  # the source may have had fewer columns
        width -= 1
    return hash(msgspec.msgpack.encode((event.id, event.event_at_us, event.op, event.values[:width])))


def _added(source: Source, place: int) -> bool:
    return source.first is not None and place >= source.first


def _identity(event: Event, places: Sequence[int]) -> object:
    return event.id.rpartition("@")[0], event.event_at_us, _values(event, places)


def _values(event: Event, places: Sequence[int]) -> tuple[object, ...]:
    return tuple(event.values[place] if place < len(event.values) else None for place in places)


def _recorded(source: Source, log: Log, moved: Moved, until: Mapping[str, int]) -> Iterator[Sequence[Event]]:
    tables = {name: table for name, table in moved.tables.items() if name == source.name}
    for records in recorded(tables, [source], {}):
        yield decode_all([record.payload for record in records])
    for partition, last in until.items():
        for records in records_between(log, partition, 0, last):
            yield decode_all([record.payload for record in records])
