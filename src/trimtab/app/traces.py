"""Where a subject has left traces: in logs, tables, stored answers and training sets, and what is to stand there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trimtab import store
from trimtab.app.subjects import Subject
from trimtab.app.training_data import request_shape
from trimtab.core.columns import Columns
from trimtab.core.errors import NotFound
from trimtab.core.records import Prediction
from trimtab.core.urls import store_url
from trimtab.events.definitions import Source
from trimtab.events.quarantine import Quarantined
from trimtab.events.records import ERASED, Event, decode, encode, erased, known_at_us
from trimtab.events.tables import table_rows
from trimtab.registry.versions import Version
from trimtab.serving.precomputed import stored_requests
from trimtab.store.ports import Log, LogRecord, Table
from trimtab.training.parquet import read_parquet
from trimtab.training.sets import load_manifest

if TYPE_CHECKING:
    from trimtab.app.project import Project

Instead = dict[str, dict[int, bytes]]  # by partition and position: what stands there afterwards
Place = tuple[str, int]  # partition, position
_BATCH = 10_000
_PARQUET = b"PAR1"


class SeenSet(msgspec.Struct, frozen=True, kw_only=True):
    """A stored training set that has rows of the subject."""

    blob: str  # of its rows
    rows: int
    versions: tuple[str, ...]  # fitted on it


class TableTraces(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one source's table of record."""

    rows: list[tuple[str, int, str]]  # partition, position, op
    instead: Columns | None  # rows to put in


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found of a subject."""

    events: Instead
    sources: dict[str, int]  # events by source
    tables: dict[str, TableTraces]  # by source
    predictions: Instead
    quarantine: Instead
    answers: list[bytes]  # keys
    sets: list[SeenSet]

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {
            "events": _size(self.events),
            "table_rows": sum(len(table.rows) for table in self.tables.values()),
            "predictions": _size(self.predictions),
            "quarantined": _size(self.quarantine),
            "stored_answers": len(self.answers),
            "training_sets": len(self.sets),
        }


def find_traces(project: Project, subject: Subject) -> Traces:
    """Look everywhere; nothing is changed."""
    state = project.state
    found = _Events(project, subject)
    for record in _records(state.events):
        found.look(record)
    with open_tables(project) as tables:
        for name, table in tables.items():
            found.look_at_table(name, table)
        found.follow_versions(tables)
    return Traces(
        events=found.instead(),
        sources=dict(found.by_source()),
        tables=found.in_tables(),
        predictions=_predictions(project, subject),
        quarantine=project.quarantine.find(lambda row: _refused(subject, row)),
        answers=_answers(project, subject) if (state.folder / "answers").exists() else [],
        sets=list(_training_sets(project, subject)),
    )


@contextmanager
def open_tables(project: Project) -> Iterator[dict[str, Table]]:
    """Every table of record there is, those of sources that are not declared any more among them."""
    folder = project.state.folder / "tables"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    with ExitStack() as opened:
        tables = {name: store.open(store_url("delta", folder / name), "table") for name in names}
        for table in tables.values():
            opened.callback(table.close)
        yield tables


class _Seen(msgspec.Struct):
    """One record of the event log or a table: whether it goes, and what its id's other records need to know."""

    source: str
    id: str
    order: tuple[int, str, int]  # known at, partition, position: the order of an id's versions
    deletes: bool
    wanted: bool  # it carries the key itself
    appended_at_us: int
    event: Event
    in_log: bool = False
    in_table: bool = False
    replaced: bool = False  # a deletion takes its place
    goes: bool = True


