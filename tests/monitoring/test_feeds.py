"""A feed is late when what comes is old, and not when nothing comes because there is little to tell."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.monitoring.inputs.checks.feeds import Arrivals, feed_findings

DAYS = 28


def found(event_us: list[int], known_us: list[int], now_us: int) -> list[str]:
    """The kinds of what is found in the events that are known by then."""
    events, known = np.array(event_us), np.array(known_us)
    events, known = events[known <= now_us], known[known <= now_us]
    count = len(known)
    columns = Columns.of({"bought": ("float", [1.0] * count)})
    never, places = np.full(count, NEVER_US), np.arange(1, count + 1)
    frame = EventFrame(
        "sales", columns, events, known, never, np.zeros(count, bool), np.zeros(count, np.int16), places, ("p0",)
    )
    return [one.kind for one in feed_findings(Arrivals(frame), now_us)]


def batches(hours: range, *, late_h: int = 0) -> tuple[list[int], list[int]]:
    """Events of each hour, known six minutes after its end, or so many hours later."""
    events = [hour * HOUR_US + minute * MINUTE_US for hour in hours for minute in (15, 35, 50)]
    known = [(hour + 1 + late_h) * HOUR_US + 6 * MINUTE_US for hour in hours for _ in range(3)]
    return events, known


@pytest.mark.parametrize("hours", [1, 2])
def test_hours_without_an_event_make_no_feed_late(hours: int) -> None:
    events, known = batches(range(24 * DAYS))
    now_us = (24 * DAYS + hours) * HOUR_US + 6 * MINUTE_US
    assert found(events, known, now_us) == []


def test_a_feed_that_comes_hours_late_is_late_within_a_day() -> None:
    begin = 24 * DAYS
    before, after = batches(range(begin)), batches(range(begin, begin + 48), late_h=8)
    events, known = before[0] + after[0], before[1] + after[1]
    kinds = {hour: found(events, known, (begin + hour) * HOUR_US + 6 * MINUTE_US) for hour in (1, 4, 9, 12, 24, 40)}
    assert kinds[1] == []
    assert kinds[4] == ["feed_stopped"]
    assert all(kinds[hour] in (["feed_late"], ["feed_clock"]) for hour in (9, 12, 24, 40)), kinds


def test_a_feed_of_no_days_is_not_judged() -> None:
    events, known = batches(range(24))
    assert found(events, known, 2 * DAY_US) == []
