"""Records of all partitions of a log in one order: by append time, then partition, then position."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter

from trimtab.store.ports import Log, LogRecord

_appended_at = attrgetter("appended_at_us")


class Gap(Exception):
    """Raised because records to be read were truncated from the log. The caller may have them in a table."""

    def __init__(self, partition: str, first: int, last: int, found: int | None) -> None:
        there = "none" if found is None else f"{found} as the first"
        super().__init__(f"needs the records of partition {partition!r} from {first} to {last}, found {there}.")
        self.partition = partition


def append_order(record: LogRecord) -> tuple[int, str, int]:
    """Return the sort key of records of several partitions."""
    return record.appended_at_us, record.partition, record.position


def in_order(parts: Sequence[list[LogRecord]]) -> list[LogRecord]:
    """Merge the records of several partitions. Each partition's records are in order already."""
    return parts[0] if len(parts) == 1 else sorted(chain.from_iterable(parts), key=append_order)


def intervals(
    log: Log, after: Mapping[str, int], upto: Mapping[str, int], *, batch: int = 10_000, gaps: bool = False
) -> Iterator[list[list[LogRecord]]]:
    """Yield the records after `after` up to `upto` by intervals of append time, as a list for each partition.

    No record of a later interval comes before a record of an earlier interval. Partitions are in the order of their
    names. A partition without records in an interval is left out. No record is read twice.

    Args:
        log: The log.
        after: By partition, the position up to which records were read already. Other partitions are read from the
            beginning.
        upto: The last wanted position of each partition that is to be read.
        batch: The largest number of records of a partition that are read at once.
        gaps: Skip truncated records.

    Raises:
        Gap: Some of the records were truncated, and `gaps` is false.
    """
    chunks = {name: _chunks(log, name, after.get(name, 0), end, batch, gaps) for name, end in sorted(upto.items())}
    held: dict[str, list[LogRecord]] = {name: [] for name in chunks}
    while True:
        held = {name: records or next(chunks[name], []) for name, records in held.items()}
        held = {name: records for name, records in held.items() if records}
        if not held:
            return
        unread = [(r[-1].appended_at_us, name) for name, r in held.items() if r[-1].position < upto[name]]
        bound = min(unread, default=None)  # after this record there may be records that are not read yet
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
    """Return the number of records that do not come after the bound (append time, partition)."""
    if bound is None:
        return len(records)
    cut = bisect_right if partition <= bound[1] else bisect_left
    return cut(records, bound[0], key=_appended_at)
