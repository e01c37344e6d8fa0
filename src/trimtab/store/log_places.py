"""Positions in a log: of an append time, and of the first record of a partition."""

from __future__ import annotations

from trimtab.store.ports import Log


def positions_before(log: Log, at_us: int) -> dict[str, int]:
    """By partition, the position after which all records were appended at `at_us` or later."""
    return {partition: position_before(log, partition, last, at_us) for partition, last in log.positions().items()}


def position_before(log: Log, partition: str, last: int, at_us: int) -> int:
    """The same for one partition with the last position `last`, by bisection."""
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
    """The position up to which a partition was truncated; `last` if no record is left."""
    first = log.read(partition, 0, limit=1)
    return first[0].position - 1 if first else last
