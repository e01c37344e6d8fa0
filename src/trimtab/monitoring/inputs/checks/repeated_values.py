"""Find sources whose events only repeat their entities' last values, because of a cache, a stuck device or an old file.

Such events are on time and in the usual range, so no other check finds them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, format_time
from trimtab.monitoring.inputs.checks.feeds import REFERENCE_DAYS, Arrivals
from trimtab.monitoring.inputs.checks.findings import Finding, percent

_NEWEST: Final = 300  # of the last day, at most this many events are checked
_FIRST: Final = 40  # checked first; if fewer than `_STUCK` of these repeat values, the others are not read
_LEAST_PAIRS: Final = 20  # at least this many events need an earlier event of their entity
_STUCK: Final = 0.95  # a source counts as stuck if at least this share of its values is repeated
_FURTHER: Final = 0.2  # and only if the share is this much higher than on each earlier day
_LEAST_DAYS: Final = 7
_EARLIER: Final = 50_000  # at most this many earlier events are compared

Flags = NDArray[np.bool_]


def repeat_findings(
    arrivals: Arrivals, now_us: int, entities: Collection[Sequence[str]], skipped: frozenset[str]
) -> list[Finding]:
    """Return a finding if nearly all of the newest events repeat the values of the previous event of their entity.

    Args:
        arrivals: All events of the source.
        entities: The columns that name an entity, for each view of the source.
        skipped: Columns that are no quantities, such as keys. Of the others, the columns of numbers are compared.
    """
    columns = arrivals.frame.columns
    names = [name for name, one in columns.by_name.items() if one.dtype in ("float", "int") and name not in skipped]
    times = (now_us - REFERENCE_DAYS * DAY_US, now_us - DAY_US, now_us)
    oldest, day, end = (int(place) for place in np.searchsorted(arrivals.known_us, times, side="right"))
    begin = max(day, end - _NEWEST)
    if not names or end - begin <= _LEAST_PAIRS:
        return []
    for by in entities:
        _, few = _repeats(columns, arrivals, slice(max(begin, end - _FIRST), end), by, names)
        if few.size and few.mean() < _STUCK:
            continue
        rows, same = _repeats(columns, arrivals, slice(begin, end), by, names)
        if same.size < _LEAST_PAIRS or same.mean() < _STUCK:
            continue
        usual = _most_usual(columns, arrivals, slice(max(oldest, begin - _EARLIER), begin), by, names)
        share = float(same.mean())
        if usual is None or share < usual + _FURTHER:
            continue
        onset_us = int(arrivals.known_us[begin + rows[same].min()])
        source = arrivals.frame.source
        message = (
            f"Source {source}: {percent(share)} of its newest {same.size} events repeat the values of the previous "
            f"event of the same {', '.join(by)}, since {format_time(onset_us)[:16]} or earlier; in the four weeks "
            f"before, at most {percent(usual)} of a day's events did. Check what sends them: a cache, a device or an "
            "old file may repeat its last values."
        )
        evidence = {"share": share, "usual": usual, "events": float(same.size)}
        return [Finding("feed_stuck", f"source {source}", onset_us, evidence, message)]
    return []


def _most_usual(
    columns: Columns, arrivals: Arrivals, places: slice, by: Sequence[str], names: Sequence[str]
) -> float | None:
    """Return the largest share of repeated values on an earlier day; None if too few days have enough events.

    The newest days on which the source was stuck already are left out, because they belong to the same fault.
    """
    rows, same = _repeats(columns, arrivals, places, by, names)
    days = arrivals.known_us[places][rows] // DAY_US
    shares = [float(same[days == day].mean()) for day in np.unique(days) if (days == day).sum() >= _LEAST_PAIRS]
    while shares and shares[-1] >= _STUCK:
        shares.pop()
    return max(shares) if len(shares) >= _LEAST_DAYS else None


def _repeats(
    columns: Columns, arrivals: Arrivals, places: slice, by: Sequence[str], names: Sequence[str]
) -> tuple[NDArray[np.int64], Flags]:
    """Return the indices of events with an earlier event of their entity, and whether each repeats its values.

    Events of one entity and time are versions of one event, and not compared.
    """
    mine = arrivals.order[places]
    numbers: dict[tuple[object, ...], int] = {}
    keys = zip(*(columns[name].take(mine).to_list() for name in by), strict=True) if by else [()] * mine.size
    entity = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    order = np.argsort(entity, kind="stable")
    before, after = order[:-1], order[1:]
    event_us = arrivals.event_us[places]
    pairs = (entity[before] == entity[after]) & (event_us[before] < event_us[after])
    before, after = before[pairs], after[pairs]
    same = np.ones(after.size, np.bool_)
    for name in names:
        column = columns[name].take(mine)
        there, values = column.present(), column.values
        same &= (there[before] == there[after]) & (~there[after] | (values[before] == values[after]))
    return after, same
