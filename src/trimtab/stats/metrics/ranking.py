"""Metrics of rankings: they compare the scores of a list's items with the relevance of the items."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.metrics.lists import checked_lists, is_informative, list_ndcg, ordered
from trimtab.stats.metrics.loss_names import ndcg_loss
from trimtab.stats.metrics.metric_value import Better, MetricValue, mean_of, metric_value
from trimtab.stats.scores import FloatArray


def ranking_metrics(
    relevance: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    blocks: ArrayLike | None = None,
    top: int = 10,
    repeats: int = 200,
    seed: int = 0,
) -> tuple[MetricValue, ...]:
    """Return NDCG at `top` and its loss, mean average precision, reciprocal rank, and recall at `top`, with intervals.

    Each metric is the mean over groups (queries, users or sessions). The reciprocal rank is that of the first relevant
    item. Groups whose items are all equally relevant are left out, because they say nothing about a ranking. Among
    items with equal scores, NDCG is averaged over all orders; for the other metrics, relevant items come last.

    Args:
        relevance: The relevance of each item, at least 0, shape (rows,). Items above 0 are called relevant.
        scores: The scores, shape (rows,). The item with the highest score comes first.
        groups: The group of each item, shape (rows,).
        blocks: The block of each row. A draw of the bootstrap contains whole blocks. A group belongs to the block of
            its first row. None: each group is a block.
        top: The length of the list that people see.
        repeats: Number of draws.
        seed: The seed of the draws.

    Raises:
        Misuse: The shapes differ, values are not numbers, or no group has items of different relevance.

    >>> found = ranking_metrics([0, 1, 1, 0], [0.9, 0.5, 0.8, 0.1], ["a", "a", "b", "b"])
    >>> [(one.name, round(one.value, 3)) for one in found]  # doctest: +NORMALIZE_WHITESPACE
    [('ndcg_loss(10)', 0.185), ('ndcg_at_10', 0.815), ('mean_average_precision', 0.75), ('reciprocal_rank', 0.75),
     ('recall_at_10', 1.0)]
    """
    gain, p, place = checked_lists(relevance, scores, groups, top)
    drawn = place if blocks is None else np.asarray(blocks)
    if drawn.shape != place.shape:
        raise Misuse(
            f"ranking metrics: needs one block for each item; found blocks {drawn.shape} for items {place.shape}."
        )
    first = np.unique(place, return_index=True)[1]
    informative = is_informative(gain, place)
    if not informative.any():
        raise Misuse(
            f"ranking metrics: in each of {informative.size} groups all items have the same label, so no order is "
            "better. Wait for labels, or check that labels differ within a group."
        )
    ndcg = list_ndcg(gain, p, place, top=top)
    named: list[tuple[str, Better, FloatArray]] = [
        (ndcg_loss(top), "lower", np.clip(1.0 - ndcg, 0.0, 1.0)),
        (f"ndcg_at_{top}", "higher", ndcg),
        *((name, "higher", values) for name, values in _of_hits(gain, p, place, top).items()),
    ]
    ids = drawn[first][informative]
    return tuple(
        metric_value(name, mean_of(values[informative]), ids, better=better, repeats=repeats, seed=seed)
        for name, better, values in named
    )


def _of_hits(gain: FloatArray, p: FloatArray, place: NDArray[np.int64], top: int) -> dict[str, FloatArray]:
    """Return average precision, reciprocal rank and recall of each list.

    For a list without relevant items, the reciprocal rank is 0, and average precision and recall are NaN.
    """
    count = int(place.max()) + 1
    found = ordered(p, place)
    hit = gain[found.rows] > 0.0
    begins = np.flatnonzero(found.rank == 0)
    hits = np.cumsum(hit)
    before: NDArray[np.int64] = (hits - hit)[begins]  # the number of relevant items in all earlier lists
    last = np.cumsum(np.bincount(found.tie)) - 1  # the last position of each set of rows with equal scores
    ends = last[found.tie]
    ranks = found.rank[ends] + 1
    precision = (hits[ends] - before[found.place]) / ranks
    relevant = np.bincount(found.place, weights=hit, minlength=count)
    some = np.where(relevant > 0.0, relevant, np.nan)
    nearest = np.full(count, np.inf)
    np.minimum.at(nearest, found.place[hit], ranks[hit].astype(np.float64))
    return {
        "mean_average_precision": np.bincount(found.place, weights=precision * hit, minlength=count) / some,
        "reciprocal_rank": 1.0 / nearest,
        f"recall_at_{top}": np.bincount(found.place, weights=(ranks <= top) & hit, minlength=count) / some,
    }
