"""The stored state of the monitor of inputs: the closed hours, their traffic, and hourly summaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from trimtab.core.records import DayQuality
from trimtab.core.time import HOUR_US
from trimtab.monitoring.inputs.checks.traffic import TrafficHour
from trimtab.monitoring.inputs.input_hours import HourCounts, Layout
from trimtab.monitoring.inputs.profile_distances import ColumnDistance
from trimtab.monitoring.quality.loss_estimates import EstimatedDays
from trimtab.store.ports import Catalog, Put, Remove, read_record

KIND, HOUR = "input_watch", "input_hour"
NEVER_US = -(2**62)


class InputWatch(msgspec.Struct, frozen=True, kw_only=True):
    """How far a model's monitor has come, and the past data that its checks read."""

    format: Literal[1] = 1
    closed_until_us: int = NEVER_US  # hours before this are closed for good
    last_us: int | None = None  # the time of the newest request; None: there never was one
    traffic: dict[int, TrafficHour] = {}  # closed hours with requests, of the newest 60 days
    days: list[DayQuality] = []  # closed days (whose wait for labels is over), of the newest 60 days
    columns: dict[str, ColumnDistance] = {}  # distances from the profile in the newest 24 closed hours
    estimated: EstimatedDays | None = None  # the losses of the newest days, estimated before their labels come


class StoredHour(msgspec.Struct, frozen=True, kw_only=True):
    """The summary of one closed hour and one version."""

    format: Literal[1] = 1
    version: str
    rows: int
    counts: bytes


class WatchStore:
    """The stored records of one model's monitor."""

    def __init__(self, catalog: Catalog, model: str) -> None:
        self._catalog = catalog
        self._model = model

    def watch(self) -> tuple[InputWatch, int]:
        """The state of the monitor and its revision."""
        record = self._catalog.get(KIND, self._model)
        if record is None:
            return InputWatch(), 0
        return msgspec.json.decode(record.body, type=InputWatch), record.revision

    def revision(self) -> int:
        """The revision of the state, 0 before it was first stored."""
        record = self._catalog.get(KIND, self._model)
        return 0 if record is None else record.revision

    def hours(self, hours: Iterable[int], version: str, layout: Layout) -> dict[int, HourCounts]:
        """The stored summaries of a version in some hours."""
        found = {}
        for hour in hours:
            stored = read_record(self._catalog, HOUR, self._key(hour), StoredHour)
            if stored is not None and stored.version == version:
                counts = HourCounts.decode(stored.counts, layout)
                if counts is not None:
                    found[hour] = counts
        return found

    def put(self, watch: InputWatch, revision: int) -> Put:
        """Return the change that stores the state. It fails if another process has stored the state meanwhile."""
        return Put(KIND, self._model, msgspec.json.encode(watch), expected=revision)

    def put_hour(self, hour: int, version: str, counts: HourCounts) -> Put:
        """Return the change that stores the summary of an hour."""
        stored = StoredHour(version=version, rows=counts.rows, counts=counts.encoded)
        return Put(HOUR, self._key(hour), msgspec.json.encode(stored))

    def remove_hour(self, hour: int) -> Remove:
        """Return the change that removes the summary of an hour."""
        return Remove(HOUR, self._key(hour))

    def _key(self, hour: int) -> str:
        return f"{self._model}/{hour:08d}"


def hour_of(at_us: int) -> int:
    """Return the hour, counted since 1970."""
    return at_us // HOUR_US
