"""Store counts of the requests to each version and arm (champion, canary, shadow) in the catalogue.

Each process that answers has one record for each minute, version and arm, and any process can add up the records. The
record of the current minute is written every ten seconds. If a process is killed, its counts since the last write are
lost. Three hours after an hour has ended, its minutes are merged. Hours are kept for eight days.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.serving.arms.arm_counts import EndpointCounts, ServiceMetrics
from trimtab.store.ports import Catalog, Put, Record, Remove

KIND = "arm_figures"  # the kind of the catalogue records; their keys are model/version/arm/minute/process
WRITE_S = 10.0  # time between two writes
MINUTES_US = 3 * HOUR_US  # how long after the end of an hour its records of minutes are kept
KEPT_US = 8 * DAY_US
_HOUR = "hour"  # in keys, this replaces the process if the record is the sum of all processes in one hour
_MOST_KEPT = 1_000  # if more records wait to be written, the oldest are dropped


class ArmMetrics:
    """Writes the counts of one process to the catalogue.

    Args:
        counts: Returns the counts of every endpoint of the process.
    """

    def __init__(self, catalog: Catalog, clock: Clock, counts: Callable[[], Iterable[EndpointCounts]]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._counts = counts
        self._process = uuid.uuid4().hex[:12]
        self._before: dict[str, ServiceMetrics] = {}  # by version and arm: the counts at the last write
        self._minute = 0
        self._records: dict[str, ServiceMetrics] = {}  # by key: records of this minute, and those not yet written
        self._unwritten: set[str] = set()  # the keys of records that must be written

    def write(self) -> None:
        """Write everything that was counted since the last write.

        Raises:
            Unavailable: The catalogue cannot be written now. The next call writes these counts.
        """
        self._minute = max(self._minute, self._clock.now_us() // MINUTE_US)  # never goes back, even if the clock does
        for counts in [one for endpoint in self._counts() for one in endpoint.all()]:
            now = counts.snapshot()
            of = _of(now)
            before, self._before[of] = self._before.get(of), now
            new = now if before is None or now.requests < before.requests else now.minus(before)
            if new.requests or new.refused:
                key = metrics_key(now, self._minute, self._process)
                there = self._records.get(key)
                self._records[key] = new if there is None else there.plus(new)
                self._unwritten.add(key)
        kept = list(self._records.items())[-_MOST_KEPT:]
        self._records = {k: one for k, one in kept if k in self._unwritten or _minute(k) == self._minute}
        if self._unwritten:
            write_metrics(self._catalog, {key: one for key, one in kept if key in self._unwritten})
            self._unwritten.clear()


def metrics_key(metrics: ServiceMetrics, minute: int, process: str) -> str:
    """Return the key of the record for one version, arm, minute and process."""
    return f"{_of(metrics)}{minute:012d}/{process}"


def write_metrics(catalog: Catalog, records: Mapping[str, ServiceMetrics]) -> None:
    """Write records, given by their keys."""
    catalog.write([Put(KIND, key, msgspec.json.encode(one)) for key, one in records.items()])


def service_metrics(catalog: Catalog, model: str, version: str, arm: str, *, since_us: int) -> ServiceMetrics:
    """Return the counts of a version in an arm since a time, over all processes.

    Counts are stored by the minute for three to four hours, then by the hour for eight days. The minute or hour that
    contains `since_us` is included as a whole. Counts of the last ten seconds may be missing.

    Args:
        arm: "champion", "canary" or "shadow".
        since_us: The time from which to count, in UTC microseconds.
    """
    found = ServiceMetrics(model=model, version=version, arm=arm)
    for record in catalog.find(KIND, _of(found)):
        length_us = HOUR_US if _is_hour(record.key) else MINUTE_US
        if _minute(record.key) * MINUTE_US + length_us > since_us:
            found = found.plus(_read(record))
    return found


def merge_metrics(catalog: Catalog, now_us: int) -> int:
    """Merge old minutes into hours, remove old hours, and return the number of removed records.

    Only one process may call this at a time. Other processes may write their counts meanwhile.
    """
    minutes: dict[str, list[Record]] = {}
    removed = 0
    for record in catalog.find(KIND):
        minute = _minute(record.key)
        if not _is_hour(record.key):
            hour = minute // 60 * 60
            if (hour + 60) * MINUTE_US + MINUTES_US <= now_us:
                minutes.setdefault(f"{_of(_read(record))}{hour:012d}/{_HOUR}", []).append(record)
        elif minute * MINUTE_US + KEPT_US <= now_us:
            catalog.write([Remove(KIND, record.key)])
            removed += 1
    for key, records in minutes.items():
        before = catalog.get(KIND, key)
        parts = [_read(one) for one in records] + ([] if before is None else [_read(before)])
        whole = parts[0]
        for one in parts[1:]:
            whole = whole.plus(one)
        changes: list[Put | Remove] = [Remove(KIND, one.key, one.revision) for one in records]
        changes.append(Put(KIND, key, msgspec.json.encode(whole), 0 if before is None else before.revision))
        try:
            catalog.write(changes)
        except Conflict:  # a process has changed one of these records since; the next call merges them
            continue
        removed += len(records)
    return removed


def _of(metrics: ServiceMetrics) -> str:
    return f"{metrics.model}/{metrics.version}/{metrics.arm}/"


def _minute(key: str) -> int:
    return int(key.split("/")[-2])


def _is_hour(key: str) -> bool:
    return key.endswith(f"/{_HOUR}")


def _read(record: Record) -> ServiceMetrics:
    return msgspec.json.decode(record.body, type=ServiceMetrics)
