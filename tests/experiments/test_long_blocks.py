"""Switchbacks with blocks longer than a day: only whole blocks are evidence."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from generated_days import START_US, changed, days_of, experiment, metric, state_of

import trimtab as tt
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_time
from trimtab.experiments.day_sums import merged
from trimtab.experiments.definitions import Experiment, Switchback
from trimtab.experiments.reading.effects import looks_of
from trimtab.experiments.reading.reading import read_experiment
from trimtab.experiments.records import ArmSums, ExperimentDay, VariantDay

WEEK_US = 7 * DAY_US
CITIES = 20


def cities_of_a_switchback(seed: int, days: int, every_us: int = WEEK_US) -> list[ExperimentDay]:
    """Days without an effect: the cities differ for good, and each keeps its variant for a block."""
    rng = np.random.default_rng(seed)
    rate = 1.0 / (1.0 + np.exp(2.2 - rng.normal(0.0, 0.5, CITIES)))
    variant, found = rng.integers(0, 2, CITIES), []
    for day in range(days):
        if (START_US + day * DAY_US) % every_us == 0:
            variant = rng.integers(0, 2, CITIES)
        units = rng.poisson(100, CITIES)
        bought, variants = rng.binomial(units, rate), {}
        for code, name in enumerate(("blue", "green")):
            n, y = int(units[variant == code].sum()), float(bought[variant == code].sum())
            variants[name] = VariantDay(units=n, metrics={"revenue": ArmSums(units=n, y=(y,), yy=(y,))})
        found.append(
            ExperimentDay(experiment="checkout", generation=1, day_us=START_US + day * DAY_US, variants=variants)
        )
    return found


def weekly(**given: object) -> Experiment:
    return experiment(switchback=Switchback(every_us=WEEK_US, by=("city",)), **given)


@pytest.mark.parametrize(("rule", "most"), [("fixed", 6), ("sequence", 6)])
def test_cities_that_differ_for_good_are_no_effect_of_a_weekly_switchback(rule: str, most: int) -> None:
    definition, found = weekly(rule=rule, duration_us=8 * WEEK_US), 0
    for seed in range(100):
        looks = looks_of(definition, metric(), state_of(definition), cities_of_a_switchback(seed, 56), "green")
        found += any((look.low or -1.0) > 0.0 or (look.high or 1.0) < 0.0 for look in looks)
    assert found <= most  # with days as evidence about a half


def test_a_look_comes_at_the_end_of_a_block() -> None:
    definition = weekly()
    days = cities_of_a_switchback(1, 40)  # begins on a Friday, and blocks begin on Thursdays
    looks = looks_of(definition, metric(), state_of(definition), days, "green")
    assert [format_time(one.until_us)[:10] for one in looks] == [
        "2024-03-07", "2024-03-14", "2024-03-21", "2024-03-28", "2024-04-04"
    ]  # fmt: skip
    assert looks[0].units == tuple(sum(day.variants[name].units for day in days[:6]) for name in ("blue", "green"))
    reading = read_experiment(definition, state_of(definition), days)
    assert "whole blocks of 7d" in reading.guarantee
    ended = state_of(definition, phase="stopped", ended_at_us=START_US + 40 * DAY_US)
    assert len(looks_of(definition, metric(), ended, days, "green")) == 6  # the last block ended with the experiment


def test_a_day_that_is_left_out_takes_its_block_with_it() -> None:
    definition, days = weekly(), cities_of_a_switchback(1, 34)
    days[8] = changed(days[8], excluded="red window: column temp")
    reading = read_experiment(definition, state_of(definition), days)
    assert len(reading.excluded) == 7
    assert reading.excluded["2024-03-10"] == "a day of its block does not count: red window: column temp"
    assert reading.metrics[0].looks[-1].units == tuple(
        sum(day.variants[name].units for day in [*days[:6], *days[13:]]) for name in ("blue", "green")
    )


def test_planned_looks_are_counted_in_blocks() -> None:
    definition = weekly(rule="obrien_fleming", looks=4, duration_us=8 * WEEK_US)
    looks = looks_of(definition, metric(), state_of(definition), cities_of_a_switchback(1, 62), "green")
    assert [(one.until_us - START_US) // DAY_US for one in looks] == [
        13,
        27,
        48,
        56,
    ]  # of nine blocks, the first and last cut


def test_blocks_longer_than_a_day_are_of_whole_days() -> None:
    with pytest.raises(Misuse, match="give a day or less, or whole days"):
        tt.switchback(every="36h", by="city")
    assert tt.switchback(every="18h").every_us < DAY_US < tt.switchback(every="2d").every_us
    with pytest.raises(Misuse, match="longer blocks of a switchback"):
        tt.experiment("e", unit="u", variants={"a": 0, "b": 1}, switchback=tt.switchback(every="7d"), duration="7d")


def test_a_block_has_the_sums_of_its_days() -> None:
    rng = np.random.default_rng(5)
    values = {name: {"revenue": [rng.integers(0, 9, 30) * 1.0 for _ in range(3)]} for name in ("blue", "green")}
    days = days_of(values, slices={"country=DE": values}, labels={"blue": (3, 1)})
    days = [
        changed(day, variants={n: changed_arm(one, at) for n, one in day.variants.items()})
        for at, day in enumerate(days)
    ]
    block = merged(days).variants
    for name, of in values.items():
        whole = np.concatenate(of["revenue"])
        found = block[name].metrics["revenue"]
        assert (found.units, sum(found.y), sum(found.yy)) == (90, whole.sum(), (whole**2).sum())
        assert block[name].slices == {"country=DE": {"revenue": found}}
        assert [one.units for one in block[name].ages["revenue"]] == [90, 3]
    assert (block["blue"].labelled, block["blue"].missing, block["blue"].units) == (9, 3, 90)
    assert merged(days).day_us == days[-1].day_us


def changed_arm(day: VariantDay, at: int) -> VariantDay:
    return msgspec.structs.replace(day, ages={"revenue": [day.metrics["revenue"], ArmSums(units=at)]})
