"""Where in a log a moment lies."""

from __future__ import annotations

from trimtab.store.ports import Log


def positions_before(log: Log, at_us: int) -> dict[str, int]:
    """By partition, the position behind which every record appended at `at_us` or later stands, found by bisection."""
    found = {}
    for partition, last in log.positions().items():
        low, high = 0, last
        while low < high:
            middle = (low + high) // 2
            records = log.read(partition, middle, limit=1)
            if not records or records[0].appended_at_us >= at_us:
                high = middle
            else:
                low = records[0].position
        found[partition] = low
    return found
