import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.stats import choose_threshold


def cost_of(labels, scores, threshold, false_positive, false_negative) -> float:
    called = scores >= threshold
    return float((false_positive * (called & ~labels) + false_negative * (~called & labels)).mean())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=40),
    st.sampled_from([(1.0, 1.0), (1.0, 5.0), (3.0, 0.0), (0.0, 2.0)]),
)
def test_no_threshold_costs_less_than_the_best(rows: list[tuple[bool, int]], costs: tuple[float, float]):
    labels, scores = np.array([y for y, _ in rows]), np.array([p / 10 for _, p in rows])
    blocks = np.arange(len(rows)) % 3
    found = choose_threshold(labels, scores, blocks, false_positive=costs[0], false_negative=costs[1], repeats=20)
    tried = [*np.linspace(-0.05, 1.05, 23)]
    assert found.best.cost == pytest.approx(min(cost_of(labels, scores, t, *costs) for t in tried))
    for at in (found.best, found.fair, found.half):
        assert at.cost == pytest.approx(cost_of(labels, scores, at.threshold, *costs))
    assert found.never == pytest.approx(cost_of(labels, scores, 2.0, *costs))
    assert found.always == pytest.approx(cost_of(labels, scores, -1.0, *costs))


def test_calibrated_scores_are_best_cut_at_the_share_of_the_costs():
    rng = np.random.default_rng(0)
    scores = rng.random(40_000)
    labels = rng.random(40_000) < scores
    found = choose_threshold(labels, scores, np.arange(40_000) // 1000, false_positive=1, false_negative=4)
    assert found.fair.threshold == 0.2
    assert found.best_interval is not None
    assert found.best_interval.low - 0.02 < 0.2 < found.best_interval.high + 0.02
    assert found.best.cost <= found.fair.cost + 1e-12 < found.half.cost
    assert found.half.interval is not None
    assert found.best.interval is not None
    assert found.best.interval.above(0.0)
    assert found.half.interval.low > found.best.interval.high


@pytest.mark.fast
def test_one_class_one_block_and_constant_scores_have_a_threshold_too():
    found = choose_threshold([1, 1], [0.3, 0.3], [0, 0], false_positive=1, false_negative=1)
    assert (found.best.threshold, found.best.cost, found.best.interval, found.best_interval) == (0.3, 0.0, None, None)
    found = choose_threshold([0, 0], [1.0, 1.0], [0, 1], false_positive=1, false_negative=1)
    assert found.best.threshold > 1.0
    assert (found.best.cost, found.always, found.never) == (0.0, 1.0, 0.0)


@pytest.mark.fast
@pytest.mark.parametrize("costs", [(-1, 1), (0, 0), (float("inf"), 1), (float("nan"), 1)])
def test_costs_that_cannot_be_weighed_are_refused(costs: tuple[float, float]):
    with pytest.raises(Misuse, match="two finite costs from 0 on"):
        choose_threshold([0, 1], [0.1, 0.9], [0, 1], false_positive=costs[0], false_negative=costs[1])


@pytest.mark.fast
def test_no_rows_are_refused():
    with pytest.raises(Misuse, match="found 0"):
        choose_threshold([], [], [], false_positive=1, false_negative=1)


@pytest.mark.fast
@pytest.mark.parametrize("blocks", [[0], [0, 1, 2], [[0, 1]]])
def test_blocks_that_do_not_belong_to_the_rows_are_refused(blocks: list[object]):
    with pytest.raises(Misuse, match="a block for each of 2 rows"):
        choose_threshold([0, 1], [0.1, 0.9], blocks, false_positive=1, false_negative=1)
