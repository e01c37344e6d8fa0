"""Figures of rankings: scores of the items of one query against their relevance. Models here rank nothing so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics

from trimtab.core.errors import Misuse
from trimtab.stats.figures import Better, Figure, figure_of, mean_of
from trimtab.stats.scores import FloatArray


def ranking_figures(
    relevance: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    blocks: ArrayLike | None = None,
    top: int = 10,
    repeats: int = 200,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """NDCG, mean average precision, reciprocal rank of the first hit and recall at `top`, each with an interval.

    A figure is the mean over groups (queries, users, sessions). Groups without any relevant item say nothing about a
    ranking and are left out; ties count for what they are worth on average in NDCG and as listed last elsewhere.

    Args:
        relevance: At least 0 for each item, shape (rows,); above 0 is relevant.
        scores: Shape (rows,); the highest is listed first.
        groups: Which list each item belongs to, shape (rows,).
        blocks: What is drawn again as a whole, one for each row (a group's first counts); left out, the groups.
        top: The length of the list that people see.
        repeats: How many times to draw.
        seed: Seed of the draws.

    Raises:
        Misuse: Shapes that differ, values that are no number, or no group with a relevant item.

    >>> found = ranking_figures([0, 1, 1, 0], [0.9, 0.5, 0.8, 0.1], ["a", "a", "b", "b"])
    >>> [(figure.name, round(figure.value, 3)) for figure in found]
    [('ndcg_at_10', 0.815), ('mean_average_precision', 0.75), ('reciprocal_rank', 0.75), ('recall_at_10', 1.0)]
    """
    gain, p = np.asarray(relevance, np.float64), np.asarray(scores, np.float64)
    ids = np.asarray(groups)
    drawn = ids if blocks is None else np.asarray(blocks)
    if gain.ndim != 1 or not gain.shape == p.shape == ids.shape == drawn.shape or top < 1:
        raise Misuse(
            f"ranking figures: needs one score, group and block for each item and top >= 1; found relevance "
            f"{gain.shape}, scores {p.shape}, groups {ids.shape}, blocks {drawn.shape}, top {top}."
        )
    if not np.isfinite(p).all() or not (np.isfinite(gain) & (gain >= 0.0)).all():
        raise Misuse("ranking figures: a score is no number, or a relevance is none of at least 0.")
    _, first, place = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(place, kind="stable")
    lists = np.split(order, np.cumsum(np.bincount(place, minlength=first.size))[:-1])
    told = [number for number, rows in enumerate(lists) if gain[rows].any()]
    if not told:
        raise Misuse(f"ranking figures: none of {len(lists)} groups has a relevant item. Wait for labels.")
    figures = np.array([_of_list(gain[lists[number]], p[lists[number]], top) for number in told])
    ids_of = drawn[first[told]]
    names: list[tuple[str, Better]] = [
        (f"ndcg_at_{top}", "higher"),
        ("mean_average_precision", "higher"),
        ("reciprocal_rank", "higher"),
        (f"recall_at_{top}", "higher"),
    ]
    return tuple(
        figure_of(name, mean_of(figures[:, number]), ids_of, better=better, repeats=repeats, seed=seed)
        for number, (name, better) in enumerate(names)
    )


def _of_list(gain: FloatArray, p: FloatArray, top: int) -> tuple[float, float, float, float]:
    hit = gain > 0.0
    ndcg = float(metrics.ndcg_score([gain], [p], k=top)) if gain.size > 1 else 1.0
    precision = float(metrics.average_precision_score(hit, p))
    ranks = np.array([int((p >= score).sum()) for score in p[hit]])  # a tie is listed last
    return ndcg, precision, 1.0 / int(ranks.min()), float((ranks <= top).mean())
