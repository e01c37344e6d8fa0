"""The assignment of one unit to a variant, with everything that can decide about it: microseconds.

The experiment has a layer, a global holdout, a condition on an attribute, and a share below 1. The floor is one hash of
the unit's name by `hashlib`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path

from trimtab.core.expressions.nodes import col
from trimtab.experiments.assignment import Assigner, first_buckets
from trimtab.experiments.definitions import Experiment
from trimtab.experiments.records import Allocation, ExperimentState

NAME = "assign"
TARGET = "ours <= 2"
UNIT = "us"
BETTER = "lower"

PASSES = 200
WEIGHTS = {"control": 0.5, "green": 0.5}
ROWS = [{"customer_id": f"customer-{n}", "country": "DE"} for n in range(1_000)]
SALT = blake2b(b"checkout", digest_size=16).digest()


def setup(folder: Path) -> Assigner:
    definition = Experiment(
        name="checkout",
        unit=("customer_id",),
        variants={"control": "blue", "green": "green"},
        layer="shop",
        where=col("country") == "DE",
        attributes={"country": "str"},
    )
    state = ExperimentState(
        name="checkout",
        hash=definition.hash,
        definition=b"",
        generation=1,
        phase="running",
        started_at_us=0,
        allocations=[Allocation(from_us=0, share=0.8, weights=WEIGHTS, buckets=first_buckets(WEIGHTS))],
        slots=(0, 9_000),
    )
    return Assigner(definition, state, holdout=0.02)


def ours(assigner: Assigner) -> float:
    return median_us(assigner.assign)


def floor(assigner: Assigner) -> float:
    return median_us(lambda row: blake2b(row["customer_id"].encode(), digest_size=8, salt=SALT).digest())


def median_us(call: Callable[[Mapping[str, str]], object]) -> float:
    """The median, over several passes, of the time of one call."""
    times = []
    for _ in range(PASSES):
        begin = time.perf_counter_ns()
        for row in ROWS:
            call(row)
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times) / len(ROWS) / 1_000
