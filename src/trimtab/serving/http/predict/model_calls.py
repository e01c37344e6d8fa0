"""Figures of how models are called: rows that share a call, and scores that are remembered."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.serving.answer.batching import calls_by_size
from trimtab.serving.answer.score_cache import CACHED_SCORES
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.observe.metrics import Metrics


def show_model_calls(metrics: Metrics, endpoints: Sequence[Endpoint]) -> None:
    """Let `metrics` show them, of models that have any."""

    gauge, counted, rows = metrics.gauge, metrics.counted, ("model", "rows")
    said = "Shared calls of a model by how many rows they had at most."
    counted("trimtab_model_batches_total", said, rows, lambda: _batches(endpoints))
    said = "What rows waited for others."
    counted("trimtab_model_batch_wait_seconds_total", said, ("model",), lambda: _waits(endpoints))
    said = "What a row costs a model, alone or in a batch of so many."
    gauge("trimtab_model_row_seconds", said, rows, lambda: _costs(endpoints))
    show_remembered(metrics, endpoints)


def show_remembered(metrics: Metrics, endpoints: Sequence[Endpoint]) -> None:
    """Let `metrics` show how often scores were remembered, of models that remember any."""
    said = "Scores that were asked for, by whether they were remembered."
    metrics.counted(CACHED_SCORES, said, ("model", "found"), lambda: _remembered(endpoints))


def _batches(endpoints: Sequence[Endpoint]) -> dict[tuple[str, ...], float]:
    return {
        (one.name, size): calls for one in endpoints for size, calls in calls_by_size(dict(one.batched.calls)).items()
    }


def _waits(endpoints: Sequence[Endpoint]) -> dict[tuple[str, ...], float]:
    return {(one.name,): one.batched.waited_s for one in endpoints if one.batched.calls}


def _costs(endpoints: Sequence[Endpoint]) -> dict[tuple[str, ...], float]:
    out: dict[tuple[str, ...], float] = {}
    for one in endpoints:
        costs = one.batched.costs
        if one.ready and costs.alone_s:
            out[one.name, "1"] = costs.alone_s
            out |= {(one.name, str(rows)): cost for rows, cost in costs.together_s.items()}
    return out


def _remembered(endpoints: Sequence[Endpoint]) -> dict[tuple[str, ...], float]:
    out: dict[tuple[str, ...], float] = {}
    for one in endpoints:
        if one.cached is not None:
            out |= {(one.name, "yes"): one.cached.hits, (one.name, "no"): one.cached.misses}
    return out
