"""What the benchmarks of one-row calls share: a fitted model of a runtime, and the medians of two ways to ask it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from trimtab.training.runtimes import runtime_for

INPUTS = 30
UNIT = "us"
BETTER = "lower"


class Calls:
    """One row through a stored model our way, and through the library's own `predict_proba`."""

    def __init__(self, estimator: Any) -> None:
        rng = np.random.default_rng(3)
        x = rng.normal(size=(3_000, INPUTS))
        y = (x[:, :3].sum(axis=1) + rng.normal(size=len(x)) > 0).astype(np.int64)
        runtime = runtime_for(estimator)
        runtime.configure(estimator, seed=0, threads=1)
        runtime.fit(estimator, x, y, tuple(f"x{n}" for n in range(INPUTS)))
        self.scorer = runtime.load(runtime.save(estimator))
        self.library = estimator.predict_proba
        self.rows = x[:200].tolist()
        self.tables = [np.array([row]) for row in self.rows]

    def ours(self) -> float:
        """The median of a row, in microseconds."""
        return _median_us(self.scorer.predict_row, self.rows)

    def floor(self) -> float:
        """The same by the library."""
        return _median_us(self.library, self.tables)


def _median_us(call: Callable[[Any], Any], asked: list[Any]) -> float:
    clock, taken = time.perf_counter_ns, []
    for one in asked:
        begin = clock()
        call(one)
        taken.append(clock() - begin)
    return statistics.median(taken) / 1_000
