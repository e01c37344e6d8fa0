"""Rows that were recorded before their source's columns changed, and come again: they would count once more. # D48"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from trimtab.events.definitions import Source
from trimtab.events.records import Event, decode_all
from trimtab.events.tables import Moved, recorded
from trimtab.events.values.fitting import FileRows
from trimtab.store.ports import Log


def changed_columns(source: Source, rows: FileRows) -> list[str]:
    """The columns by which rows of a source without a key may say otherwise what they said before.

    Those that were added to the source and have a value in some row, and those that the rows still have and the source
    declares no more.
    """
    if source.key is not None:
        return []
    added = [name for place, name in enumerate(source.columns) if _added(source, place) and name in rows.columns]
    return [name for name in added if rows.columns[name].present().any()] + [
        name for name in source.hidden if name in rows.ignored
    ]


def redelivered(source: Source, events: Iterable[Event], log: Log, moved: Moved) -> int:
    """How many events say what a recorded one said, but for columns that came or went since, and are not that event.

    Reads the log once, and what is in tables of record.

    Args:
        source: Theirs, its columns in their places.
        events: As they would be recorded.
        log: The event log.
        moved: Which of it is in tables.
    """
    added = [place for place in range(len(source.columns)) if _added(source, place)]
    both = [place for place, name in enumerate(source.columns) if place not in added and name not in source.hidden]
    asked: dict[object, dict[str, tuple[object, ...]]] = {}  # what they say in `both`: by id, what in `added`
    for event in events:
        asked.setdefault(_said(event, both), {})[event.id] = _values(event, added)
    again: set[str] = set()
    there: set[str] = set()
    for block in _recorded(source, log, moved):
        for event in block:
            same = asked.get(_said(event, both)) if event.source == source.name else None
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


def _said(event: Event, places: Sequence[int]) -> object:
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
