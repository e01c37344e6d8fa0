"""Limits of numbers: rare values of a reference say little about the largest, and an absurd value stays beyond."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.monitoring.profiles.proportion import limits, next_excess

QUARTILES = (0.0, 0.0, 0.0, 0.02)  # of rain: the least value, and three quantiles


@pytest.mark.parametrize(
    "wet", [[0.01, 0.01, 0.01], [0.01, 0.01, 0.02, 0.13], [0.01, 0.02, 0.05, 0.08, 0.11, 0.26], [0.3] * 12]
)
def test_a_cloudburst_after_dry_weeks_is_in_proportion_and_nonsense_is_not(wet: list[float]) -> None:
    high = np.concatenate([np.zeros(28 - len(wet)), wet])
    least, most = limits(np.zeros(28), high, QUARTILES)
    assert 1.2 < most < 9_999.0
    assert -1.0 < least < 0.0


def test_what_the_reference_holds_itself_is_in_proportion() -> None:
    high = np.array([0.0] * 22 + [0.01, 0.01, 0.01, 0.02, 0.3, 0.38])
    assert limits(np.zeros(28), high, QUARTILES)[1] > 0.38


def test_a_fog_after_clear_weeks_is_in_proportion_and_a_code_for_nothing_is_not() -> None:
    low, high = np.array([10.0] * 20 + [9.0] * 8), np.full(28, 10.0)
    least, most = limits(low, high, (9.0, 10.0, 10.0, 10.0))
    assert -9_999.0 < least < 0.25
    assert 10.0 < most < 100.0


def test_an_absurd_value_in_the_reference_does_not_hide_the_next() -> None:
    wet = np.array([0.0] * 18 + [0.01, 0.02, 0.02, 0.05, 0.06, 0.1, 0.1, 0.2, 0.3])
    without, with_it = (limits(np.zeros(len(high)), high, QUARTILES)[1] for high in (wet, np.append(wet, 9_999.0)))
    assert with_it == pytest.approx(without, rel=0.5)


def test_a_column_with_many_rare_values_has_a_tighter_limit_than_one_with_few() -> None:
    rng = np.random.default_rng(1)
    rain = np.where(rng.random(365) < 0.4, rng.lognormal(-2.5, 1.0, 365), 0.0)
    ratios = [limits(np.zeros(days), rain[:days], QUARTILES)[1] / rain[:days].max() for days in (14, 60, 365)]
    assert ratios == sorted(ratios, reverse=True)
    assert 10.0 <= ratios[-1] < 100.0


def test_a_wind_that_always_blows_has_the_limits_of_its_range() -> None:
    rng = np.random.default_rng(2)
    low, high = rng.uniform(0.0, 5.0, 28), rng.uniform(14.0, 38.0, 28)
    assert limits(low, high, (0.0, 2.0, 9.0, 22.0))[1] < 160.0


@pytest.mark.parametrize(("count", "days"), [(2, 28.0), (10, 100.0), (60, 28.0)])
def test_the_next_excess_is_exceeded_once_in_ten_years(count: int, days: float) -> None:
    rng = np.random.default_rng(count)
    means = [3.0, 0.2]
    for mean in means:
        bounds = np.array([next_excess(rng.exponential(mean, count), days) for _ in range(40_000)])
        a_year = 365.0 * count / days * np.exp(-bounds / mean).mean()
        assert a_year == pytest.approx(0.1, rel=0.2)
