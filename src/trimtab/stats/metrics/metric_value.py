"""One metric of a set of rows, with its bootstrap interval."""

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
Weighted = Callable[[FloatArray], float | None]  # a statistic of rows, which takes a weight for each row


class MetricValue(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of a set of rows."""

    name: str
    value: float | None  # None: undefined on these rows (one class only, labels without spread)
    interval: Interval | None  # None if there are fewer than two blocks, or if the metric is undefined in most draws
    better: Better
    goal: float | None = None  # the best value, for "near"


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
    """A metric with its interval, from a statistic that takes a weight for each row; see `resampled`."""
    interval = resampled(statistic, blocks, repeats=repeats, seed=seed)
    value = statistic(np.ones(len(blocks))) if interval is None else interval.estimate
    return MetricValue(
        name=name, value=None if value is None else float(value), interval=interval, better=better, goal=goal
    )


def mean_of(values: FloatArray) -> Weighted:
    """A statistic: the weighted mean of one value per row."""
    return lambda weights: float(np.average(values, weights=weights))
