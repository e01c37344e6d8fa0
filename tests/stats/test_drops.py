"""Sudden drops of a daily value are found where they are, and seldom where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.stats.inference.drops import AFTER, BEFORE, since_drop


def days(rng: np.random.Generator, count: int, correlation: float, kind: str) -> np.ndarray:
    """Values of mean 0 and standard deviation 1, after a burn-in."""
    noise = {
        "gaussian": rng.standard_normal(count + 30),
        "skewed": rng.gamma(1.0, 1.0, count + 30) - 1.0,
        "heavy": rng.standard_t(4, count + 30) / np.sqrt(2.0),
    }[kind]
    for place in range(1, noise.size):
        noise[place] = correlation * noise[place - 1] + np.sqrt(1 - correlation**2) * noise[place]
    return noise[30:]


@pytest.mark.parametrize("count", [28, 84])
@pytest.mark.parametrize(
    ("kind", "correlation"), [("gaussian", 0.0), ("gaussian", 0.4), ("skewed", 0.4), ("heavy", 0.4)]
)
def test_healthy_series_seldom_have_a_drop(kind: str, correlation: float, count: int) -> None:
    rng = np.random.default_rng(1)
    assert sum(since_drop(days(rng, count, correlation, kind)) > 0 for _ in range(400)) <= 4


@pytest.mark.parametrize(("count", "size", "least"), [(28, 3.0, 0.5), (28, 5.0, 0.95), (84, 3.0, 0.8), (84, 5.0, 0.95)])
def test_a_drop_is_found_on_its_day(count: int, size: float, least: float) -> None:
    rng, found = np.random.default_rng(2), []
    for _ in range(100):
        values = days(rng, count, 0.4, "gaussian")
        values[: count - 17] += size
        found.append(since_drop(values))
    assert np.mean(np.abs(np.array(found) - (count - 17)) <= 2) >= least


def test_a_rise_a_slow_fall_and_few_days_are_no_drop() -> None:
    rng, slow = np.random.default_rng(3), 0
    for _ in range(100):
        noise = days(rng, 28, 0.4, "gaussian")
        assert since_drop(noise + np.where(np.arange(28) < 14, 0.0, 9.0)) == 0
        slow += since_drop(noise - np.linspace(0.0, 6.0, 28)) > 0
        assert since_drop(days(rng, BEFORE + AFTER - 1, 0.0, "gaussian")) == 0
    assert slow <= 20
    assert since_drop([2.0] * BEFORE + [1.0] * AFTER) == BEFORE
    for value in (1.0, 0.1, 1.1e7):  # means of equal values differ by rounding
        assert all(since_drop([value] * days) == 0 for days in range(21, 90))
