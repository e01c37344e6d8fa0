"""Runs on past units find a planted effect about as often as the rule should, and find nothing where nothing is."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.stats import binom, norm

sys.path.insert(0, str(Path(__file__).parent))

from generated_days import START_US, experiment, metric

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US
from trimtab.experiments.reading.planted_runs import PastUnits, planted, planted_runs, split_days
from trimtab.experiments.unit_values import UnitValues

DAYS = 28


def past(seed: int, *, units: int = 8_000, rate: float = 0.1) -> PastUnits:
    """Customers of whom a share buys; days differ."""
    rng = np.random.default_rng(seed)
    at_us = np.sort(START_US + rng.integers(0, DAYS * DAY_US, units))
    levels = rng.normal(0.0, 0.15, DAYS)
    p = 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + levels[(at_us - START_US) // DAY_US])))
    bought = (rng.random(units) < p).astype(float)
    return PastUnits(
        origin="visits",
        rows=[{"customer": str(number)} for number in range(units)],
        at_us=at_us,
        values={"bought": UnitValues(bought), "amount": UnitValues(bought * rng.lognormal(3.0, 1.0, units))},
    )


def bought(**given: object):
    return experiment(metric("bought", kind="proportion"), **{"duration_us": DAYS * DAY_US, **given})


def test_a_planted_effect_is_found_about_as_often_as_the_formula_says() -> None:
    units, rate, effect, runs = 8_000, 0.1, 0.3, 30
    found = planted_runs(bought(rule="fixed"), past(1), effect=effect, runs=runs)
    se = np.sqrt(2 * rate * (1 - rate) / (units / 2))
    power = norm.cdf(effect * rate / se - norm.ppf(0.975))
    assert found.units == units
    assert found.acts.get("stop", 0) == 0
    assert binom.cdf(found.right, runs, power) > 0.001  # few days make the interval a little wider
    assert found.right == found.acts["ship"]
    assert found.right_low < found.right / runs < found.right_high
    assert found.days_to_right == [DAYS, DAYS, DAYS]


@pytest.mark.parametrize("rule", ["sequence", "msprt"])
def test_a_large_effect_is_found_early_and_costs_less(rule: str) -> None:
    small, large = (planted_runs(bought(rule=rule), past(2), effect=e, runs=10) for e in (0.3, 0.8))
    assert large.right == 10
    assert large.days_to_right is not None
    assert large.days_to_right[1] < DAYS / 2
    assert large.worse_units < small.worse_units
    assert large.cost["bought"] == pytest.approx(0.8 * past(2).values["bought"].y.mean() * large.worse_units)


def test_a_worse_variant_is_stopped() -> None:
    found = planted_runs(bought(), past(3), effect=-0.6, runs=10)
    assert found.acts == {"stop": 10}
    assert found.right == 10


def test_with_several_variants_it_is_right_to_stop_the_worse_one() -> None:
    several = bought(variants={"blue": 1, "green": 2, "red": 3})
    worse, better = (planted_runs(several, past(3, units=12_000), effect=effect, runs=6) for effect in (-0.6, 0.6))
    assert (worse.acts, worse.right) == ({"stop": 6}, 6)
    assert (better.acts, better.right) == ({"ship": 6}, 6)


@pytest.mark.parametrize(
    ("rule", "said"),
    [("fixed", "the rule fixed makes its look after day 28"), ("obrien_fleming", "only 3 of the 4 looks are made")],
)
def test_a_past_that_is_shorter_than_the_experiment_is_said(rule: str, said: str) -> None:
    enough, short = (
        planted_runs(bought(rule=rule, looks=4, duration_us=days * DAY_US), past(1, units=400), effect=0.1, runs=1)
        for days in (DAYS, DAYS + 1)
    )
    assert enough.assumption == ""
    assert f"The experiment lasts 29 days, but units of 28 days are known. So {said}" in short.assumption
    assert any(short.assumption in line for line in short.lines())


def false_decisions(rule: str, runs: int, *, units: int) -> int:
    found = planted_runs(bought(rule=rule, looks=4), past(4, units=units), effect=0.0, runs=runs)
    assert found.acts.get("nothing", 0) == found.right
    assert found.cost == {"bought": 0.0}
    return runs - found.right


@pytest.mark.parametrize("rule", ["sequence", "msprt", "obrien_fleming", "fixed"])
def test_without_an_effect_the_error_is_near_the_stated_one(rule: str) -> None:
    assert binom.sf(false_decisions(rule, 30, units=3_000) - 1, 30, 0.06) > 0.001


@pytest.mark.soak
@pytest.mark.parametrize("rule", ["sequence", "msprt", "obrien_fleming", "fixed"])
def test_without_an_effect_the_error_is_at_most_the_stated_one_in_many_runs(rule: str) -> None:
    assert binom.sf(false_decisions(rule, 1_000, units=8_000) - 1, 1_000, 0.06) > 0.001


def test_units_are_taken_in_by_the_ramp_and_without_those_of_the_holdout() -> None:
    ramp = {"share": 0.1, "ramp": ((7 * DAY_US, 0.5), (14 * DAY_US, 1.0))}
    plain = planted_runs(bought(), past(1), effect=0.3, runs=3)
    ramped = planted_runs(bought(**ramp), past(1), effect=0.3, runs=3)
    assert ramped.units == pytest.approx(8_000 * (0.1 + 0.5 + 2.0) / 4, rel=0.05)
    dated = {"share": 0.1, "ramp_at": ((START_US + 100 * DAY_US, 0.5), (START_US + 107 * DAY_US, 1.0))}
    now = msgspec.structs.replace(past(1), known_at_us=START_US + 93 * DAY_US)
    assert planted_runs(bought(**dated), now, effect=0.3, runs=3) == ramped  # as if it started now
    held = planted_runs(bought(**ramp), msgspec.structs.replace(past(1), holdout=0.2), effect=0.3, runs=3)
    assert held.units == pytest.approx(0.8 * ramped.units, rel=0.05)
    assert plain.units == 8_000
    _, codes, days = split_days(bought(**ramp), past(1), seed=1, run=0)
    early = past(1).day < 7
    assert (codes[early] >= 0).mean() == pytest.approx(0.1, abs=0.03)
    assert sum(one.units for day in days for one in day.variants.values()) == (codes >= 0).sum()


def test_values_that_are_better_when_lower_do_not_get_below_0() -> None:
    waits = experiment(metric("amount", better="lower"), duration_us=DAYS * DAY_US)
    with pytest.raises(Misuse, match=r"effect=1.5 would make amount 150% lower, so below 0. Give at most 1"):
        planted_runs(waits, past(1, units=100), effect=1.5, runs=1)
    assert planted_runs(waits, past(1, units=100), effect=1.0, runs=1).runs == 1


def test_two_calls_give_the_same_and_another_seed_other_runs() -> None:
    calls = [planted_runs(bought(), past(5), effect=0.2, runs=5, seed=seed) for seed in (1, 1, 2)]
    assert calls[0] == calls[1]
    assert calls[0] != calls[2]


def test_the_effect_is_planted_as_declared() -> None:
    rng = np.random.default_rng(6)
    units = past(6, units=200_000)
    treated = rng.random(200_000) < 0.5
    for better, effect, wanted in (("higher", 0.2, 1.2), ("lower", 0.2, 0.8), ("higher", -0.2, 0.8)):
        one = metric("bought", kind="proportion", better=better)
        y = planted(one, units.values["bought"].y, treated, units.day, effect, rng)
        assert y[treated].mean() / y[~treated].mean() == pytest.approx(wanted, abs=0.04)
        assert set(np.unique(y)) == {0.0, 1.0}
    amount = metric("amount")
    y = planted(amount, units.values["amount"].y, treated, units.day, 0.2, rng)
    assert np.allclose(y[treated], 1.2 * units.values["amount"].y[treated])
    assert np.array_equal(y[~treated], units.values["amount"].y[~treated])
    with pytest.raises(Misuse, match="% would exceed 1"):
        planted(metric("bought", kind="proportion"), units.values["bought"].y, treated, units.day, 20.0, rng)


def test_a_guardrail_is_left_as_it_was_and_must_be_proven() -> None:
    guardrail = metric("amount", role="guardrail", margin=0.01)  # no traffic here proves one percent
    definition = experiment(metric("bought", kind="proportion"), guardrail, duration_us=DAYS * DAY_US)
    found = planted_runs(definition, past(7), effect=0.8, runs=5)
    assert found.acts == {"nothing": 5}
    assert found.right == 0
