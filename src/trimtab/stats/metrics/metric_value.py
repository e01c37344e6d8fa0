"""The value of a metric on a set of rows, with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.stats.inference.bootstrap import resampled
from trimtab.stats.interval import Interval
from trimtab.stats.scores import FloatArray

Better = Literal["lower", "higher", "near"]
Weighted = Callable[[FloatArray], float | None]  # a statistic of rows, as a function of a weight for each row


class MetricValue(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a metric on a set of rows, with its interval."""

    name: str
    value: float | None  # None: undefined on these rows (only one class, or all labels equal)
    interval: Interval | None  # None: there are fewer than two blocks, or the metric is undefined in most draws
    better: Better
    goal: float | None = None  # for a metric whose `better` is "near": the best value


def metric_value(
    name: str,
    statistic: Weighted,
    blocks: NDArray[np.generic],
    *,
    better: Better,
    goal: float | None = None,
    repeats: int = 200,
    seed: int = 0,
) -> MetricValue:
    """Return a metric with its interval. `statistic` takes a weight for each row, as in `resampled`."""
    interval = resampled(statistic, blocks, repeats=repeats, seed=seed)
    value = statistic(np.ones(len(blocks))) if interval is None else interval.estimate
    return MetricValue(
        name=name, value=None if value is None else float(value), interval=interval, better=better, goal=goal
    )


def mean_of(values: FloatArray) -> Weighted:
    """Return the statistic that computes the weighted mean of `values`, which has one value per row."""
    return lambda weights: float(np.average(values, weights=weights))
