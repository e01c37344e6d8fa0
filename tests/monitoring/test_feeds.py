"""A feed is late when what comes is old, and not when nothing comes because there is little to tell."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.monitoring.inputs.checks.feeds import Arrivals, feed_findings
from trimtab.monitoring.inputs.checks.findings import Finding

DAYS = 28


def findings(
    event_us: list[int], known_us: list[int], now_us: int, loaded_us: list[int] | None = None
) -> list[Finding]:
    """What is found in the events that are known by then; `loaded_us`: when a file brought them, 0 without one."""
    events, known = np.array(event_us), np.array(known_us)
    there = known <= now_us
    events, known = events[there], known[there]
    count = len(known)
    loaded = None if loaded_us is None else (np.array(loaded_us)[there] // HOUR_US).astype(np.int32)
    columns = Columns.of({"bought": ("float", [1.0] * count)})
    never, places = np.full(count, NEVER_US), np.arange(1, count + 1)
    frame = EventFrame(
        "sales",
        columns,
        events,
        known,
        never,
        np.zeros(count, bool),
        np.zeros(count, np.int16),
        places,
        ("p0",),
        loaded,
    )
    return feed_findings(Arrivals(frame), now_us)


def found(event_us: list[int], known_us: list[int], now_us: int) -> list[str]:
    """The kinds of what is found."""
    return [one.kind for one in findings(event_us, known_us, now_us)]


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


def red_days(loads: list[int], until: int, *, sent_days: range = range(0)) -> list[int]:
    """The days at whose noon a source is red that has 50 events a day, loaded from files at 06:00 of some days.

    Each event is known as history half an hour after it happened, or when it was sent.
    """
    events, known, loaded, before = [], [], [], -60
    for day in loads:
        for hour in range(24 * before, 24 * day):
            for minute in (10, 40):
                events.append(hour * HOUR_US + minute * MINUTE_US)
                known.append(events[-1] + 30 * MINUTE_US)
                loaded.append(day * DAY_US + 6 * HOUR_US)
        before = day
    for hour in range(24 * sent_days.start, 24 * sent_days.stop):
        events.append(hour * HOUR_US)
        known.append(events[-1] + 5 * MINUTE_US)
        loaded.append(0)
    moved = 100 * DAY_US  # the hour 0 means that there was no load
    events, known = [one + moved for one in events], [one + moved for one in known]
    loaded = [one + moved if one else 0 for one in loaded]
    red = []
    for day in range(max(1, loads[0]), until):
        now_us = moved + day * DAY_US + 12 * HOUR_US
        there = [i for i, one in enumerate(loaded) if one <= now_us]
        parts = [[values[i] for i in there] for values in (events, known, loaded)]
        if findings(parts[0], parts[1], now_us, parts[2]):
            red.append(day)
    return red


@pytest.mark.parametrize(
    ("loads", "red"),
    [
        ([0], []),  # one file only: there is no rhythm
        ([0, 14, 28], []),  # nor after two more
        ([0, 1, 2, 3, 17, 31, 45], range(81, 120)),  # files that were tried out on the first days
        ([0, 14, 28, 42], range(71, 120)),
        ([0, 7, 14, 21, 28, 35], range(50, 120)),
        ([0, 31, 59, 90], []),
        ([0, 3, 23, 28, 58], []),
        ([*range(0, 90, 7)], range(99, 120)),
    ],
)
def test_a_source_that_is_loaded_from_files_is_held_against_the_rhythm_of_its_loads(
    loads: list[int], red: range | list[int]
) -> None:
    assert red_days(loads, 120) == list(red)


def test_files_that_come_on_every_working_day_are_missed_after_the_time_of_two_weekends() -> None:
    assert red_days([day for day in range(60) if day % 7 < 5], 75) == list(range(65, 75))


def test_a_feed_that_is_sent_after_a_first_file_is_red_within_a_day_when_it_stops() -> None:
    assert red_days([0], 24, sent_days=range(20)) == [20, 21, 22, 23]


def test_a_finding_about_files_speaks_of_loads_and_begins_when_the_next_one_was_due() -> None:
    loads_us = [day * DAY_US + 6 * HOUR_US for day in (100, 114, 128, 142)]
    (one,) = findings(loads_us, loads_us, 171 * DAY_US + 12 * HOUR_US, loads_us)
    assert one.message == (
        "Source sales: the last file with new events was loaded 29 days ago, on 1970-05-23; usually there is one every "
        "14 days. Load the next one, or check what loads them."
    )
    assert one.onset_us == 156 * DAY_US + 6 * HOUR_US


@pytest.mark.parametrize("seed", [3, 5])
def test_a_quiet_night_of_a_weekend_is_no_feed_that_stopped(seed: int) -> None:
    """Of 100 events on working days and 25 on the days of a weekend, at random, a tenth come at night."""
    rng, year = np.random.default_rng(seed), 42 + 365
    of_hour = np.array([1] * 7 + [6] * 12 + [3] * 5) / 94.0
    per_day = np.where(np.arange(year) % 7 < 5, 100.0, 25.0)
    hours = np.repeat(np.arange(24 * year), rng.poisson(per_day[:, None] * of_hour).ravel())
    known_us = np.sort(hours * HOUR_US + rng.integers(0, HOUR_US, hours.size))
    gaps = np.flatnonzero(np.diff(known_us) > 7 * HOUR_US)
    gaps = gaps[known_us[gaps] > 42 * DAY_US]
    assert gaps.size > 10
    stopped = 0
    for gap in gaps.tolist():  # looked at once an hour
        given = known_us[max(gap - 3_000, 0) : gap + 1]
        looks = range(int(known_us[gap] // HOUR_US) + 6, int(known_us[gap + 1] // HOUR_US) + 1)
        stopped += any(found(given.tolist(), given.tolist(), now * HOUR_US) for now in looks)
    assert stopped == 0
    given = known_us[known_us < 200 * DAY_US][-3_000:].tolist()
    assert found(given, given, 200 * DAY_US + 24 * HOUR_US) == ["feed_stopped"]
