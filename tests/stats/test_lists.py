"""Losses of ranked lists against plain Python that tries every order of equal scores."""

from __future__ import annotations

from itertools import pairwise, permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from trimtab.core.errors import Misuse
from trimtab.stats import list_ndcg, loss_kind, ndcg_loss, ranking_metrics, row_losses, top_of, unit_losses

ITEMS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=14)


def naive_ndcg(relevance: list[float], scores: list[float], top: int) -> float | None:
    """The mean over all orders that the scores allow; None where no order is better than another."""
    if len(set(relevance)) < 2:
        return None

    def gain(order: list[float]) -> float:
        return sum(value / log2(place + 2) for place, value in enumerate(order[:top]))

    allowed = [
        [relevance[n] for n in order]
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    return sum(map(gain, allowed)) / len(allowed) / gain(sorted(relevance, reverse=True))


@settings(max_examples=80, deadline=None)
@given(ITEMS, st.integers(1, 5))
def test_ndcg_is_the_mean_over_every_order_that_the_scores_allow(rows: list[tuple[int, int, int]], top: int):
    rows = [row for name in range(4) for row in [r for r in rows if r[0] == name][:5]]
    lists, relevance, scores = (np.array(column, float) for column in zip(*rows, strict=True))
    found = list_ndcg(relevance, scores, lists, top=top)
    wanted = []
    for name in np.unique(lists):
        here = lists == name
        wanted.append(naive_ndcg(relevance[here].tolist(), scores[here].tolist(), top))
    assert [None if np.isnan(value) else pytest.approx(value) for value in found.tolist()] == wanted
    losses, units = unit_losses(ndcg_loss(top), relevance, scores, lists)
    told = [(1 - value, name) for value, name in zip(wanted, np.unique(lists), strict=True) if value is not None]
    assert losses.tolist() == pytest.approx([loss for loss, _ in told])
    assert lists[units].tolist() == [name for _, name in told]


@settings(max_examples=40, deadline=None)
@given(ITEMS)
def test_precision_over_lists_is_that_of_scikit_learn(rows: list[tuple[int, int, int]]):
    lists, relevance, scores = (np.array(column, float) for column in zip(*rows, strict=True))
    told = [lists == name for name in np.unique(lists) if np.ptp(relevance[lists == name]) > 0]
    if not told:
        return
    found = {one.name: one.value for one in ranking_metrics(relevance, scores, lists, repeats=5)}
    wanted = [metrics.average_precision_score(relevance[here] > 0, scores[here]) for here in told]
    ndcg = [metrics.ndcg_score([relevance[here]], [scores[here]], k=10) for here in told]
    assert found["mean_average_precision"] == pytest.approx(np.mean(wanted))
    assert found["ndcg_at_10"] == pytest.approx(np.mean(ndcg))
    assert found["ndcg_loss(10)"] == pytest.approx(1 - np.mean(ndcg))


@pytest.mark.fast
def test_the_order_of_the_rows_changes_no_list_to_the_bit():
    chance = np.random.default_rng(0)
    lists, relevance = chance.integers(0, 40, 400), chance.integers(0, 4, 400).astype(float)
    scores = chance.normal(size=400)
    shuffled = chance.permutation(400)
    one = list_ndcg(relevance, scores, lists, top=10)
    other = list_ndcg(relevance[shuffled], scores[shuffled], lists[shuffled], top=10)
    assert one.tolist() == other.tolist()


@pytest.mark.fast
def test_names_of_losses_of_lists_are_read_back_and_others_refused():
    assert (ndcg_loss(), top_of("ndcg_loss(3)"), loss_kind("ndcg_loss(3)")) == ("ndcg_loss(10)", 3, "ranking")
    for name in ("ndcg_loss(0)", "ndcg_loss(03)", "ndcg_loss(x)", "ndcg_loss(2", "ndcg_loss(²)", "ndcg"):
        assert top_of(name) is None
        with pytest.raises(Misuse, match="must be one of"):
            loss_kind(name)
    for unfit in (0, -1, 2.0, True, "5"):
        with pytest.raises(Misuse, match="at least 1"):
            ndcg_loss(unfit)  # type: ignore[arg-type]  # what people give
    with pytest.raises(Misuse, match="a single row of a list has no loss"):
        row_losses("ndcg_loss(5)", [1.0], [1.0])
    with pytest.raises(Misuse, match="the list that each row belongs to"):
        unit_losses("ndcg_loss(5)", [1.0], [1.0])
    with pytest.raises(Misuse, match="at least 0"):
        unit_losses("ndcg_loss(5)", [-1.0], [1.0], [0])
    assert unit_losses("ndcg_loss(5)", [], [], [])[0].size == 0
