"""Losses of rankings: rows that are shown together in a list are judged by the order of their scores."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.metrics.loss_names import Loss, top_of
from trimtab.stats.metrics.losses import row_losses
from trimtab.stats.scores import FloatArray

Ints = NDArray[np.int64]


class Ordered(msgspec.Struct, frozen=True, eq=False):
    """The rows of all lists, one list after another, each sorted from the highest score to the lowest."""

    rows: Ints  # the index of each row, in this order
    place: Ints  # the index of each row's list, in this order
    rank: Ints  # the position of each row in its list; 0 is the first
    tie: Ints  # for each row, the index of its tie (a tie: all rows of one list with the same score)


def unit_losses(
    metric: Loss, labels: ArrayLike, scores: ArrayLike, lists: ArrayLike | None = None
) -> tuple[FloatArray, Ints]:
    """Return the loss of each unit, and the index of one row of each unit. A unit is a row, or for rankings a list.

    A list in which all rows have the same relevance (for example a single row) is not a unit, because all of its orders
    are equally good.

    Args:
        metric: A metric of `row_losses`, or `ndcg_loss(k)`.
        labels: Labels as in `row_losses`, shape (rows,). For rankings they are the relevance, at least 0.
        scores: The scores, shape (rows,). For several classes the shape is (rows, classes).
        lists: For rankings: the list of each row, shape (rows,).

    Raises:
        Misuse: The shapes differ, values are outside their range, or a ranking has no lists.

    >>> relevance, scores = [1.0, 0.0, 0.0, 2.0, 1.0], [0.9, 0.2, 0.1, 3.0, 5.0]
    >>> losses, rows = unit_losses("ndcg_loss(1)", relevance, scores, [7, 7, 8, 9, 9])
    >>> losses.tolist(), rows.tolist()
    ([0.0, 0.5], [0, 3])
    """
    top = top_of(metric)
    if top is None:
        found = row_losses(metric, labels, scores)
        return found, np.arange(found.size)
    if lists is None:
        raise Misuse(f"{metric}: needs the list that each row belongs to.")
    values = list_ndcg(labels, scores, lists, top=top)
    informative = ~np.isnan(values)
    first = np.unique(np.asarray(lists), return_index=True)[1]
    return np.clip(1.0 - values[informative], 0.0, 1.0), first[informative]


def list_ndcg(relevance: ArrayLike, scores: ArrayLike, lists: ArrayLike, *, top: int) -> FloatArray:
    """Return the NDCG (normalised discounted cumulative gain) of each list. It is NaN if all rows are equally relevant.

    Lists are in the order of their ids. The gain of a row is its relevance. Position n (beginning with 1) has the
    weight 1 / log2(n + 1), and positions after `top` have no weight. Rows with equal scores share the weights of their
    positions, so the result is the mean over all orders of these rows.

    Args:
        relevance: The relevance of each row, at least 0, shape (rows,).
        scores: The scores, shape (rows,). The row with the highest score comes first.
        lists: The list of each row, shape (rows,).
        top: The number of positions that count.

    Raises:
        Misuse: The shapes differ, or a value is negative or not a number.

    Source: Järvelin & Kekäläinen (2002); ties: McSherry & Najork (2008).

    >>> list_ndcg([3.0, 0.0, 1.0, 1.0], [0.2, 0.9, 0.1, 0.1], ["a", "a", "b", "b"], top=10).round(3).tolist()
    [0.631, nan]
    """
    gain, p, place = checked_lists(relevance, scores, lists, top)
    count = int(place.max(initial=-1)) + 1
    found = ordered(p, place)
    discounts = np.where(found.rank < top, 1.0 / np.log2(found.rank + 2.0), 0.0)
    shared = np.bincount(found.tie, weights=discounts) / np.maximum(np.bincount(found.tie), 1)
    reached = np.bincount(found.place, weights=gain[found.rows] * shared[found.tie], minlength=count)
    best = ordered(gain, place)
    ideal = np.bincount(best.place, weights=gain[best.rows] * discounts, minlength=count)
    informative = is_informative(gain, place)
    return np.where(informative, reached / np.where(informative, ideal, 1.0), np.nan)


def list_places(scores: FloatArray, lists: Ints) -> FloatArray:
    """Return the position of each row in its list, from 0 (first) to 1 (last). Equal scores share their mean position.

    >>> list_places(np.array([0.5, 2.0, 0.5, 7.0]), np.array([0, 0, 0, 1])).tolist()
    [0.75, 0.0, 0.75, 0.0]
    """
    place = np.unique(lists, return_inverse=True)[1].reshape(-1)
    found = ordered(scores, place)
    ranks = np.bincount(found.tie, weights=found.rank) / np.maximum(np.bincount(found.tie), 1)
    last = np.maximum(np.bincount(place) - 1, 1)
    places = np.empty(scores.size)
    places[found.rows] = ranks[found.tie] / last[found.place]
    return places


def is_informative(relevance: FloatArray, place: Ints) -> NDArray[np.bool_]:
    """Return for each list whether its rows differ in relevance, so that some orders are better than others.

    Args:
        relevance: The relevance of each row, shape (rows,).
        place: The index of each row's list, shape (rows,). Every index from 0 to the largest occurs.
    """
    count = int(place.max(initial=-1)) + 1
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, place, relevance)
    np.maximum.at(high, place, relevance)
    found: NDArray[np.bool_] = low < high
    return found


def ordered(scores: FloatArray, place: Ints) -> Ordered:
    """Sort the rows of each list by score, highest first. Rows with equal scores keep their order."""
    rows = np.lexsort((-scores, place))
    lists = place[rows]
    begins = np.ones(rows.size, bool)
    begins[1:] = lists[1:] != lists[:-1]
    starts = np.flatnonzero(begins)
    rank = np.arange(rows.size) - starts[np.cumsum(begins) - 1] if rows.size else np.zeros(0, np.int64)
    other = begins.copy()
    other[1:] |= scores[rows][1:] != scores[rows][:-1]
    return Ordered(rows, lists, rank, np.cumsum(other) - 1)


def checked_lists(
    relevance: ArrayLike, scores: ArrayLike, lists: ArrayLike, top: int
) -> tuple[FloatArray, FloatArray, Ints]:
    """Check relevance, scores and lists. Return them as arrays, with lists as indices from 0.

    Raises:
        Misuse: As in `list_ndcg`.
    """
    gain, p, ids = np.asarray(relevance, np.float64), np.asarray(scores, np.float64), np.asarray(lists)
    if gain.ndim != 1 or not gain.shape == p.shape == ids.shape or top < 1:
        raise Misuse(
            f"ranking metrics: needs one score and list for each item and top >= 1; found relevance {gain.shape}, "
            f"scores {p.shape}, lists {ids.shape}, top {top}."
        )
    if not np.isfinite(p).all() or not (np.isfinite(gain) & (gain >= 0.0)).all():
        raise Misuse("ranking metrics: a score is not a number, or a relevance is not a number of at least 0.")
    place: NDArray[Any] = np.unique(ids, return_inverse=True)[1]
    return gain, p, place.reshape(-1).astype(np.int64)
