"""Another unit of whole numbers is red; counts that fall and rise with what they count are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from input_world import SITES, Shop, World
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.inputs.checks.unit_maps import _NAMED, UnitMap, has_name, is_gradual, unit_maps
from trimtab.monitoring.profiles.profile_records import BINS, ColumnProfile

Ints = NDArray[np.int64]
FAULTY_US = 2 * DAY_US


def counting(seed: int, *, level: float = 900.0, hourly: float = 0.15) -> tuple[World, int]:
    """A shop whose `items` are what its sites sold within a day: about so many, half as many, a third as many.

    From hour to hour they differ by a share with the standard deviation `hourly`.
    """
    world = World(seed, days=8, before=28, per_day=1_200)
    share = np.array([1.0, 0.5, 0.33])[[SITES.index(site) for site in world.visits["site"]]]
    hour = world.at_us // HOUR_US
    wave = 1.0 + hourly * world.rng.normal(size=int(hour.max() - hour.min()) + 1)[hour - hour.min()]
    world.visits["items"] = world.rng.poisson(level * share * wave.clip(0.5, 1.5))
    return world, world.cut_us + 3 * DAY_US + 9 * HOUR_US


def red(world: World, folder: Path) -> set[tuple[str, str]]:
    return {(one.kind, one.subject) for one in Shop(world, folder).run() if one.severity == "red"}


@pytest.mark.parametrize("least", [0.3, pytest.param(0.15, marks=pytest.mark.soak), 0.08])
@pytest.mark.parametrize("seed", [0, *(pytest.param(one, marks=pytest.mark.soak) for one in (1, 2))])
def test_a_count_that_falls_in_a_storm_is_no_other_unit(seed: int, least: float, tmp_path: Path) -> None:
    """Over a day's count a storm of half a day comes within a day and a half, and goes as slowly."""
    world, since_us = counting(seed)
    since = (world.at_us - since_us) / DAY_US
    left = np.interp(since, [0.0, 1.0, 1.5, 2.5], [1.0, least, least, 1.0])
    world.visits["items"] = world.rng.binomial(world.visits["items"], left)
    assert red(world, tmp_path) == set()


@pytest.mark.parametrize("most", [4.0, 11.0])
def test_a_count_that_rises_in_a_sale_is_no_other_unit(most: float, tmp_path: Path) -> None:
    world, since_us = counting(5, level=90.0)
    mine = world.rows(since_us, since_us + FAULTY_US)
    world.visits["items"][mine] = world.rng.poisson(most * world.visits["items"][mine])
    assert {kind for kind, _ in red(world, tmp_path)} <= {"range"}


CHANGES: dict[str, Callable[[Ints], Ints]] = {
    "times a hundred": lambda values: 100 * values,
    "times seven": lambda values: 7 * values,
    "metres to feet, rounded": lambda values: np.rint(3.28084 * values).astype(np.int64),
    "metres to feet, cut": lambda values: np.floor(3.28084 * values).astype(np.int64),
    "seconds to minutes, rounded": lambda values: np.rint(values / 60).astype(np.int64),
    "by ten, cut": lambda values: values // 10,
    "Celsius to kelvin, rounded": lambda values: np.rint(values + 273.15).astype(np.int64),
}
ONE_OF_EACH_KIND = {"times a hundred", "metres to feet, rounded", "by ten, cut", "Celsius to kelvin, rounded"}


@pytest.mark.parametrize(
    "change", [one if one in ONE_OF_EACH_KIND else pytest.param(one, marks=pytest.mark.soak) for one in CHANGES]
)
def test_whole_numbers_in_another_unit_are_red_within_a_day_and_end(change: str, tmp_path: Path) -> None:
    world, since_us = counting(7, level=50.0 if "kelvin" in change else 900.0, hourly=0.05)
    mine = world.rows(since_us, since_us + FAULTY_US)
    world.visits["items"][mine] = CHANGES[change](world.visits["items"][mine])
    signals = [one for one in Shop(world, tmp_path).run() if one.severity == "red"]
    found = [one for one in signals if (one.kind, one.subject) == ("units", "column items")]
    assert found, [one.message for one in signals]
    assert min(one.raised_at_us for one in found) <= since_us + DAY_US
    assert all(one.ended_at_us is not None and one.ended_at_us <= since_us + FAULTY_US + DAY_US for one in found)


