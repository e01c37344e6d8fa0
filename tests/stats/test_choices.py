"""Which of several classes to answer: against every answer tried one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.stats import cheapest_class, compare_choices

PRICES = [[0, 1, 1], [1, 0, 1], [9, 9, 0]]


@pytest.mark.fast
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(0, 1_000))
def test_the_cheapest_class_is_that_of_least_expected_cost_of_all_that_could_be_answered(classes: int, seed: int):
    rng = np.random.default_rng(seed)
    chances, prices = rng.dirichlet(np.ones(classes), 12), rng.integers(0, 9, (classes, classes)).astype(float)
    for row, answered in zip(chances, cheapest_class(chances, prices).tolist(), strict=True):
        expected = [sum(row[truth] * prices[truth, answer] for truth in range(classes)) for answer in range(classes)]
        assert expected[answered] == pytest.approx(min(expected))
    errors = np.ones((classes, classes)) - np.eye(classes)
    assert cheapest_class(chances, errors).tolist() == chances.argmax(axis=1).tolist()


@pytest.mark.fast
def test_right_chances_save_by_answering_the_cheapest_class_and_no_constant_is_cheaper():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([3.0, 2.0, 1.0], 6_000)
    labels = (rng.random(6_000)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    found = compare_choices(labels, chances, PRICES, np.arange(6_000) // 100)
    paid = np.array(PRICES)[labels, chances.argmax(axis=1)].mean()
    assert found.likeliest.cost == pytest.approx(paid)
    assert found.cheapest.cost < min(found.likeliest.cost, found.constant.cost)
    assert found.saved == pytest.approx(found.likeliest.cost - found.cheapest.cost)
    assert found.saved_interval is not None
    assert 0.0 < found.saved_interval.low < found.saved < found.saved_interval.high
    assert found.cheapest.answered[2] > found.likeliest.answered[2]
    assert sum(found.cheapest.answered) == max(found.constant.answered) == found.rows == 6_000


@pytest.mark.fast
def test_what_cannot_be_compared_is_named():
    with pytest.raises(Misuse, match=r"needs at least one row, and one block for each row; found 0 blocks for 0"):
        compare_choices([], np.empty((0, 3)), PRICES, [])
    with pytest.raises(Misuse, match=r"need costs of \(classes, classes\), not \(3, 3\)"):
        cheapest_class([[0.5, 0.5]], PRICES)
    with pytest.raises(Misuse, match="costs of at least 0"):
        cheapest_class([[0.5, 0.5]], [[0, -1], [1, 0]])
    alone = compare_choices([0], [[0.6, 0.3, 0.1]], PRICES, [0])
    assert (alone.likeliest.interval, alone.saved_interval) == (None, None)
