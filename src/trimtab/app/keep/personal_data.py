"""Find the data of a subject in logs, tables, stored answers and training sets, and prepare replacements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from trimtab import store
from trimtab.app.data.logged_requests import request_shape
from trimtab.app.keep.personal_events import Instead, PersonalEvents, RequestKeys, TableErasure
from trimtab.app.keep.personal_slices import without_slices
from trimtab.app.keep.subjects import Subject
from trimtab.app.system import System
from trimtab.core.columns.data import Columns
from trimtab.core.errors import NotFound
from trimtab.core.records import Prediction
from trimtab.core.urls import store_url
from trimtab.events.definitions import Source
from trimtab.experiments.exposures import find_exposures, unit_values
from trimtab.experiments.records import Exposure
from trimtab.registry.versions import Version
from trimtab.serving.answer.precomputed import stored_requests
from trimtab.store.file_blob import blob_files
from trimtab.store.log_places import begin_of
from trimtab.store.ports import Log, Put, Remove, Table
from trimtab.training.data.parquet import read_parquet
from trimtab.training.data.sets import load_manifest

_PARQUET = b"PAR1"


class SeenSet(msgspec.Struct, frozen=True, kw_only=True):
    """A stored training set that has rows about the subject."""

    blob: str  # the address of the blob that holds the rows of the set
    rows: int
    versions: tuple[str, ...]  # the versions fitted on the set


class PersonalData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found about a subject, with the replacements of its records."""

    events: Instead
    sources: dict[str, int]  # the number of records to erase by source (versions of events, and deletions)
    tables: dict[str, TableErasure]  # by source
    predictions: Instead
    quarantine: Instead
    exposures: Instead
    answers: list[bytes]  # the keys of stored answers
    sets: list[SeenSet]
    slices: list[Put | Remove]  # the changes of records with sums of slices that are named after a key

    def in_log(self, name: str) -> Instead:
        """Return the replacements in a log: "events", "predictions", "quarantine" or "exposures"."""
        found: Instead = getattr(self, name)
        return found

    def counts(self) -> dict[str, int]:
        """Return how many records, rows or sets of each kind of data were found."""
        return {
            "events": _size(self.events),
            "table_rows": sum(len(table.rows) for table in self.tables.values()),
            "predictions": _size(self.predictions),
            "quarantined": _size(self.quarantine),
            "exposures": _size(self.exposures),
            "stored_answers": len(self.answers),
            "slices": len(self.slices),
            "training_sets": len(self.sets),
        }


def find_personal_data(system: System, subject: Subject) -> PersonalData:
    """Search all data of a project. Nothing is changed."""
    state = system.state
    found = PersonalEvents(system, subject)
    found.search_log()
    with open_tables(system) as tables:
        for name, table in tables.items():
            found.search_table(name, table)
        found.follow_versions(tables)
        predictions, keys = _predictions(system, subject, found.erased_ids)
        found.follow_labels(tables, keys)
    return PersonalData(
        events=found.instead(),
        sources=dict(found.by_source()),
        tables=found.in_tables(),
        predictions=predictions,
        quarantine=system.quarantine.find(lambda row: subject.of_raw(row.source, row.raw())),
        exposures=find_exposures(state.exposures, lambda one: _is_of(system, subject, one)),
        answers=_answers(system, subject) if state.place("answers").mark() is not None else [],
        sets=list(_training_sets(system, subject)),
        slices=without_slices(state.catalog, subject),
    )


@contextmanager
def open_tables(system: System) -> Iterator[dict[str, Table]]:
    """Open all tables of record (the long-term store of events), even of sources that are no longer declared."""
    folder = system.state.folder / "tables"
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    with ExitStack() as opened:
        tables = {name: store.open(store_url("delta", folder / name), "table") for name in names}
        for table in tables.values():
            opened.callback(table.close)
        yield tables


