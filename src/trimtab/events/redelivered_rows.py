"""Detection of recorded rows that are sent again after their source's columns changed. # D34

Such rows would be recorded as new events, because their ids have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from trimtab.events.definitions import Source
from trimtab.events.records import Event, decode_all
from trimtab.events.tables import Moved, recorded
from trimtab.events.values.fitting import FileRows
from trimtab.store.ports import Log


def changed_columns(source: Source, rows: FileRows) -> list[str]:
    """Return the columns because of which rows of a source without a key get other ids than before.

    These are columns that were added to the source and have a value in some row, and columns that the rows still have
    although the source does not declare them any more.
    """
    if source.key is not None:
        return []
    added = [name for place, name in enumerate(source.columns) if _added(source, place) and name in rows.columns]
    return [name for name in added if rows.columns[name].present().any()] + [
        name for name in source.hidden if name in rows.ignored
    ]


def redelivered(source: Source, events: Iterable[Event], log: Log, moved: Moved) -> int:
    """Count the events that equal a recorded event except for changed columns, but would be recorded as new events.

    The log and the table of record are read once.

    Args:
        source: The source of the events, with its columns in their places.
        events: The events in the form in which they would be recorded.
        log: The event log.
        moved: The part of the log that is in tables of record.
    """
    added = [place for place in range(len(source.columns)) if _added(source, place)]
    both = [place for place, name in enumerate(source.columns) if place not in added and name not in source.hidden]
    known: dict[object, dict[str, tuple[object, ...]]] = {}  # by values in `both`, then by id: the values in `added`
    for event in events:
        known.setdefault(_identity(event, both), {})[event.id] = _values(event, added)
    again: set[str] = set()
    there: set[str] = set()
    for block in _recorded(source, log, moved):
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


def _added(source: Source, place: int) -> bool:
    return source.first is not None and place >= source.first


def _identity(event: Event, places: Sequence[int]) -> object:
    return event.id.rpartition("@")[0], event.event_at_us, _values(event, places)


def _values(event: Event, places: Sequence[int]) -> tuple[object, ...]:
    return tuple(event.values[place] if place < len(event.values) else None for place in places)


def _recorded(source: Source, log: Log, moved: Moved) -> Iterator[Sequence[Event]]:
    tables = {name: table for name, table in moved.tables.items() if name == source.name}
    for records in recorded(tables, [source], {}):
        yield decode_all([record.payload for record in records])
    for partition, last in log.positions().items():
        after = 0
        while after < last and (found := log.read(partition, after)):
            yield decode_all([record.payload for record in found])
            after = found[-1].position
