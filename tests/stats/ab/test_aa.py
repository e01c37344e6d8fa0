"""How often each rule finds an effect where there is none, and where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import table
from campaign import FEW, WORLDS, World, bernoulli, campaign, few_days
from scipy.stats import binom

from trimtab.stats.ab.fixed import compare
from trimtab.stats.ab.sequential import compare_any_time, obrien_fleming

AT_ANY_TIME = ("sequence", "msprt")
ONCE = ("fixed", "o'brien-fleming, 5 looks", "o'brien-fleming, 50 looks")


def promised(world: World) -> dict[str, float]:
    """The stated error rate of each rule that is valid in a world."""
    rates = {}
    for rule in (*AT_ANY_TIME, *ONCE):
        most = 0.05 if rule in AT_ANY_TIME and world.name.startswith("independent units") else 0.06
        if world.stated:
            rates[f"{rule}, days"] = most
            if not world.days_needed:
                rates[rule] = most
    return rates


@pytest.mark.slow
@pytest.mark.parametrize("world", [world for world in WORLDS if world.stated], ids=lambda world: world.name)
def test_no_effect_is_found_as_rarely_as_stated(world: World) -> None:
    runs = 50
    found = campaign(world, runs, seed=1)
    for rule, most in promised(world).items():
        hits = sum(look is not None for look in found[rule])
        # a rule that is exactly at its rate fails this once in 10,000 times
        assert hits <= binom.ppf(0.9999, runs, most), rule
    assert sum(look is not None for look in found["naive z-test at every look"]) > 0.2 * runs


def test_a_true_effect_is_found_as_often_as_stated() -> None:
    runs = 50
    found = campaign(WORLDS[0], runs, lift=0.1, seed=1)
    hits = {rule: sum(look is not None for look in looks) for rule, looks in found.items()}
    assert hits["o'brien-fleming, 5 looks"] >= binom.ppf(0.001, runs, 0.6)
    assert hits["o'brien-fleming, 5 looks"] > hits["sequence"] > 0.2 * runs


@pytest.mark.slow
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_one_sided_rule_finds_no_effect_as_rarely_as_stated(better: str) -> None:
    rng = np.random.default_rng(2)
    hits: dict[str, int] = {}
    runs = 100
    for _ in range(runs):
        pair = bernoulli(rng)
        for days in (True, False):
            options = {"days": days, "two_sided": False, "better": better}
            found = {rule: compare_any_time(*pair, rule=rule, **options) for rule in AT_ANY_TIME}
            found["fixed"] = [compare(*pair, **options)]
            found["o'brien-fleming"] = obrien_fleming(*pair, looks=5, planned_blocks=50, **options)
            for rule, effects in found.items():
                decided = any(not one.low <= 0.0 <= one.high for one in effects)
                hits[f"{rule} {days}"] = hits.get(f"{rule} {days}", 0) + decided
    assert max(hits.values()) <= binom.ppf(0.9999, runs, 0.05)
    assert max(hits.values()) > 0


@pytest.mark.soak
def test_the_table_of_designs(soak_report) -> None:
    """`pytest -m soak -s tests/stats/ab/test_aa.py`: 2,000 experiments of each kind without an effect, 1,000 with one.

    The effect is +10 % of a base of 10 %, with 10,000 units of each variant. Writes docs/experiment-statistics.md.
    """
    runs = (2_000, 1_000)
    nothing, something = (shares(WORLDS, count, lift) for count, lift in zip(runs, (0.0, 0.1), strict=True))
    nothing |= shares(WORLDS[:2], table.MORE, 0.0, seed=1, any_time=False)  # so that 1 % is four standard errors
    plain, differ = (few_days(world, runs[0]) for world in (WORLDS[0], WORLDS[-1]))
    for days in FEW:
        nothing |= {f"{days} days: independent": plain[days][0], f"{days} days: differ": differ[days][0]}
        nothing[f"{days} days: width"] = plain[days][1]
    table.PAGE.write_text(table.page(nothing, something, runs), "utf-8")
    wrong = [
        (world.name, rule, nothing[f"{world.name}: {rule}"])
        for world in WORLDS
        for rule, most in promised(world).items()
        if nothing[f"{world.name}: {rule}"] > most
    ]
    planned = [f"{world.name}: {rule}" for world in WORLDS[:2] for rule in ONCE[1:]]
    wrong += [(name, nothing[name]) for name in planned if not 0.04 <= nothing[name] <= 0.06]
    base = f"{WORLDS[0].name}: o'brien-fleming, 5 looks"
    weak = [(name, something[name]) for name in (base, f"{base}, days") if something[name] < 0.55]
    soak_report("aa_tests", runs=runs[0] * len(WORLDS), failures=len(wrong), **nothing)
    soak_report("power", runs=runs[1] * len(WORLDS), failures=len(weak), **something)
    assert (wrong, weak) == ([], [])


def shares(
    worlds: Sequence[World], runs: int, lift: float, *, seed: int = 0, any_time: bool = True
) -> dict[str, float]:
    """The share of experiments in which each rule finds an effect, by world and rule."""
    found: dict[str, float] = {}
    for world in worlds:
        looks = campaign(world, runs, lift=lift, seed=seed, any_time=any_time)
        of = {f"{world.name}: {rule}": sum(one is not None for one in each) / runs for rule, each in looks.items()}
        print(of, flush=True)
        found |= of
    return found
