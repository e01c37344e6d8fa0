"""The baselines that need no features, against a plain reading of what was known when each row was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from trimtab.core.expressions.nodes import col
from trimtab.core.time import HOUR_US
from trimtab.training import time_split
from trimtab.training.judge.baselines import baseline_scores


def of_the_week_before(training_set: Any, row: int, start: float, prior: float) -> float:
    """The mean label of the row's hour one to four weeks before, of the newest week whose labels were all known."""
    at_us, hours = int(training_set.at_us[row]), training_set.at_us // HOUR_US
    for week in range(1, 5):
        here = training_set.usable & (hours == at_us // HOUR_US - week * 168)
        if here.any() and int(training_set.label_known_at_us[here].max()) <= at_us:
            labels = training_set.target[here]
            return float((labels.sum() + prior * start) / (labels.size + prior))
    return start


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("numbers", [False, True])
def test_the_seasonal_naive_answer_is_what_was_known_of_the_same_hour_in_the_weeks_before(
    make: Callable[..., Any], seed: int, numbers: bool
) -> None:
    kind: dict[str, Any] = {"value": col("delay"), "metric": "squared_error", "estimator": Ridge} if numbers else {}
    world = make(seed=seed, per_day=12, **kind)
    training_set = world.training_set()
    late = np.random.default_rng(seed).random(training_set.rows) < 0.2  # known only after more than a week
    known_us = np.where(late, training_set.at_us + 240 * HOUR_US, training_set.label_known_at_us)
    labels = msgspec.structs.replace(training_set.labels, known_at_us=known_us)
    training_set = msgspec.structs.replace(training_set, labels=labels)
    split = time_split(training_set)
    chosen = np.flatnonzero(training_set.usable & split.holdout)
    found = baseline_scores(world.model, training_set, chosen, split.train, seed=0)
    start = float(training_set.target[training_set.usable & split.train].mean())
    prior = 0.0 if numbers else 1.0
    expected = [of_the_week_before(training_set, int(row), start, prior) for row in chosen]
    assert found["seasonal_naive"] == pytest.approx(np.array(expected))
    assert len({round(one, 9) for one in expected}) >= 3
