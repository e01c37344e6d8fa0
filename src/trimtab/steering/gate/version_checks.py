"""Checks of a stored candidate alone: that it can be loaded, here and in a new process, and that it is fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt
from trimtab.core.records import GateCheck
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.steering.gate.findings import finding
from trimtab.training.fitting.artifact import Artifact, golden_difference

LOADS, FRESH_PROCESS, LATENCY = "loads", "fresh_process", "latency"
_SAMPLE = 200  # in a round, this many rows are predicted one by one
_ROUNDS = 5
_ROUND_NS = 1_000_000_000  # a round with a slow model ends after this time, but not before `_LEAST_CALLS` calls
_LEAST_CALLS = 20
_VIRTUAL = "Not measured: a replay starts no process for this, and its virtual time cannot measure durations."


class Proving(msgspec.Struct, frozen=True):
    """What tests of candidates need: new processes and a stopwatch. Replays run in virtual time, and have neither."""

    fresh: Callable[[Version], str | None]  # returns why a new process cannot load a version, or None if it can
    stopwatch_ns: Callable[[], int]  # returns the time of a monotonic clock


def loads(registry: Registry, version: Version) -> tuple[LoadedModel | None, GateCheck]:
    """Load a stored version, and check that it repeats its golden predictions (stored scores of stored rows)."""
    try:
        loaded = registry.load(version)
    except Corrupt as error:
        return None, finding(LOADS, False, str(error))
    difference = golden_difference(loaded.artifact, loaded.scorer)
    bound = 0.0 if loaded.artifact.row_exact else loaded.artifact.row_tolerance
    reason = f"The version was read back and reproduced its {golden_rows(loaded.artifact)} golden predictions."
    return loaded, finding(LOADS, True, reason, value=difference, bound=bound)


def loads_in_fresh_process(proving: Proving | None, version: Version) -> GateCheck:
    """Check that a new process can load the version, and that the version repeats its golden predictions there."""
    if proving is None:
        return finding(FRESH_PROCESS, "not measured", _VIRTUAL)
    why = proving.fresh(version)
    loaded = "A new process loaded the version from the registry and reproduced its golden predictions."
    return finding(FRESH_PROCESS, why is None, why or loaded)


def fast_enough(proving: Proving | None, loaded: LoadedModel | None, sample: Columns, limit_us: int) -> GateCheck:
    """Check that the 99th percentile of the time of one-row predictions is at most `limit_us`.

    Rows of `sample` are encoded and predicted one by one. The best of several rounds counts, because other load on
    the machine can make a round slower, but not faster.
    """
    if proving is None or loaded is None:
        why = _VIRTUAL if proving is None else "The version could not be loaded."
        return finding(LATENCY, "not measured", why, bound=limit_us / 1e3)
    p50_ms, p99_ms, calls = one_row_ms(loaded, sample, proving.stopwatch_ns)
    reason = (
        f"One-row predictions took p99 {p99_ms:.3g} ms, p50 {p50_ms:.3g} ms (best of {_ROUNDS} rounds of {calls}); "
    )
    reason += f"a p99 of {limit_us / 1e3:g} ms is allowed."
    return finding(LATENCY, p99_ms <= limit_us / 1e3, reason, value=p99_ms, bound=limit_us / 1e3)


def one_row_ms(loaded: LoadedModel, sample: Columns, stopwatch_ns: Callable[[], int]) -> tuple[float, float, int]:
    """Return two percentiles of the time of a one-row prediction (50, 99) in ms, and the most calls in a round.

    Each percentile is computed for every round, and the smallest value is returned.
    """
    chosen = np.unique(np.linspace(0, sample.rows - 1, _SAMPLE).astype(np.int64))
    columns = sample.take(chosen).select(loaded.inputs)
    rows = list(zip(*(column.to_list() for column in columns.by_name.values()), strict=True))
    rows *= math.ceil(_SAMPLE / len(rows))
    rounds = [_round_ns(loaded, rows, stopwatch_ns) for _ in range(_ROUNDS)]
    p50, p99 = (min(float(np.quantile(one, q, method="higher")) for one in rounds) for q in (0.5, 0.99))
    return p50 / 1e6, p99 / 1e6, max(len(one) for one in rounds)


def _round_ns(loaded: LoadedModel, rows: Sequence[Sequence[object]], stopwatch_ns: Callable[[], int]) -> list[int]:
    taken: list[int] = []
    began = stopwatch_ns()
    for row in rows:
        before = stopwatch_ns()
        loaded.predict_row(loaded.encoding.row(row))
        after = stopwatch_ns()
        taken.append(after - before)
        if after - began > _ROUND_NS and len(taken) >= _LEAST_CALLS:
            break
    return taken


def golden_rows(artifact: Artifact) -> int:
    """Return how many golden predictions a version has."""
    return len(artifact.golden.rows) // (8 * max(1, len(artifact.inputs)))
