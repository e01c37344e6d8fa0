"""The times of rows: the step between the rows of a key, and the days on which batches of rows come."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.file.texts import quoted
from trimtab.core.time import DAY_US, HOUR_US

_REGULAR = 0.9  # the step is regular if this share of rows comes one step after the previous row of their key
_LEAST_TIMES = 8  # a series needs this many times
_MONTH_DAYS = (28, 31)
_BATCHES = 6  # a version is judged on this many days with rows; the gate needs five


def step_of(table: DataTable, time: str, entity: Sequence[str]) -> int | None:
    """Return the time between the rows of an entity (31 days for months).

    The result is None if it varies or is less than an hour, or if there are too few times.

    Args:
        entity: The columns of the entity; empty if all rows are one series.
    """
    t, by = quoted(time), ", ".join(map(quoted, entity)) or "1"
    times = int(table.one(f"SELECT count(DISTINCT {t}) FROM data")[0])
    if times < _LEAST_TIMES:
        return None
    gaps = table.all(
        f"SELECT gap, count(*) FROM (SELECT epoch_us({t}) - lag(epoch_us({t})) OVER (PARTITION BY {by} ORDER BY {t}) "
        f"AS gap FROM (SELECT DISTINCT {', '.join(map(quoted, (*entity, time)))} FROM data)) WHERE gap IS NOT NULL "
        "GROUP BY 1 ORDER BY 2 DESC LIMIT 40"
    )
    rows = sum(int(n) for _, n in gaps)
    if not rows:
        return None
    step = int(gaps[0][0])
    if gaps[0][1] >= _REGULAR * rows:
        return step if step >= HOUR_US else None
    low, high = (days * DAY_US for days in _MONTH_DAYS)
    monthly = sum(int(n) for gap, n in gaps if low <= int(gap) <= high)
    return high if monthly >= _REGULAR * rows else None


def batch_window_days(table: DataTable, time: str, label: str, until_us: int) -> int:
    """Return the length, in days, of a window up to `until_us` with six days that have labels; 0 if there are fewer.

    Rows that come in batches (snapshots of each month, or at irregular dates) need a longer window than daily rows. The
    gate compares versions by day, so each batch counts once.
    """
    day = f"epoch_us({quoted(time)}) // {DAY_US}"
    days = table.all(
        f"SELECT DISTINCT {day} FROM data WHERE {quoted(label)} IS NOT NULL AND epoch_us({quoted(time)}) <= {until_us} "
        f"ORDER BY 1 DESC LIMIT {_BATCHES}"
    )
    return until_us // DAY_US - int(days[-1][0]) + 2 if len(days) == _BATCHES else 0
