"""The units of coming days follow the trend of past days, if there is one, and differ as past days did."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.experiments.reading.traffic import courses, trend

WEEKEND = np.array([440.0] * 5 + [3_800.0] * 2)


def returning(days: int, *, inflow: float = 0.0, seed: int = 1) -> np.ndarray:
    """New units a day among 5,000 customers, of whom a tenth visits each day, and some who come only once."""
    rng, left, found = np.random.default_rng(seed), 5_000, []
    for _ in range(days):
        new = rng.binomial(left, 0.1)
        left -= new
        found.append(new + rng.poisson(inflow))
    return np.array(found, float)


@pytest.mark.parametrize("days", [10, 14, 28, 56])
def test_customers_who_return_run_out(days: int) -> None:
    expected, follows = trend(returning(days), 180)
    assert follows
    assert 4_500 < expected.sum() < 6_000
    assert sum(courses(returning(days), 180)[3]) == pytest.approx(5_000, rel=0.15)


def test_units_that_keep_coming_are_found_after_some_weeks() -> None:
    expected, follows = trend(returning(42, inflow=60.0), 180)
    assert follows
    assert expected[-1] == pytest.approx(60.0, rel=0.2)


@pytest.mark.parametrize("days", [9, 10, 14, 28])
@pytest.mark.parametrize("start", range(7))
def test_days_of_a_week_and_noise_are_no_trend(days: int, start: int) -> None:
    rng = np.random.default_rng(start)
    for usual in (np.roll(WEEKEND, start), [400.0], [15.0]):
        units = rng.poisson(np.resize(usual, days)).astype(float)
        expected, follows = trend(units, 60)
        assert not follows
        assert np.allclose(expected, units.mean())


def test_growth_is_not_continued() -> None:
    expected, follows = trend(100.0 * 1.1 ** np.arange(28.0), 90)
    assert follows
    assert expected[27] == expected[-1] == pytest.approx(100.0 * 1.1**27, rel=0.05)


def test_courses_start_on_each_weekday() -> None:
    units = np.resize(WEEKEND, 17)
    found = np.array(courses(units, 21))
    assert found.shape == (7, 21)
    assert np.allclose(found.mean(1), found.mean())
    assert np.allclose(found, [np.resize(np.roll(np.resize(found[0], 7), -start), 21) for start in range(7)])
    assert sorted(found[:, 0] > 2_000) == [False] * 5 + [True] * 2
    assert courses(np.full(5, 7.0), 10) == ()
    assert len(courses(np.array([5.0, 9.0, 1.0]), 10)) == 3
