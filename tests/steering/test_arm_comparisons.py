"""When the comparison of a canary looks at labels again, and what it says. tests/app has whole projects."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rig import shadow_day, target

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.registry import AliasMove
from trimtab.steering.arm_comparisons import ArmComparison, ArmComparisons, arm_comparisons
from trimtab.steering.definitions import deployment
from trimtab.steering.loop_state import PairedDay
from trimtab.store import Catalog

BEGIN_US = 100 * DAY_US
Answer = tuple[tuple[PairedDay, ...], int]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def moved(alias: str, version: str) -> AliasMove:
    return AliasMove(model="click", alias=alias, sequence=1, version=version, previous=None, at_us=BEGIN_US,
        act="set_arm", why="", gate=None, actor="Ada")  # fmt: skip


def a_tick(catalog: Catalog, clock: VirtualClock, paired_days: Callable[..., Answer]) -> Callable[[], ArmComparison]:
    """A canary v2 next to v1. Each call lets an hour pass, and returns the comparison after the tick that follows."""
    aliases = {"champion": moved("champion", "v1"), "canary": moved("canary", "v2")}
    registry = SimpleNamespace(aliases=lambda model: aliases)
    builder = SimpleNamespace(arms=lambda: {"canary": "v2"}, comparisons=SimpleNamespace(paired_days=paired_days))
    parts = SimpleNamespace(deployment=deployment(target), clock=clock, catalog=catalog, registry=registry)
    compared: Any = ArmComparisons(parts, builder, str)  # type: ignore[arg-type]  # parts that a test can follow

    def ticked() -> ArmComparison:
        clock.advance_to(clock.now_us() + HOUR_US)
        compared.tick(None)
        return arm_comparisons(catalog, "click")["canary"]

    return ticked


def test_a_day_is_compared_once_and_six_hours_after_it_is_closed(catalog: Catalog) -> None:
    looks: list[tuple[str, str, int]] = []

    def paired_days(version: str, champion: str, since_us: int, cut_us: int) -> Answer:
        looks.append((version, champion, since_us))
        until_us = target.label.closed_until(cut_us)
        return tuple(shadow_day(day, 0.1) for day in range(since_us // DAY_US, until_us // DAY_US)), until_us

    tick = a_tick(catalog, VirtualClock(BEGIN_US), paired_days)
    assert [tick().days for _ in range(77)] == [()] * 77  # the wait of two days, and five hours after the first one
    assert len(tick().days) == 1
    assert looks == [("v2", "v1", BEGIN_US)]
    assert [len(tick().days) for _ in range(48)] == [1] * 23 + [2] * 24 + [3]
    assert looks[1:] == [("v2", "v1", BEGIN_US + DAY_US), ("v2", "v1", BEGIN_US + 2 * DAY_US)]


def test_days_whose_labels_come_in_a_later_file_are_compared_then(catalog: Catalog) -> None:
    labelled_us = [BEGIN_US]

    def paired_days(version: str, champion: str, since_us: int, cut_us: int) -> Answer:
        days = range(since_us // DAY_US, labelled_us[0] // DAY_US)
        return tuple(shadow_day(day, 0.1) for day in days), labelled_us[0]

    tick = a_tick(catalog, VirtualClock(BEGIN_US), paired_days)
    for _ in range(200):
        assert tick().days == ()
    labelled_us[0] += 6 * DAY_US
    for _ in range(6):
        found = tick()
    assert [one.day_us - BEGIN_US for one in found.days] == [n * DAY_US for n in range(6)]


def test_a_version_that_cannot_answer_is_named_and_tried_again(catalog: Catalog) -> None:
    failing = [True]

    def paired_days(version: str, champion: str, since_us: int, cut_us: int) -> Answer:
        if failing[0]:
            raise Misuse("The features of v2 cannot be read.")
        return (shadow_day(100, 0.1),), BEGIN_US + DAY_US

    tick = a_tick(catalog, VirtualClock(BEGIN_US), paired_days)
    for _ in range(78):
        found = tick()
    assert found.said("v1") == "not compared with v1: The features of v2 cannot be read."
    failing[0] = False
    for _ in range(6):
        found = tick()
    assert (len(found.days), found.failed) == (1, "")


def test_the_interval_covers_the_true_difference_on_each_day() -> None:
    """Of 200 comparisons that are read on each of 40 days, hardly any ever leaves the truth out."""
    random, missed = np.random.default_rng(36), 0
    for _ in range(200):
        days: tuple[PairedDay, ...] = ()
        inside = True
        for day in range(40):
            difference = 0.02 + 0.03 * random.standard_normal()
            days = (*days, PairedDay(day_us=day * DAY_US, rows=100, difference=difference, champion=0.4))
            _, low, high = ArmComparison(version="v2", champion="v1", since_us=0, until_us=0, days=days).interval
            assert (len(days) < 3) == math.isinf(low)
            inside = inside and low <= 0.05 <= high
        missed += not inside
    assert missed <= 10


def test_few_labels_are_pooled_and_no_labels_are_said() -> None:
    def of(*rows: int) -> ArmComparison:
        days = tuple(shadow_day(n, 0.1, rows=count) for n, count in enumerate(rows))
        return ArmComparison(version="v2", champion="v1", since_us=0, until_us=0, days=days)

    assert of().said("v1") == of(29).said("v1") == (
        "not compared with v1 yet: this needs closed days with 30 labels or more"
    )  # fmt: skip
    assert math.isinf(of(15, 15, 40).interval[1])
    assert "on the same 70 labelled requests of 3 days (no interval before 3 days with 30 labels each)" in of(
        15, 15, 40
    ).said("v1")
    assert math.isfinite(of(30, 30, 30).interval[1])
