"""Failures of background work in serving processes, as the catalogue keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trimtab.store.ports import Catalog, Record, Remove

if TYPE_CHECKING:
    pass


KIND = "service"  # of the records in the catalogue

OF_WORKERS = "failures/"


class FailureRecord(msgspec.Struct, frozen=True):
    """The errors of one process's background tasks in their last round."""

    by: str = ""  # the newest process in its place; only that one writes here
    failures: dict[str, str] = msgspec.field(default_factory=dict)  # by work


def service_failures(catalog: Catalog) -> dict[str, str]:
    """The errors of the last round in serving processes, by task."""
    found: dict[str, str] = {}
    for record in catalog.find(KIND):
        worker = record.key.removeprefix(OF_WORKERS)
        for work, said in read_failures(record).failures.items():
            found[work if worker == record.key else f"{work} (worker {worker})"] = said
    return found


def forget_failures(catalog: Catalog, worker: int | None = None) -> None:
    """Remove the failures of a worker that is gone, or of a service that is."""
    keys = [record.key for record in catalog.find(KIND)] if worker is None else [f"{OF_WORKERS}{worker}"]
    if keys:
        catalog.write([Remove(KIND, key) for key in keys])


def read_failures(record: Record) -> FailureRecord:
    """The failures that one record holds."""
    return msgspec.json.decode(record.body, type=FailureRecord)
