"""How far one slice raised the loss of all rows, against sums over the rows themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trimtab import store
from trimtab.core.records import ChangeOnset
from trimtab.core.time import DAY_US
from trimtab.feedback.blocks import BlockSums, DayBlocks
from trimtab.monitoring.quality.quality_days import store_days, stored_days
from trimtab.monitoring.quality.slice_rises import BEFORE_DAYS, rise_by_slice
from trimtab.stats.exact_sums import exact_sum
from trimtab.store import Catalog

STATES = ["FL", "GA", "NY"]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with store.open(f"sqlite://{tmp_path}/catalog.db", "catalog") as opened:
        yield opened


def sums(losses: list[float]) -> BlockSums:
    return BlockSums(predictions=len(losses) + 1, labelled=len(losses), missing=1, loss=exact_sum(losses))


def onset(day: int) -> ChangeOnset:
    return ChangeOnset(at_us=day * DAY_US, earliest_us=(day - 1) * DAY_US, latest_us=(day + 1) * DAY_US)


def written(catalog: Catalog, losses: dict[tuple[int, str], list[float]], *, arm: str = "champion") -> None:
    """Store days of which the losses of each slice are given."""
    for day in sorted({day for day, _ in losses}):
        found = {name: losses[day, name] for name in STATES if (day, name) in losses}
        blocks = DayBlocks(
            model="m", version=f"v{day // 20}", arm=arm, day_us=day * DAY_US, cap=1.0,
            whole=sums([loss for one in found.values() for loss in one]),
            slices={f"state={name}": sums(one) for name, one in found.items() if one},
        )  # fmt: skip
        catalog.write(store_days([blocks]))


@pytest.mark.parametrize("seed", range(5))
def test_the_rise_is_what_the_slice_adds_to_the_mean_of_all_rows(catalog: Catalog, seed: int) -> None:
    chance = np.random.default_rng(seed)
    losses = {
        (day, name): chance.exponential(4.0 if name == "FL" and day >= 50 else 1.0, chance.integers(1, 9)).tolist()
        for day in range(10, 60)
        for name in STATES
    }
    written(catalog, losses)
    written(catalog, {(day, "FL"): [900.0] for day in range(40, 60)}, arm="canary")
    before = {key: one for key, one in losses.items() if 49 - BEFORE_DAYS <= key[0] < 49}
    since = {key: one for key, one in losses.items() if key[0] >= 50}
    as_before = [loss for (_, name), one in since.items() if name != "FL" for loss in one]
    florida = [loss for (_, name), one in since.items() if name == "FL" for loss in one]
    level = np.mean([loss for (_, name), one in before.items() if name == "FL" for loss in one])
    rows = len(as_before) + len(florida)
    now = (sum(as_before) + sum(florida)) / rows
    without = (sum(as_before) + level * len(florida)) / rows  # had it stayed as it was
    of_all = np.mean([loss for one in before.values() for loss in one])
    assert rise_by_slice(catalog, "m", "state=FL", onset(50)) == pytest.approx((now - without) / of_all, rel=1e-12)
    assert rise_by_slice(catalog, "m", "state=GA", onset(50)) < 0.6


def test_too_few_days_or_a_slice_without_rows_say_nothing(catalog: Catalog) -> None:
    written(catalog, {(day, name): [9.0 if day >= 12 else 1.0] for day in range(10, 20) for name in ("FL", "GA")})
    assert rise_by_slice(catalog, "m", "state=FL", onset(12)) == 0.0  # two days before
    assert rise_by_slice(catalog, "m", "state=FL", onset(18)) == 0.0  # two days since
    assert rise_by_slice(catalog, "m", "state=FL", onset(14)) > 0.0
    assert rise_by_slice(catalog, "m", "state=NY", onset(14)) == 0.0
    assert rise_by_slice(catalog, "other", "state=FL", onset(14)) == 0.0


def test_days_of_a_new_month_are_read_if_the_time_begins_within_a_day(catalog: Catalog) -> None:
    written(catalog, {(day, "FL"): [1.0] for day in range(29, 33)})  # 30 January to 2 February 1970
    noon, six = DAY_US // 2, DAY_US // 4
    found = stored_days(catalog, "m", from_us=29 * DAY_US + noon, until_us=31 * DAY_US + six)
    assert [day.day_us // DAY_US for day in found] == [30, 31]
