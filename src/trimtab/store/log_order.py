"""Read all partitions of a log in one order: by append time, then partition, then position."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter

from trimtab.store.ports import Log, LogRecord

_appended_at = attrgetter("appended_at_us")


class Gap(Exception):
    """Raised if records that are to be read were removed from the log.

    A caller that has copied these records to a table can read them there.
    """

    def __init__(self, partition: str, first: int, last: int, found: int | None) -> None:
        there = "has none of them" if found is None else f"begins with {found}"
        super().__init__(f"needed the records {first} to {last} of partition {partition!r}, but the log {there}.")
        self.partition = partition


def append_order(record: LogRecord) -> tuple[int, str, int]:
    """Return the key that sorts records of several partitions in the order of this module."""
    return record.appended_at_us, record.partition, record.position


def in_order(parts: Sequence[list[LogRecord]]) -> list[LogRecord]:
    """Merge the records of several partitions, each of which is already in order."""
    return parts[0] if len(parts) == 1 else sorted(chain.from_iterable(parts), key=append_order)


def intervals(
    log: Log, after: Mapping[str, int], upto: Mapping[str, int], *, batch: int = 10_000, gaps: bool = False
) -> Iterator[list[list[LogRecord]]]:
    """Yield the records after `after` and up to `upto`, one interval of append times at a time.

    Each item has one list for each partition with records in the interval, in the order of the partitions' names. All
    records of an interval come before those of the next one. No record is read twice.

    Args:
        after: For each partition, the position up to which records were already read. A partition that is not listed is
            read from its beginning.
        upto: For each partition that is to be read, the last position to read.
        batch: The largest number of records to read from a partition at once.
        gaps: Whether to skip records that were removed, instead of raising `Gap`.

    Raises:
        Gap: Some of the records were removed, and `gaps` is False.
    """
    chunks = {name: _chunks(log, name, after.get(name, 0), end, batch, gaps) for name, end in sorted(upto.items())}
    held: dict[str, list[LogRecord]] = {name: [] for name in chunks}
    while True:
        held = {name: records or next(chunks[name], []) for name, records in held.items()}
        held = {name: records for name, records in held.items() if records}
        if not held:
            return
        unread = [(r[-1].appended_at_us, name) for name, r in held.items() if r[-1].position < upto[name]]
        # Unread records of a partition come after its last record that was read. So up to the earliest of these last
        # records, nothing is missing. Keep later records for the next interval.
        bound = min(unread, default=None)
        cuts = {name: _until(records, name, bound) for name, records in held.items()}
        yield [records[: cuts[name]] for name, records in held.items() if cuts[name]]
        held = {name: records[cuts[name] :] for name, records in held.items()}


def _chunks(log: Log, partition: str, after: int, end: int, batch: int, gaps: bool) -> Iterator[list[LogRecord]]:
    while after < end:
        chunk = log.read(partition, after, limit=min(batch, end - after))
        found = chunk[0].position if chunk else None
        if found != after + 1:
            if not gaps:
                raise Gap(partition, after + 1, end, found)
            chunk = [record for record in chunk if record.position <= end]
            if not chunk:
                return
        yield chunk
        after = chunk[-1].position


def _until(records: list[LogRecord], partition: str, bound: tuple[int, str] | None) -> int:
    """Return how many of the records do not come after `bound` (append time, partition)."""
    if bound is None:
        return len(records)
    cut = bisect_right if partition <= bound[1] else bisect_left
    return cut(records, bound[0], key=_appended_at)
