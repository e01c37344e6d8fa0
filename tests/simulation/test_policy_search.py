"""A search over policies: what is chosen on the first part, by plain counting, and shown on the second."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.simulation import choose_policy
from trimtab.simulation.results import ReplayResult, ScenarioResult

START_US = parse_time_us("2024-03-04")
DAYS = 60


def trained(days: list[int]) -> list[Decision]:
    return [
        Decision(
            sequence=n, at_us=START_US + day * DAY_US, model="m", act="train", actor="policy", cause="", evidence={},
            version=None, replaced=None, data_hash=None, previous_hash="", hash="",
        )
        for n, day in enumerate(days)
    ]  # fmt: skip


def replay(seed: int, policies: dict[str, tuple[float, list[int]]], days: int = DAYS) -> ReplayResult:
    """Policies by name: how noisy their answers are, and on which days they train."""
    rng = np.random.default_rng(seed)
    count = days * 40
    at_us = START_US + np.sort(rng.integers(0, days * 24, count)) * HOUR_US
    best = rng.uniform(0.05, 0.95, count)
    labels = np.where(rng.random(count) < 0.1, np.nan, (rng.random(count) < best).astype(float))
    lines = {
        name: ScenarioResult(
            name=name,
            at_us=at_us,
            scores=np.clip(best + rng.normal(0, noise, count), 0.02, 0.98),
            labels=labels,
            decisions=trained(on),
            signals=[],
        )
        for name, (noise, on) in policies.items()
    }
    fixed: dict[str, Any] = {"entered": 0, "quarantined": 0, "checked_rows": 0, "checked_values": 0, "mismatches": 0}
    return ReplayResult(start_us=START_US, until_us=START_US + days * DAY_US, lines=lines, first_mismatch="", **fixed)


def naive_loss(line: ScenarioResult, since: int, until: int) -> float:
    told = [
        -math.log(p if y else 1 - p)
        for at, p, y in zip(line.at_us.tolist(), line.scores.tolist(), line.labels.tolist(), strict=True)
        if since <= (at - START_US) // DAY_US < until and not math.isnan(y)
    ]
    return sum(told) / len(told)


@pytest.mark.fast
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1_000), st.lists(st.integers(0, 59), max_size=6), st.lists(st.integers(0, 59), max_size=6))
def test_losses_trainings_and_the_front_are_those_of_plain_counting(
    seed: int, some: list[int], others: list[int]
) -> None:
    result = replay(seed, {"a": (0.1, some), "b": (0.2, others), "c": (0.3, [])})
    found = choose_policy(result)
    assert found.split_us == START_US + 30 * DAY_US
    days = {"a": some, "b": others, "c": []}
    first = {name: (naive_loss(line, 0, 30), sum(d < 30 for d in days[name])) for name, line in result.lines.items()}
    for trial in found.trials:
        assert (trial.first.loss, trial.first.trainings) == (
            pytest.approx(first[trial.policy][0]),
            first[trial.policy][1],
        )
        assert trial.second.loss == pytest.approx(naive_loss(result.lines[trial.policy], 30, 60))
        assert trial.second.trainings == sum(d >= 30 for d in days[trial.policy])
        beaten = [
            other
            for other, (value, count) in first.items()
            if other != trial.policy
            and value <= first[trial.policy][0]
            and count <= first[trial.policy][1]
            and (value, count) != first[trial.policy]
        ]
        assert trial.best == (not beaten)
    assert {trial.policy for trial in found.trials} == set(days)
    assert set(found.gains) == set(days) - {found.chosen}


@pytest.mark.fast
def test_of_policies_that_are_alike_the_one_with_fewest_trainings_is_chosen() -> None:
    result = replay(1, {"often": (0.0, [1, 2, 3, 4]), "seldom": (0.0, [1]), "bad": (0.3, [])})
    found = choose_policy(result)
    assert found.chosen == "seldom"
    assert found.gains["bad"].below(0.0)
    assert [trial.policy for trial in found.trials] == ["bad", "seldom", "often"]
    only = choose_policy(replay(1, {"good": (0.0, [1, 2]), "bad": (0.4, [])}))
    assert only.chosen == "good"
    assert "lowest loss" in only.why


@pytest.mark.fast
def test_too_little_to_choose_on_is_refused() -> None:
    with pytest.raises(Misuse, match="two policies or more, and 14 days in each part"):
        choose_policy(replay(1, {"a": (0.0, [])}))
    with pytest.raises(Misuse, match="14 days in each part"):
        choose_policy(replay(1, {"a": (0.0, []), "b": (0.1, [])}, days=20))
