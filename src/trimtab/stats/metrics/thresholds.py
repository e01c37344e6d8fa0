"""Find the threshold of a probability that costs least, given the costs of both kinds of wrong decisions."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.inference.bootstrap import block_draws, percentiles
from trimtab.stats.interval import Interval
from trimtab.stats.scores import FloatArray, checked

_MOST = 400  # the largest number of thresholds to try
_SHOWN = 50  # the largest number of points of the curve to return


class ThresholdCost(msgspec.Struct, frozen=True, kw_only=True):
    """The cost per row of deciding "yes" at and above a threshold."""

    threshold: float
    cost: float
    interval: Interval | None  # None if there are fewer than two blocks


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Costs by threshold. A score that equals the threshold gives "yes".

    `best` is the threshold with the smallest cost on these rows. Because it was chosen on these rows, its cost on other
    rows is a little higher. `fair` is the threshold that is best for perfectly calibrated scores. It does not depend on
    the rows.
    """

    false_positive: float
    false_negative: float
    rows: int
    best: ThresholdCost
    best_interval: Interval | None  # the interval of the best threshold, not of its cost
    fair: ThresholdCost
    half: ThresholdCost  # the cost with a threshold of 0.5
    never: float  # the cost per row of always deciding "no"
    always: float
    curve: tuple[tuple[float, float], ...]  # pairs of a threshold and its cost


def choose_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    blocks: ArrayLike,
    *,
    false_positive: float,
    false_negative: float,
    repeats: int = 500,
    seed: int = 0,
) -> Thresholds:
    """Compute the expected cost per row for each threshold, and return the best threshold, with intervals.

    Args:
        labels: 0 or 1, shape (rows,).
        scores: Probabilities, shape (rows,).
        blocks: The block of each row, for example its day. A draw of the bootstrap contains whole blocks.
        false_positive: The cost of a wrong "yes", at least 0.
        false_negative: The cost of a wrong "no", at least 0. The two costs are not both 0.
        repeats: The number of draws.
        seed: The seed of the draws.

    Raises:
        Misuse: There are no rows, or not a block for each. Labels or scores are not valid. A cost is negative or
            infinite, or both are 0.

    Source: Elkan (2001). If the scores are calibrated, the best threshold is false_positive divided by the sum of both
    costs.

    >>> found = choose_threshold([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.9], [0, 0, 1, 1], false_positive=1, false_negative=5)
    >>> found.best.threshold, found.best.cost, found.half.cost
    (0.3, 0.25, 1.25)
    """
    costs = (float(false_positive), float(false_negative))
    if not (min(costs) >= 0.0 and 0.0 < sum(costs) < np.inf):
        raise Misuse(f"thresholds: needs two finite costs from 0 on, not both 0; found {costs[0]:g} and {costs[1]:g}.")
    y, p = checked(labels, scores, "thresholds")
    if not y.size:
        raise Misuse("thresholds: needs at least 1 row, found 0. Wait for labels, or widen the window.")
    if np.shape(blocks) != y.shape:
        raise Misuse(f"thresholds: needs a block for each of {y.size} rows, found the shape {np.shape(blocks)}.")
    fair = costs[0] / sum(costs)
    tried = _tried(p)
    grid = np.concatenate([[fair, 0.5], tried])
    ids, place = np.unique(np.asarray(blocks), return_inverse=True)
    by_block = np.stack([_costs(y[place == b], p[place == b], grid, costs) for b in range(ids.size)])
    rows = np.bincount(place).astype(np.float64)
    draws = np.ones((1, ids.size)) if ids.size < 2 else block_draws(blocks, repeats, seed)[1].astype(np.float64)
    found = (draws @ by_block) / (draws @ rows)[:, None]
    best = np.argmin(found[:, 2:], axis=1)
    number = int(best[0])
    kept = np.unique(np.linspace(0, tried.size - 1, _SHOWN).astype(np.int64))
    return Thresholds(
        false_positive=costs[0],
        false_negative=costs[1],
        rows=int(y.size),
        best=_at(tried[number], found[:, 2 + number]),
        best_interval=_interval(tried[best]),
        fair=_at(fair, found[:, 0]),
        half=_at(0.5, found[:, 1]),
        never=float(costs[1] * y.mean()),
        always=float(costs[0] * (1.0 - y.mean())),
        curve=tuple((float(tried[n]), float(found[0, 2 + n])) for n in kept),
    )


def _tried(p: FloatArray) -> FloatArray:
    """Return the thresholds to try: the scores that occur (or some of them if there are many), and one above them."""
    values = np.unique(p)
    if values.size > _MOST:
        values = np.unique(np.quantile(p, np.linspace(0.0, 1.0, _MOST), method="inverted_cdf"))
    return np.append(values, np.nextafter(values[-1], 2.0))


def _costs(y: NDArray[np.bool_], p: FloatArray, grid: FloatArray, costs: tuple[float, float]) -> FloatArray:
    """Return the total cost of these rows for each threshold."""
    ups, downs = np.sort(p[y]), np.sort(p[~y])
    wrong_yes = downs.size - np.searchsorted(downs, grid, side="left")
    wrong_no = np.searchsorted(ups, grid, side="left")
    total: FloatArray = costs[0] * wrong_yes + costs[1] * wrong_no
    return total


def _at(threshold: float, found: FloatArray) -> ThresholdCost:
    return ThresholdCost(threshold=float(threshold), cost=float(found[0]), interval=_interval(found))


def _interval(found: FloatArray) -> Interval | None:
    return None if found.size < 2 else percentiles(found, 0.95)
