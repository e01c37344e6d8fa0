"""Choose a class if wrong choices have different costs."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.inference.bootstrap import block_draws, percentiles
from trimtab.stats.interval import Interval
from trimtab.stats.scores import FloatArray, checked_probabilities


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The mean cost per row of one rule for choosing a class."""

    cost: float
    interval: Interval | None  # None if there are fewer than two blocks
    answered: tuple[int, ...]  # for each class, the number of rows for which it is chosen


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of three rules for choosing a class, on the same rows."""

    costs: tuple[tuple[float, ...], ...]  # the cost of each chosen class (second axis) for each true class (first axis)
    rows: int
    likeliest: Choice  # choose the class with the largest probability
    cheapest: Choice  # choose the class with the smallest expected cost, which is best if the probabilities are right
    constant: Choice  # always choose one class: the one that costs least on these rows
    saved: float  # the cost of `likeliest` minus the cost of `cheapest`
    saved_interval: Interval | None


def cheapest_class(chances: ArrayLike, costs: ArrayLike) -> NDArray[np.int64]:
    """Return the index of the class with the smallest expected cost for each row, shape (rows,).

    If several classes have the same cost, the first is taken.

    Args:
        chances: Probabilities, shape (rows, classes).
        costs: The cost of each chosen class (second axis) for each true class (first axis), shape (classes, classes).

    Raises:
        Misuse: The shapes differ, or a cost is negative or infinite.

    >>> cheapest_class([[0.6, 0.3, 0.1], [0.8, 0.15, 0.05]], [[0, 1, 1], [1, 0, 1], [9, 9, 0]]).tolist()
    [2, 0]
    """
    p, prices = np.asarray(chances, np.float64), np.asarray(costs, np.float64)
    if p.ndim != 2 or prices.shape != (p.shape[1], p.shape[1]):
        raise Misuse(
            f"cheapest class: probabilities of shape {p.shape} need costs of (classes, classes), not {prices.shape}."
        )
    if not ((prices >= 0.0) & (prices < np.inf)).all():
        raise Misuse("cheapest class: needs finite costs of at least 0.")
    return np.asarray(np.argmin(p @ prices, axis=1), np.int64)


def compare_choices(
    labels: ArrayLike, chances: ArrayLike, costs: ArrayLike, blocks: ArrayLike, *, repeats: int = 500, seed: int = 0
) -> Choices:
    """Return the cost per row of three rules for choosing a class, with intervals; see `Choices`.

    Args:
        labels: The index of the true class of each row, shape (rows,).
        chances: Probabilities, shape (rows, classes). Each row adds up to 1.
        costs: The cost of each chosen class (second axis) for each true class (first axis), shape (classes, classes).
        blocks: The block of each row, for example its day. A draw of the bootstrap contains whole blocks.

    Raises:
        Misuse: There are no rows, the shapes differ, `chances` are not probabilities, or a cost is negative or
            infinite.

    >>> found = compare_choices([0, 2], [[0.9, 0.1, 0.0], [0.6, 0.2, 0.2]], [[0, 1, 1], [1, 0, 1], [9, 9, 0]], [0, 1])
    >>> found.likeliest.cost, found.cheapest.cost, found.constant.cost
    (4.5, 0.0, 0.5)
    """
    y, p = checked_probabilities(labels, chances, "choices")
    if not y.size or np.asarray(blocks).shape != y.shape:
        raise Misuse(
            f"choices: needs at least one row, and one block for each row; found {np.size(blocks)} blocks for "
            f"{y.size} rows."
        )
    cheapest, prices = cheapest_class(p, costs), np.asarray(costs, np.float64)
    constant = int(np.argmin(prices[y].sum(axis=0)))
    choices = [np.argmax(p, axis=1), cheapest, np.full(y.size, constant)]
    paid = [prices[y, answered] for answered in choices]
    draws = _means([*paid, paid[0] - paid[1]], np.asarray(blocks), repeats, seed)
    found = [
        Choice(
            cost=float(means[0]),
            interval=_interval(means),
            answered=tuple(np.bincount(answered, minlength=p.shape[1]).tolist()),
        )
        for answered, means in zip(choices, draws, strict=False)
    ]
    return Choices(
        costs=tuple(tuple(row) for row in prices.tolist()),
        rows=int(y.size),
        likeliest=found[0],
        cheapest=found[1],
        constant=found[2],
        saved=float(draws[3][0]),
        saved_interval=_interval(draws[3]),
    )


def _means(paid: list[FloatArray], blocks: NDArray[np.generic], repeats: int, seed: int) -> list[FloatArray]:
    """Return the mean of each array in each draw. The first draw is the data; with one block, it is the only one."""
    if np.unique(blocks).size < 2:
        return [np.array([values.mean()]) for values in paid]
    place, counts = block_draws(blocks, repeats, seed)
    rows = counts @ np.bincount(place)
    return [np.asarray((counts @ np.bincount(place, weights=values)) / rows, np.float64) for values in paid]


def _interval(means: FloatArray) -> Interval | None:
    return None if means.size < 2 else percentiles(means, 0.95)
