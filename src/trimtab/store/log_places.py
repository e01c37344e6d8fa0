"""Find positions in a log: the position that belongs to a time, and the beginning of a partition."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.store.ports import Log, LogRecord


def positions_before(log: Log, at_us: int) -> dict[str, int]:
    """Return for each partition the last position of a record that was appended before `at_us`, or 0."""
    return {partition: position_before(log, partition, last, at_us) for partition, last in log.positions().items()}


def position_before(log: Log, partition: str, last: int, at_us: int) -> int:
    """Do the same as `positions_before` for one partition, by bisection. `last` is the partition's last position."""
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        records = log.read(partition, middle, limit=1)
        if not records or records[0].appended_at_us >= at_us:
            high = middle
        else:
            low = records[0].position
    return low


def begin_of(log: Log, partition: str, last: int) -> int:
    """Return the position up to which records were removed from a partition, or `last` if no record is left."""
    first = log.read(partition, 0, limit=1)
    return first[0].position - 1 if first else last


def records_between(
    log: Log, partition: str, after: int, last: int, *, batch: int = 10_000
) -> Iterator[list[LogRecord]]:
    """Yield the records of a partition after `after` and up to `last`, in batches. Removed records are skipped."""
    while after < last and (records := log.read(partition, after, limit=min(batch, last - after))):
        after = records[-1].position
        yield records if after <= last else [one for one in records if one.position <= last]
