"""Traffic that doubled or repeats itself is red until it is usual again, however long that lasts."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.core.time import HOUR_US
from trimtab.monitoring.traffic import TrafficHour, traffic_findings

DAYS = 28


def traffic(seed: int, days: int) -> dict[int, TrafficHour]:
    """About 60 requests an hour, each asked once."""
    counts = np.random.default_rng(seed).poisson(60, 24 * days)
    return {hour: TrafficHour(int(count), int(count)) for hour, count in enumerate(counts)}


def lived(hours: dict[int, TrafficHour]) -> dict[int, set[str]]:
    """What was found after each hour of the last days, by the hour."""
    standing: dict[str, int] = {}
    found = {}
    for now in range(24 * (DAYS - 1), max(hours) + 2):
        known = {hour: one for hour, one in hours.items() if hour < now}
        last_us = now * HOUR_US - 1
        now_found = traffic_findings(known, now * HOUR_US, last_us, None, standing)
        standing = {one.kind: standing.get(one.kind, one.onset_us) for one in now_found}
        found[now] = set(standing)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_requests_that_repeat_are_red_for_as_long_as_they_do(seed: int) -> None:
    hours = traffic(seed, DAYS + 7)
    begin, end = 24 * DAYS, 24 * (DAYS + 5)
    for hour in range(begin, end):
        hours[hour] = TrafficHour(2 * hours[hour].rows, hours[hour].rows)
    found = lived(hours)
    assert {now for now, kinds in found.items() if "duplicates" in kinds} >= set(range(begin + 3, end + 1))
    assert not any("duplicates" in kinds for now, kinds in found.items() if now <= begin or now > end + 1)


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