def test_whole_numbers_that_are_whole_no_more_are_in_another_unit(tmp_path: Path) -> None:
    world, since_us = counting(8)
    world.visits["distance"] = world.rng.gamma(4.0, 300.0, len(world.at_us)).round() + 50.0
    mine = world.rows(since_us, since_us + FAULTY_US)
    world.visits["distance"][mine] *= 1.609344
    world.visits["price"] = np.rint(10.0 * world.visits["price"]) + 5.0
    world.visits["price"][mine] /= 60.0
    assert red(world, tmp_path) >= {("units", "column price")}


@pytest.mark.parametrize("seed", [9, 10])
def test_a_mean_over_a_day_that_moves_within_the_day_is_in_no_other_unit(seed: int, tmp_path: Path) -> None:
    """A day of bad weather takes the mean delay of a day from one level to another, and no map did that."""
    world = World(seed, days=8, before=28, per_day=1_200)
    since_us = world.cut_us + 3 * DAY_US
    after = (world.at_us - since_us) / DAY_US
    bad = np.interp(after, [0.0, 1.0, 1.6, 2.6], [0.0, 1.0, 1.0, 0.0])
    world.visits["price"] = world.rng.normal(-2.0, 8.0, len(after)) + 32.0 * bad
    assert red(world, tmp_path) == set()


@pytest.mark.parametrize("change", [lambda x: 1.8 * x + 32.0, lambda x: 3.28084 * x], ids=["fahrenheit", "feet"])
def test_a_unit_that_changes_within_the_hour_is_told_by_its_step(change: Callable[[object], object]) -> None:
    rng = np.random.default_rng(3)
    old, new = rng.gamma(4.0, 5.0, (24, 40)), rng.gamma(4.0, 5.0, (7, 40))
    (best,) = [one for one in _NAMED if one.back(np.array([change(7.0)])) == pytest.approx(7.0)]
    ramp = [change(hour) * part + hour * (1 - part) for part, hour in zip(np.linspace(0, 1, 24), old, strict=True)]
    middle = float(np.median(old))
    assert not is_gradual(best, middle, [*old, *map(change, new)])
    assert not is_gradual(best, middle, [*map(change, new)])  # what came before was not seen
    assert is_gradual(best, middle, [*ramp, *map(change, new)])


@pytest.mark.fast
def test_a_mean_that_rises_in_two_hours_of_a_storm_is_no_temperature_in_fahrenheit() -> None:
    """The mean delay of a day by destination, hour by hour. A jump from 5.8 by this map ends at 42, and not at 24."""
    course = [
        -8.1,
        -3.7,
        -1.5,
        -5.1,
        -1.6,
        1.8,
        1.5,
        10.1,
        4.8,
        6.2,
        5.6,
        5.8,
        18.8,
        24.2,
        15.8,
        25.9,
        28.6,
        27.9,
        29.7,
    ]
    (best,) = [one for one in _NAMED if one.b == 32.0]
    assert is_gradual(best, -3.5, [np.full(30, median) for median in course])


@pytest.mark.fast
def test_a_factor_is_no_conversion_between_known_units() -> None:
    assert has_name(UnitMap("", 1.8, 32.0))
    assert has_name(UnitMap("", 3.6))
    assert not has_name(UnitMap("", 12.0))
    assert not has_name(UnitMap("", 9.215))


@pytest.mark.fast
def test_a_common_divisor_that_grew_is_named_by_its_factor() -> None:
    quantiles = 2.0 * np.arange(BINS + 1)
    column = ColumnProfile(
        name="items", place="request", kind="number", of=None, source=None, rows=65, nulls=(), distinct=65,
        top_share=1 / 65, lowest=0.0, highest=128.0, least=None, most=None, quantiles=quantiles.tobytes(), counts=b"",
        known=b"", covered=1.0, constant_h=0, spreads={},
    )  # fmt: skip
    found = unit_maps(column, quantiles, 15.0 * np.arange(1, 65), [])
    assert ("7.5 x", 7.5) in [(one.said, one.a) for one in found]