class _Events:
    """Finds a subject's events, and the deletions that name them.

    A source with a key may have corrections: where an event had been another entity's before it was the subject's, a
    deletion takes the place of the subject's version, or the version before would count again. # D26
    """

    def __init__(self, project: Project, subject: Subject) -> None:
        self._project = project
        self._subject = subject
        self._sources = {source.name: source for source in project.sources}
        self._seen: dict[Place, _Seen] = {}

    def look(self, record: LogRecord) -> None:
        """Note a record of the log if it carries the key."""
        if not self._subject.may_be_in(record.payload):
            return
        event = decode(record.payload)
        if event.source != ERASED and self._subject.of_event(event.source)(event.values):
            self._note(record, event, wanted=True)

    def look_at_table(self, name: str, table: Table) -> None:
        """Note the rows of a table that carry the key."""
        rows = table.scan()
        if rows.rows:
            chosen = self._subject.of_table(name if name in self._sources else None, rows)
            self._note_rows(name, rows, chosen, wanted=True)

    def follow_versions(self, tables: dict[str, Table]) -> None:
        """Note the other versions of the events that were found, and decide what becomes of each."""
        ids = {(s.source, s.id) for s in self._seen.values() if self._keyed(s.source)}
        if not ids:
            return
        names = [name.encode() for name in dict.fromkeys(source for source, _ in ids)]
        for record in _records(self._project.state.events):
            if any(name in record.payload for name in names):
                event = decode(record.payload)
                if (event.source, event.id) in ids:
                    self._note(record, event, wanted=False)
        for name in {source for source, _ in ids} & tables.keys():
            rows = tables[name].scan()
            if rows.rows:
                chosen = [i for i, event_id in enumerate(rows["_id"].values.tolist()) if (name, event_id) in ids]
                self._note_rows(name, rows, chosen, wanted=False)
        versions = [s for s in self._seen.values() if (s.source, s.id) in ids]
        versions.sort(key=lambda s: (s.source, s.id, s.order))
        for _, group in groupby(versions, key=lambda s: (s.source, s.id)):
            another = False  # an entity has had the event so far that is not the subject
            for seen in group:
                another |= not seen.wanted and not seen.deletes
                seen.replaced = seen.wanted and another
                seen.goes = seen.wanted or (seen.deletes and not another)

    def instead(self) -> Instead:
        """What the log is to say."""
        found: Instead = {}
        for (partition, position), seen in self._seen.items():
            if seen.goes and seen.in_log:
                payload = encode(self._deletion(seen)) if seen.replaced else erased(seen.source)
                found.setdefault(partition, {})[position] = payload
        return found

    def in_tables(self) -> dict[str, TableTraces]:
        """What goes from the tables."""
        found: dict[str, TableTraces] = {}
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
            found[name] = TableTraces(rows=rows, instead=table_rows(self._sources[name], put) if put else None)
        return found

    def by_source(self) -> Counter[str]:
        """Events by source, each counted once wherever it lies."""
        return Counter(seen.source for seen in self._seen.values() if seen.goes)

    def _note(self, record: LogRecord, event: Event, *, wanted: bool) -> None:
        place = record.partition, record.position
        seen = self._seen.get(place)
        if seen is None:
            order = known_at_us(event, record), *place
            deletes = event.op == "delete"
            seen = _Seen(event.source, event.id, order, deletes, wanted, record.appended_at_us, event)
            self._seen[place] = seen
        seen.in_log |= bool(record.payload)
        seen.in_table |= not record.payload

    def _note_rows(self, name: str, rows: Columns, chosen: list[int], *, wanted: bool) -> None:
        import numpy as np

        some = rows.take(np.array(chosen, np.int64))
        columns = self._sources[name].columns if name in self._sources else {}
        names = [column for column in columns if column in some]
        for row in some.to_rows():
            event = Event(
                name,
                row["_id"],
                row["_event_at"],
                row["_known_at"],
                row["_op"],
                bool(row["_history"]),
                tuple(row[column] for column in names),
            )
            record = LogRecord(row["_partition"], row["_position"], row["_append_at"], b"")
            self._note(record, event, wanted=wanted)

    def _deletion(self, seen: _Seen) -> Event:
        """A deletion of the event as the version that goes was: only key and time are left."""
        source, event = self._sources[seen.source], seen.event
        kept = {source.key, source.time}
        values = [v if name in kept else None for name, v in zip(source.columns, event.values, strict=False)]
        return msgspec.structs.replace(event, op="delete", values=tuple(values))

    def _keyed(self, source: str) -> bool:
        return source in self._sources and self._sources[source].key is not None


def _records(log: Log) -> Iterator[LogRecord]:
    for partition, last in log.positions().items():
        after = 0
        while after < last and (records := log.read(partition, after, limit=_BATCH)):
            yield from records
            after = records[-1].position


def _predictions(project: Project, subject: Subject) -> Instead:
    shapes = {name: request_shape(model.request) for name, model in project.definitions.models.items()}

    def wanted(prediction: Prediction) -> bool:
        fits = prediction.model in shapes and shapes[prediction.model](prediction.request)
        return subject.of_request(prediction.model, fits)(msgspec.msgpack.decode(prediction.request))

    return project.predictions.find_all(wanted, may_be_in=subject.may_be_in)


def _refused(subject: Subject, row: Quarantined) -> bool:
    return subject.of_raw(row.source, row.raw())


def _answers(project: Project, subject: Subject) -> list[bytes]:
    shapes = {name: request_shape(model.request) for name, model in project.definitions.models.items()}
    found = []
    for key, model, columns in stored_requests(project.state.answers):
        fits = model in shapes and shapes[model](msgspec.msgpack.encode(columns))
        if subject.of_request(model, fits)(columns):
            found.append(key)
    return found


def _training_sets(project: Project, subject: Subject) -> Iterator[SeenSet]:
    """Stored sets with rows of the subject, and the versions that were fitted on each."""
    versions: dict[str, list[Version]] = {}
    requests: dict[str, str] = {}
    for record in project.state.catalog.find("version_count"):
        for version in project.registry.versions(record.key):
            try:
                parquet = load_manifest(version.training_set, project.state.blob).parquet
            except NotFound:  # its manifest was removed by hand
                continue
            if parquet is not None:
                versions.setdefault(parquet, []).append(version)
                requests[parquet] = version.model
    for blob in sorted({*versions, *_parquet_blobs(project.state.folder / "blob")}):
        if not project.state.blob.exists(blob):
            continue
        rows = _rows_of(project, subject, blob, requests.get(blob))
        if rows:
            yield SeenSet(blob=blob, rows=rows, versions=tuple(v.name for v in versions.get(blob, [])))


def _rows_of(project: Project, subject: Subject, blob: str, model: str | None) -> int:
    table = read_parquet(project.state.blob.get(blob))
    asked = {name.partition(".")[2]: c for name, c in table.by_name.items() if name.startswith("request.")}
    declared = project.definitions.models.get(model or "")
    source: Source | None = None if declared is None else declared.request.source
    fits = source is not None and source.columns.keys() <= asked.keys()
    return len(subject.of_table(source.name if source is not None and fits else None, Columns(asked)))


def _parquet_blobs(folder: Path) -> Iterator[str]:
    """Blobs that are tables, also those that no version knows of."""
    for path in folder.glob("??/??/*"):
        with path.open("rb") as file:
            if file.read(len(_PARQUET)) == _PARQUET:
                yield path.name


def _size(places: Instead) -> int:
    return sum(map(len, places.values()))


def partitions_of(log: Log, changed: Iterable[str]) -> list[str]:
    """The partitions whose files are to be written anew: those that change, and those that were ever truncated."""
    wanted = set(changed)
    for partition, last in log.positions().items():
        first = log.read(partition, 0, limit=1)
        if last and (not first or first[0].position > 1):
            wanted.add(partition)
    return sorted(wanted)
