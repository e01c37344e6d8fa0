"""Gaps that the training rows have again and again are no fault, also when two of them meet; longer ones are red."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_world import Shop, World

from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.profiles.null_runs import normal_run, null_runs


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0]), max_size=60))
def test_runs_are_those_that_a_pattern_finds(shares: list[float]) -> None:
    nulls = np.array([round(100 * share) for share in shares], np.int64)
    found = null_runs(np.full(len(shares), 100), nulls, np.zeros(len(shares)))
    off = "".join("x" if share > 0.2 else "." for share in shares)
    assert found == pytest.approx([sum(shares[one.start() : one.end()]) - between(shares, one) for one in runs(off)])


def runs(off: str) -> list[re.Match[str]]:
    return list(re.finditer(r"x(?:\.?x)*", off))


def between(shares: list[float], run: re.Match[str]) -> float:
    """What the normal hours within a run would add to its length."""
    return sum(share for share in shares[run.start() : run.end()] if share <= 0.2)


def test_hours_with_few_rows_are_put_together_and_hours_without_are_left_out() -> None:
    rows, nulls = np.array([10, 0, 30, 45, 20, 20]), np.array([10, 0, 0, 0, 20, 20])
    assert null_runs(rows, nulls, np.zeros(6)) == [3.0]
    assert null_runs(rows, nulls, np.full(6, 0.5)) == [2.0]


def test_a_normal_run_is_known_from_several_and_longer_than_twelve_hours_only_if_several_runs_were() -> None:
    assert normal_run([], 28.0) == 0.0
    assert normal_run([5.0], 28.0) == 0.0  # it may have been a fault
    assert 9.0 < normal_run([1.0] * 100, 28.0) < normal_run([1.0] * 5, 28.0) == 12.0
    assert normal_run([1.0] * 20 + [30.0, 40.0], 28.0) < 12.0  # two faults
    assert normal_run([1.0] * 20 + [14.0, 20.0, 14.0, 16.0], 28.0) == 30.0
    assert normal_run([0.2] * 60 + [40.0], 28.0) == normal_run([0.2] * 60, 28.0) < 3.0


def with_gaps(hours: list[int], seed: int, folder: Path) -> tuple[World, list[Signal]]:
    """The signals of a shop whose ages are missing for twelve hours of the training rows, and for further hours."""
    world = World(seed, days=6, before=28, per_day=1_200)
    busy = np.unique(world.at_us[world.rows(0, world.cut_us)] // HOUR_US)
    before = np.random.default_rng(seed).choice(busy, 12, replace=False)
    after = [world.cut_us // HOUR_US + hour for hour in hours]
    world.visits["age"][np.isin(world.at_us // HOUR_US, [*before, *after])] = np.nan
    return world, [one for one in Shop(world, folder).run() if one.severity == "red"]


@pytest.mark.parametrize("seed", [1, 2])
def test_two_gaps_that_meet_are_no_fault_where_gaps_are_common(seed: int, tmp_path: Path) -> None:
    _, red = with_gaps([60, 61, 90], seed, tmp_path)
    assert [one.message for one in red] == []


def test_a_column_that_stays_null_is_red_within_a_day_where_gaps_are_common(tmp_path: Path) -> None:
    world, (found, *more) = with_gaps(list(range(60, 108)), 3, tmp_path)
    assert (found.kind, found.subject, more) == ("nulls", "column age", [])
    assert found.raised_at_us < world.cut_us + 60 * HOUR_US + DAY_US
    assert found.ended_at_us is not None
