"""The comparison of a shadow by days: sums against a brute force, few labels put together, plans that see nothing."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import Bench

from trimtab.core.time import DAY_US
from trimtab.stats.metrics.losses import row_losses
from trimtab.steering.gate.shadow import (
    LEAST_ROWS,
    compared_days,
    hopeless,
    judged,
    level_of,
    pooled_days,
    said_of_shadow,
    visible,
)
from trimtab.steering.gate.window import Window
from trimtab.steering.loop_state import Changes, PairedDay
from trimtab.steering.rollouts import rollout


def days(differences: list[float], *, rows: int = 500, champion: float = 0.5) -> tuple[PairedDay, ...]:
    return tuple(
        PairedDay(day_us=n * DAY_US, rows=rows, difference=one, champion=champion) for n, one in enumerate(differences)
    )


@given(st.integers(0, 1_000), st.integers(1, 200))
def test_days_are_means_of_row_losses(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    at_us = np.sort(rng.integers(0, 5 * DAY_US, rows))
    labels = (rng.random(rows) < 0.4).astype(float)
    one, other = rng.uniform(0.01, 0.99, rows), rng.uniform(0.01, 0.99, rows)
    found = compared_days("log_loss", Window(0, 5 * DAY_US, at_us, labels), one, other)
    expected = {
        int(day): [
            (a, b)
            for at, a, b in zip(
                at_us, row_losses("log_loss", labels, one), row_losses("log_loss", labels, other), strict=True
            )
            if at // DAY_US == day
        ]
        for day in set((at_us // DAY_US).tolist())
    }
    assert [day.day_us // DAY_US for day in found] == sorted(expected)
    for day in found:
        pairs = expected[day.day_us // DAY_US]
        assert day.rows == len(pairs)
        assert day.difference == pytest.approx(sum(a - b for a, b in pairs) / len(pairs), abs=1e-12)
        assert day.champion == pytest.approx(sum(b for _, b in pairs) / len(pairs), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 80), st.floats(-1, 1)), max_size=30))
def test_days_with_few_labels_are_put_together_and_no_row_counts_twice(given_days: list[tuple[int, float]]) -> None:
    some = [
        PairedDay(day_us=n * DAY_US, rows=rows, difference=one, champion=1.0)
        for n, (rows, one) in enumerate(given_days)
    ]
    found = pooled_days(some)
    assert all(one.rows >= LEAST_ROWS for one in found)
    used = sum(one.rows for one in found)
    assert 0 <= sum(one.rows for one in some) - used < LEAST_ROWS  # what is left over waits for the next day
    total = sum(one.rows * one.difference for one in found)
    rest, expected = used, 0.0
    for one in some:
        if rest <= 0:
            break
        expected += one.rows * one.difference
        rest -= one.rows
    assert total == pytest.approx(expected, abs=1e-9)


def test_a_margin_that_cannot_be_seen_in_time_is_said_with_a_table() -> None:
    rng = np.random.default_rng(1)
    few = days((0.05 * rng.normal(size=14)).tolist(), rows=300)
    said = hopeless(rollout(shadow="1d"), few)
    assert said is not None
    assert "With about 300 labels a day" in said
    assert "2.0% higher from an equal one" in said
    assert f"14d: {visible(few, 14):.1%}" in said
    assert hopeless(rollout(shadow="1d", margin=0.4), few) is None
    many = days((0.002 * rng.normal(size=14)).tolist())
    assert hopeless(rollout(shadow="1d"), many) is None


def test_a_successor_that_was_much_better_needs_less() -> None:
    rng = np.random.default_rng(1)
    better = days((-0.2 + 0.02 * rng.normal(size=14)).tolist())
    assert hopeless(rollout(shadow="1d"), better) is None
    assert hopeless(rollout(shadow="1d"), days([day.difference + 0.2 for day in better])) is not None


@pytest.mark.parametrize(
    ("proved", "differences", "verdict"),
    [
        (-0.05, [-0.3, 0.2, -0.2], "promote"),  # a mean of -.1, far from a proof
        (-0.05, [-0.3, 0.2], "hold"),  # too few days
        (-0.05, [-0.3, 0.3, -0.1], "hold"),  # a mean of -.033
        (-0.05, [-0.3, 0.2, -0.2, 0.3], "hold"),
        (None, [-0.3, 0.2, -0.2], "hold"),  # a scheduled refit, of which nothing was proved
        (0.02, [-0.3, 0.2, -0.2], "hold"),  # a margin below 0 was enough
    ],
)
def test_a_shadow_confirms_what_the_gate_proved(proved: float | None, differences: list[float], verdict: str) -> None:
    repair = Bench([True]).repair(100 * DAY_US, lambda: None, Changes())
    checks = {"loads": True} if proved is None else {"loads": True, "provably_better": True}
    gate = msgspec.structs.replace(repair.gate, bound=-0.05 if proved is None else proved, checks=checks)
    repair = msgspec.structs.replace(repair, gate=gate, gate_days=())
    made, compared = rollout(shadow="1d", margin=0.02), days(differences)
    found = judged(made, compared, repair)
    assert found.verdict == verdict
    said = said_of_shadow(found, compared, made.margin, level_of(repair))
    assert ("lower by at least what the gate proved" in said) == (verdict == "promote")
    assert judged(rollout(shadow="5d", margin=0.02), compared, repair).verdict == "hold"


@pytest.mark.soak
def test_how_often_a_confirming_shadow_promotes() -> None:
    """`pytest -m soak -s -k confirming tests/steering/test_shadow.py`: 1,000 shadows of 14 days, 130 labels a day."""
    rng, base = np.random.default_rng(5), Bench([True]).repair(100 * DAY_US, lambda: None, Changes())
    made = rollout(shadow="1d", margin=0.02)

    def promoted(mean: float, spread: float, proved: bool) -> float:
        """The share of shadows that promote: differences are shares of the loss, and the gate proved 5 %."""
        gate = msgspec.structs.replace(base.gate, bound=-0.025, checks={"provably_better": proved})
        found = 0
        for _ in range(1_000):
            before = days((rng.normal(-0.34, spread, 7) * 0.5).tolist(), rows=130)
            repair = msgspec.structs.replace(base, gate=gate, gate_days=before)
            shadow = days((rng.normal(mean, spread, 14) * 0.5).tolist(), rows=130)
            verdicts = (judged(made, shadow[:count], repair).verdict for count in range(1, 15))
            found += next((one for one in verdicts if one != "hold"), "hold") == "promote"
        return found / 1_000

    for spread in (0.31, 0.1):
        for mean in (-0.34, 0.0, 0.08, 0.3):
            print(spread, mean, promoted(mean, spread, True), promoted(mean, spread, False), flush=True)
    assert promoted(-0.34, 0.31, True) > 0.98
    assert promoted(0.3, 0.31, True) < 0.06
    assert promoted(0.08, 0.1, True) < 0.04


def test_fewer_days_and_labels_see_less() -> None:
    rng = np.random.default_rng(2)
    some = days((0.01 * rng.normal(size=14)).tolist())
    assert visible(some, 3) > visible(some, 7) > visible(some, 28)
    assert visible(some[:1], 7) == math.inf
    sparse = days([day.difference for day in some], rows=10)  # three days make one comparison
    assert visible(sparse, 2) == math.inf


def test_days_on_which_another_version_stood_in_tell_no_spread() -> None:
    bench = Bench([True])
    bench.in_service = "v0"
    repair = bench.repair(100 * DAY_US, lambda: None, Changes())
    plan = rollout(shadow="1d")
    first = days([-0.2])
    assert judged(plan, first, repair).verdict == "promote"

    stood_in = msgspec.structs.replace(repair, stood_in=True)
    assert judged(plan, first, stood_in).verdict == "hold"
