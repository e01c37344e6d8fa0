"""Find extreme numbers in events when they arrive, before a request reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.monitoring.inputs.checks.feeds import REFERENCE_DAYS, Arrivals
from trimtab.monitoring.inputs.checks.findings import Finding
from trimtab.monitoring.profiles.profile_records import Floats
from trimtab.monitoring.profiles.proportion import limits

NEWEST_US = 2 * HOUR_US  # events that became known within this time are always checked
_LEAST, _LEAST_DAYS = 100, 7  # limits need this many earlier values, on this many days
_MOST = 200_000  # limits are computed from at most this many earlier values
_SCALE, _LEAST_NEWEST = 5.0, 50  # another scale: the median is this many times that of any earlier day; see `_rescaled`
_FEW = 0.01  # a finding is red from this share of extreme values on

Times: TypeAlias = NDArray[np.int64]
Faulty: TypeAlias = tuple[str, int, int | None]  # a column, and the beginning and the end of a time; None: it goes on


def value_findings(
    arrivals: Arrivals, since_us: int, now_us: int, skipped: frozenset[str], faulty: Sequence[Faulty]
) -> list[Finding]:
    """Find numbers in a source's newest events that are extreme (see `limits`) compared with the four weeks before.

    Args:
        arrivals: All events of the source.
        since_us: Events that became known after this time are checked.
        skipped: Columns that are not checked, because they are no quantities, such as keys and ids.
        faulty: Times in which a column had extreme values. They are left out of its four weeks, or would become normal.
    """
    times = (now_us - REFERENCE_DAYS * DAY_US, since_us, now_us)
    begin, middle, end = (int(place) for place in np.searchsorted(arrivals.known_us, times, side="right"))
    begin = max(begin, middle - _MOST)
    if middle - begin < _LEAST or middle == end:
        return []
    known_us = arrivals.known_us[begin:middle]
    days = known_us // DAY_US
    found = []
    for name, column in arrivals.frame.columns.by_name.items():
        if column.dtype not in ("float", "int") or name in skipped:
            continue
        mine = column.take(arrivals.order[begin:end])
        values = np.where(mine.present(), mine.values.astype(np.float64), np.nan)
        before, newest = values[: middle - begin], values[middle - begin :]
        there = ~np.isnan(before)
        for _, start_us, end_us in (one for one in faulty if one[0] == name):
            there &= (known_us < start_us) | (end_us is not None and known_us >= end_us)
        if there.sum() < _LEAST or np.isnan(newest).all():
            continue
        starts = np.flatnonzero(np.diff(days[there], prepend=days[0] - 1))
        if starts.size < _LEAST_DAYS:
            continue
        rescaled = _rescaled(known_us[there], before[there], arrivals.known_us[middle:end], newest)
        if rescaled is not None:
            usual, now = rescaled
            ratio = f"{now / usual:.3g} times" if now > usual else f"1 / {usual / now:.3g} of"
            message = (
                f"Source {arrivals.frame.source}: the newest values of {name} are about {ratio} those at the same time "
                f"of day in the four weeks before (median {now:,.4g} instead of {usual:,.4g}). Check its unit."
            )
            subject, evidence = f"column {arrivals.frame.source}.{name}", {"median": now, "usual": usual}
            found.append(Finding("range", subject, int(arrivals.known_us[middle]), evidence, message))
            continue
        known = before[there]
        low, high = np.minimum.reduceat(known, starts), np.maximum.reduceat(known, starts)
        quantiles = [float(one) for one in np.quantile(known, (0.0, 0.03, 0.5, 0.97))]
        if quantiles[0] == known.max():
            continue
        least, most = limits(low, high, (quantiles[0], quantiles[1], quantiles[2], quantiles[3]))
        off = (newest < least) | (newest > most)
        if not off.any():
            continue
        value = float(newest[off][np.argmax(np.abs(newest[off]))])
        first_us = int(arrivals.known_us[middle:end][off][0])
        count, rows = int(off.sum()), int((~np.isnan(newest)).sum())
        evidence = {"value": value, "least": least, "most": most, "events": float(count)}
        message = (
            f"Source {arrivals.frame.source}: extreme values of {name} such as {value:,.6g} in {count:,} of {rows:,} "
            f"events since {format_time(first_us)[:16]}; in the four weeks before, the values were {known.min():,.6g} "
            f"to {known.max():,.6g}, and values below {least:,.6g} or above {most:,.6g} are implausible. Check "
            "its unit and what measures it."
        )
        found.append(
            Finding(
                "range",
                f"column {arrivals.frame.source}.{name}",
                first_us,
                evidence,
                message,
                severity="red" if count >= _FEW * rows else "info",
            )
        )
    return found


def _rescaled(known_us: Times, known: Floats, newest_us: Times, newest: Floats) -> tuple[float, float] | None:
    """Return the usual and the new median if all values are multiplied by about one factor; None if they are not.

    Only earlier values at the same time of day are compared, because many quantities follow the sun or working hours.
    """
    there = ~np.isnan(newest)
    phase_us = (known_us - newest_us[0] + HOUR_US) % DAY_US
    near = phase_us <= newest_us[-1] - newest_us[0] + 2 * HOUR_US
    days = (known_us[near] - newest_us[0] + HOUR_US) // DAY_US
    starts = np.flatnonzero(np.diff(days, prepend=days[:1] - 1))
    if there.sum() < _LEAST_NEWEST or near.sum() < _LEAST or starts.size < _LEAST_DAYS:
        return None
    now, then = (np.quantile(values, (0.25, 0.5, 0.75)) for values in (newest[there], known[near]))
    if min(now.min(), then.min()) <= 0.0:
        return None
    of_days = [float(np.median(values)) for values in np.split(known[near], starts[1:])]
    beyond = now[1] > _SCALE * max(of_days) or now[1] < min(of_days) / _SCALE
    alike = np.ptp(np.log(now / then)) <= math.log(_SCALE) / 4
    return (float(then[1]), float(now[1])) if beyond and alike else None
