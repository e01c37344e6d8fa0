"""Store the errors of a service's background tasks in the catalogue."""

from __future__ import annotations

import msgspec

from trimtab.store.ports import Catalog, Record, Remove

KIND = "service"  # the kind of these records in the catalogue

OF_WORKERS = "failures/"  # the record of worker 3 has the key "failures/3"


class FailureRecord(msgspec.Struct, frozen=True):
    """The errors of one process's background tasks, each from its last run."""

    by: str = ""  # the process that may write the record; a later process with the same key replaces it
    failures: dict[str, str] = msgspec.field(default_factory=dict)  # the error of each task


def service_failures(catalog: Catalog) -> dict[str, str]:
    """Return the errors of background tasks in all serving processes, by task."""
    found: dict[str, str] = {}
    for record in catalog.find(KIND):
        worker = record.key.removeprefix(OF_WORKERS)
        for work, said in read_failures(record).failures.items():
            found[work if worker == record.key else f"{work} (worker {worker})"] = said
    return found


def forget_failures(catalog: Catalog, worker: int | None = None) -> None:
    """Remove the stored errors of a worker that has ended, or of all processes (None)."""
    keys = [record.key for record in catalog.find(KIND)] if worker is None else [f"{OF_WORKERS}{worker}"]
    if keys:
        catalog.write([Remove(KIND, key) for key in keys])


def read_failures(record: Record) -> FailureRecord:
    """Return the errors that a catalogue record contains."""
    return msgspec.json.decode(record.body, type=FailureRecord)
