"""Traffic that doubled or repeats itself is red until it is usual again, however long that lasts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.red_windows import RedWindow
from trimtab.monitoring.traffic import TrafficHour, traffic_findings

DAYS = 28
WINDOW = RedWindow(id="d", model="m", kind="duplicates", subject="traffic", start_us=0, end_us=None)


def traffic(seed: int, days: int, per_hour: int = 60) -> dict[int, TrafficHour]:
    """About so many requests an hour, each asked once."""
    counts = np.random.default_rng(seed).poisson(per_hour, 24 * days)
    return {hour: TrafficHour(int(count), int(count)) for hour, count in enumerate(counts)}


def lived(hours: dict[int, TrafficHour]) -> dict[int, set[str]]:
    """What was found after each hour of the last days, by the hour."""
    found: dict[int, set[str]] = {}
    windows: list[RedWindow] = []
    kinds: set[str] = set()
    for now in range(24 * (DAYS - 1), max(hours) + 2):
        known = {hour: one for hour, one in hours.items() if hour < now}
        now_us = now * HOUR_US
        doubled = "traffic_doubled" in kinds
        findings = traffic_findings(known, now_us, now_us - 1, None, doubled=doubled, repeated=windows)
        kinds = {one.kind for one in findings}
        stands = bool(windows) and windows[-1].end_us is None
        if "duplicates" in kinds and not stands:
            windows.append(msgspec.structs.replace(WINDOW, start_us=now_us - DAY_US))
        elif "duplicates" not in kinds and stands:
            windows[-1] = msgspec.structs.replace(windows[-1], end_us=now_us)
        found[now] = kinds
    return found


@pytest.mark.parametrize("seed", range(3))
def test_requests_that_repeat_are_red_for_as_long_as_they_do(seed: int) -> None:
    hours = traffic(seed, DAYS + 12)
    spans = [(24 * DAYS, 24 * (DAYS + 5)), (24 * (DAYS + 8), 24 * (DAYS + 9))]
    for begin, end in spans:
        for hour in range(begin, end):
            hours[hour] = TrafficHour(2 * hours[hour].rows, hours[hour].rows)
    red = {now for now, kinds in lived(hours).items() if "duplicates" in kinds}
    assert red >= {now for begin, end in spans for now in range(begin + 3, end + 1)}
    assert red <= {now for begin, end in spans for now in range(begin + 1, end + 2)}


@pytest.mark.parametrize("seed", range(3))
def test_doubled_traffic_is_red_until_it_is_usual_again(seed: int) -> None:
    hours = traffic(seed, DAYS + 5)
    begin, end = 24 * DAYS, 24 * (DAYS + 3)
    for hour in range(begin, end):
        share = 1.6 if begin + 36 <= hour < begin + 42 else 2.0  # for one window it lies below what it began with
        count = round(share * hours[hour].rows)
        hours[hour] = TrafficHour(count, count)
    found = lived(hours)
    assert {now for now, kinds in found.items() if "traffic_doubled" in kinds} >= set(range(begin + 18, end + 1))
    assert not any(kinds for now, kinds in found.items() if now <= begin or now > end + 12)


@pytest.mark.parametrize("seed", range(3))
def test_hours_of_few_requests_are_put_together(seed: int) -> None:
    hours = traffic(seed, DAYS + 4, per_hour=8)
    begin, end = 24 * DAYS, 24 * (DAYS + 2)
    for hour in range(begin, end):
        hours[hour] = TrafficHour(2 * hours[hour].rows, hours[hour].rows)
    red = {now for now, kinds in lived(hours).items() if "duplicates" in kinds}
    assert red >= set(range(begin + 12, end + 1))
    assert red <= set(range(begin + 1, end + 12))
