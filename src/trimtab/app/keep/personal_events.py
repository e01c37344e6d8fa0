"""Find a subject's events in the log and in the tables of record (the long-term store), and make replacements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, groupby

import msgspec
import numpy as np

from trimtab.app.keep.subjects import Fits, Subject
from trimtab.app.system import System
from trimtab.core.columns.data import Columns
from trimtab.events.definitions import Source
from trimtab.events.records import ERASED, Event, decode, encode, erased, known_at_us
from trimtab.events.tables import table_rows
from trimtab.store.log_places import records_between
from trimtab.store.ports import Log, LogRecord, Table
from trimtab.training.definitions import Model

Instead = dict[str, dict[int, bytes]]  # the new payload of a record, by partition and position
Place = tuple[str, int]  # partition and position
# For each model: the keys of erased requests, and which of these keys are also keys of requests that remain.
RequestKeys = dict[str, tuple[set[str], set[str]]]


class TableErasure(msgspec.Struct, frozen=True, kw_only=True):
    """The rows to erase from the table of record of one source, and the rows to add."""

    rows: list[tuple[str, int, str]]  # partition, position and operation
    instead: Columns | None  # rows that replace some of the erased rows


class _Seen(msgspec.Struct):
    """A record of the event log, of a table of record or of both, and whether to erase it."""

    source: str
    id: str
    order: tuple[int, str, int]  # orders the versions of an event: when it became known, partition, position
    deletes: bool
    wanted: bool  # whether this record is about the subject; False: only another version of its event is
    appended_at_us: int
    event: Event
    in_log: bool = False
    in_table: bool = False
    replaced: bool = False  # whether a deletion replaces the erased record
    goes: bool = True  # whether the record is erased


class PersonalEvents:
    """Finds a subject's events and the deletions of these events.

    In a source with a key, the versions of an event may belong to different entities. If an earlier version than the
    erased one belongs to another entity, the erased one is replaced by a deletion. Without the deletion, the earlier
    version would become valid again. # D26
    """

    def __init__(self, system: System, subject: Subject) -> None:
        self._system = system
        self._subject = subject
        self._sources = {source.name: source for source in system.sources}
        self._seen: dict[Place, _Seen] = {}

    def search_log(self) -> None:
        """Collect the records of the log that have the subject's key."""
        tests: dict[str, Fits] = {ERASED: lambda values: False}
        for record in _records(self._system.state.events):
            if self._subject.may_be_in(record.payload):
                event = decode(record.payload)
                if event.source not in tests:
                    tests[event.source] = self._subject.of_event(event.source)
                if tests[event.source](event.values):
                    self._add(record, event, wanted=True)

    def search_table(self, name: str, table: Table) -> None:
        """Collect the rows of a table that have the subject's key."""
        rows = table.scan()
        if rows.rows:
            chosen = self._subject.of_table(name if name in self._sources else None, rows)
            self._add_rows(name, rows, chosen, wanted=True)

    def follow_versions(self, tables: dict[str, Table]) -> None:
        """Collect the other versions of the events found so far, and decide which to erase or replace."""
        keyed = {name for name, source in self._sources.items() if source.key is not None}
        ids = {(s.source, s.id) for s in self._seen.values() if s.source in keyed}
        if not ids:
            return
        names = [name.encode() for name in dict.fromkeys(source for source, _ in ids)]
        for record in _records(self._system.state.events):
            if any(name in record.payload for name in names):
                event = decode(record.payload)
                if (event.source, event.id) in ids:
                    self._add(record, event, wanted=False)
        for name in {source for source, _ in ids} & tables.keys():
            rows = tables[name].scan()
            if rows.rows:
                chosen = [i for i, event_id in enumerate(rows["_id"].values.tolist()) if (name, event_id) in ids]
                self._add_rows(name, rows, chosen, wanted=False)
        versions = [s for s in self._seen.values() if (s.source, s.id) in ids]
        versions.sort(key=lambda s: (s.source, s.id, s.order))
        for _, group in groupby(versions, key=lambda s: (s.source, s.id)):
            another = False  # whether an earlier version belongs to another entity
            for seen in group:
                another |= not seen.wanted and not seen.deletes
                seen.replaced = seen.wanted and another
                seen.goes = seen.wanted or (seen.deletes and not another)

    def follow_labels(self, tables: dict[str, Table], keys: RequestKeys) -> None:
        """Collect the labels of erased requests, except those that also belong to requests of other entities."""
        models = self._system.definitions.models.values()
        # if the column with the key of the request is itself a key of the entity, `search_log` has found the labels
        links = [
            _Link(m, keys) for m in models if (m.label.key,) not in self._subject.places.get(m.label.source.name, [])
        ]
        links = [link for link in links if link.keys]
        if not links:
            return
        found: list[tuple[_Link, str, LogRecord, Event]] = []
        for record, event in self._linked(links, tables):
            for link in links:
                if event.source == link.requests and not self._goes(record):
                    link.keep(event)
                elif event.source == link.labels and (key := link.key_of(event, self._sources)) is not None:
                    found.append((link, key, record, event))
        alone = [(record, event) for link, key, record, event in found if key in link.keys]
        for record, event in alone:
            self._add(record, event, wanted=True)
        if alone:
            self.follow_versions(tables)

    def _linked(self, links: list[_Link], tables: dict[str, Table]) -> Iterator[tuple[LogRecord, Event]]:
        """Yield the request and label events of these models, from the log and from the tables."""
        names = [name.encode() for name in dict.fromkeys(n for link in links for n in (link.requests, link.labels))]
        for record in _records(self._system.state.events):
            if any(name in record.payload for name in names):
                yield record, decode(record.payload)
        for link in links:
            for name in {link.requests, link.labels} & tables.keys():
                rows = tables[name].scan()
                column = "_id" if name == link.requests else link.column
                chosen = [i for i, value in enumerate(rows[column].values.tolist()) if str(value) in link.keys]
                yield from self._rows(name, rows, chosen)

    def instead(self) -> Instead:
        """Return the new payloads of log records, by partition and position."""
        found: Instead = {}
        for (partition, position), seen in self._seen.items():
            if seen.goes and seen.in_log:
                payload = encode(self._deletion(seen)) if seen.replaced else erased(seen.source)
                found.setdefault(partition, {})[position] = payload
        return found

    def in_tables(self) -> dict[str, TableErasure]:
        """Return the rows to erase from the tables and their replacements, by source."""
        found: dict[str, TableErasure] = {}
        going = sorted((s.source, place) for place, s in self._seen.items() if s.goes and s.in_table)
        for name, group in groupby(going, key=lambda one: one[0]):
            places = [place for _, place in group]
            seen = [self._seen[place] for place in places]
            rows = [(*place, "delete" if s.deletes else "upsert") for place, s in zip(places, seen, strict=True)]
            put = [
                (LogRecord(*place, s.appended_at_us, b""), self._deletion(s))
                for place, s in zip(places, seen, strict=True)
                if s.replaced
            ]
            found[name] = TableErasure(rows=rows, instead=table_rows(self._sources[name], put) if put else None)
        return found

    def by_source(self) -> Counter[str]:
        """Return the number of erased records by source. A record that is in the log and in a table counts once."""
        return Counter(seen.source for seen in self._seen.values() if seen.goes)

    def _add(self, record: LogRecord, event: Event, *, wanted: bool) -> None:
        place = record.partition, record.position
        seen = self._seen.get(place)
        if seen is None:
            order = known_at_us(event, record), *place
            deletes = event.op == "delete"
            seen = _Seen(event.source, event.id, order, deletes, wanted, record.appended_at_us, event)
            self._seen[place] = seen
        seen.wanted |= wanted
        seen.in_log |= bool(record.payload)  # `_rows` gives the rows of tables no payload
        seen.in_table |= not record.payload

    def _add_rows(self, name: str, rows: Columns, chosen: list[int], *, wanted: bool) -> None:
        for record, event in self._rows(name, rows, chosen):
            self._add(record, event, wanted=wanted)

    def _rows(self, name: str, rows: Columns, chosen: list[int]) -> Iterator[tuple[LogRecord, Event]]:
        columns = self._sources[name].columns if name in self._sources else {}
        for row in rows.take(np.array(chosen, np.int64)).to_rows():
            event = Event(
                name,
                row["_id"],
                row["_event_at"],
                row["_known_at"],
                row["_op"],
                bool(row["_history"]),
                tuple(row.get(column) for column in columns),
            )
            yield LogRecord(row["_partition"], row["_position"], row["_append_at"], b""), event

    def _deletion(self, seen: _Seen) -> Event:
        """Return the deletion that replaces an erased version. It keeps only the key and the time of the event."""
        source, event = self._sources[seen.source], seen.event
        kept = {source.key, source.time}
        values = [v if name in kept else None for name, v in zip(source.columns, event.values, strict=False)]
        return msgspec.structs.replace(event, op="delete", values=tuple(values))

    def erased_ids(self, source: str) -> set[str]:
        """Return the ids of a source's erased events."""
        return {seen.id for seen in self._seen.values() if seen.source == source and seen.goes and not seen.deletes}

    def _goes(self, record: LogRecord) -> bool:
        seen = self._seen.get((record.partition, record.position))
        return seen is not None and seen.goes


class _Link:
    """The keys that only erased requests of a model have, and the column in which labels have such a key."""

    def __init__(self, model: Model, keys: RequestKeys) -> None:
        self.requests, self.labels, self.column = model.request.name, model.label.source.name, model.label.key
        erased, shared = keys[model.name]
        self.keys = erased - shared

    def keep(self, event: Event) -> None:
        """Record that a request remains, so that labels with its key stay, even if an erased request has this key."""
        if event.op == "upsert":
            self.keys.discard(event.id)

    def key_of(self, event: Event, sources: Mapping[str, Source]) -> str | None:
        """Return the key of the request that a label event names, if only erased requests have it; else None."""
        place = list(sources[self.labels].columns).index(self.column)
        value = event.values[place] if place < len(event.values) else None
        return None if value is None or str(value) not in self.keys else str(value)


def _records(log: Log) -> Iterator[LogRecord]:
    for partition, last in log.positions().items():
        yield from chain.from_iterable(records_between(log, partition, 0, last))