def _predictions(
    system: System, subject: Subject, erased_ids: Callable[[str], set[str]]
) -> tuple[Instead, RequestKeys]:
    """Return the replacements of predictions, and the keys of erased requests (see `RequestKeys`)."""
    models = system.definitions.models
    shapes = {name: request_shape(model.request) for name, model in models.items()}
    keys: RequestKeys = {name: (erased_ids(models[name].request.name), set()) for name in shapes}

    def wanted(prediction: Prediction) -> bool:
        fits = prediction.model in shapes and shapes[prediction.model](prediction.request)
        return subject.of_request(prediction.model, fits)(msgspec.msgpack.decode(prediction.request))

    def collected(prediction: Prediction) -> bool:
        found = wanted(prediction)
        if found and prediction.model in keys:
            keys[prediction.model][0].add(prediction.request_id)
        return found

    instead = system.predictions.find_all(collected, may_be_in=subject.may_be_in)
    if any(erased for erased, _ in keys.values()):
        for block in system.predictions.scan():
            for prediction in block:
                erased, shared = keys.get(prediction.model, (set(), set()))
                if prediction.request_id in erased and not wanted(prediction):
                    shared.add(prediction.request_id)
    return instead, keys


def _is_of(system: System, subject: Subject, exposure: Exposure) -> bool:
    """Return whether an exposure is about the subject. If its experiment is not declared, all its values are tried."""
    row = msgspec.msgpack.decode(exposure.attributes) if exposure.attributes else {}
    declared = system.definitions.experiments.get(exposure.experiment)
    if declared is None:
        return subject.of_raw("", {**row, "unit": exposure.unit})
    for names in (declared.unit, *(metric.by for metric in declared.metrics)):
        row |= dict(zip(names, unit_values(exposure.unit, len(names)), strict=False))
    sources = [name for name, places in subject.places.items() if any(row.keys() >= {*names} for names in places)]
    return any(subject.of_raw(name, row) for name in sources)


def _answers(system: System, subject: Subject) -> list[bytes]:
    shapes = {name: request_shape(model.request) for name, model in system.definitions.models.items()}
    found = []
    for key, model, columns in stored_requests(system.state.answers):
        fits = model in shapes and shapes[model](msgspec.msgpack.encode(columns))
        if subject.of_request(model, fits)(columns):
            found.append(key)
    return found


def _training_sets(system: System, subject: Subject) -> Iterator[SeenSet]:
    """Yield the stored training sets with rows about the subject, each with the versions fitted on it."""
    versions: dict[str, list[Version]] = {}
    requests: dict[str, str] = {}
    for record in system.state.catalog.find("version_count"):
        for version in system.registry.versions(record.key):
            try:
                parquet = load_manifest(version.training_set, system.state.blob).parquet
            except NotFound:  # the manifest of the set was removed by hand
                continue
            if parquet is not None:
                versions.setdefault(parquet, []).append(version)
                requests[parquet] = version.model
    for blob in sorted({*versions, *_parquet_blobs(system.state.folder / "blob")}):
        if not system.state.blob.exists(blob):
            continue
        rows = _rows_of(system, subject, blob, requests.get(blob))
        if rows:
            yield SeenSet(blob=blob, rows=rows, versions=tuple(v.name for v in versions.get(blob, [])))


def _rows_of(system: System, subject: Subject, blob: str, model: str | None) -> int:
    table = read_parquet(system.state.blob.get(blob))
    columns = {name.partition(".")[2]: c for name, c in table.by_name.items() if name.startswith("request.")}
    declared = system.definitions.models.get(model or "")
    source: Source | None = None if declared is None else declared.request.source
    fits = source is not None and source.columns.keys() <= columns.keys()
    return len(subject.of_table(source.name if source is not None and fits else None, Columns(columns)))


def _parquet_blobs(folder: Path) -> Iterator[str]:
    """Yield the addresses of all blobs that are tables, even if no version refers to them."""
    for path in blob_files(folder):
        with path.open("rb") as file:
            if file.read(len(_PARQUET)) == _PARQUET:
                yield path.name


def _size(places: Instead) -> int:
    return sum(map(len, places.values()))


def partitions_of(log: Log, changed: Iterable[str]) -> list[str]:
    """Return the partitions whose files must be rewritten: those with changes, and all that were ever truncated.

    Files of truncated partitions may still contain removed records.
    """
    wanted = set(changed)
    wanted.update(partition for partition, last in log.positions().items() if begin_of(log, partition, last))
    return sorted(wanted)
