"""Simulated service metrics in which some versions are slow, to test the guardrails of a rollout."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import numpy as np

from trimtab.core.records import Prediction
from trimtab.core.time import MINUTE_US
from trimtab.registry import Registry
from trimtab.serving.arms.arm_counts import LATENCY_EDGES_S, ServiceMetrics
from trimtab.serving.arms.arm_metrics import metrics_key, write_metrics
from trimtab.simulation.faults import Fault
from trimtab.store.ports import Catalog

# the median of the usual latencies in seconds, and the standard deviation of their logarithm
_USUAL_S, _SPREAD = 0.008, 0.3
_SLOWER = 3.0  # a slow version takes this many times the usual time per answer, if the fault has no size


class SlowAnswers:
    """Writes service metrics with random latencies. A version is slower if its training data end during a fault.

    Args:
        catalog: Where the metrics are written, as a service would do.
        registry: Has the training cuts of the versions.
        faults: The faults of the kind "slow_model".
    """

    def __init__(self, catalog: Catalog, registry: Registry, faults: Sequence[Fault], seed: int) -> None:
        self._catalog = catalog
        self._registry = registry
        self._faults = list(faults)
        self._seed = seed
        self._factors: dict[str, float] = {}  # for each version, the factor by which its latencies are multiplied

    def count(self, predictions: Sequence[Prediction], until_us: int) -> None:
        """Write the metrics of a block of predictions that ends at `until_us`."""
        answered = Counter((one.model, one.version, one.arm) for one in predictions)
        found = {}
        for number, ((model, version, arm), requests) in enumerate(sorted(answered.items())):
            rng = np.random.default_rng((self._seed, until_us, number))
            taken_s = _USUAL_S * self._slower(version) * np.exp(rng.normal(0.0, _SPREAD, requests))
            buckets = Counter(bisect_left(LATENCY_EDGES_S, one) for one in taken_s.tolist())
            metrics = ServiceMetrics(model=model, version=version, arm=arm, requests=requests, latencies=dict(buckets))
            found[metrics_key(metrics, until_us // MINUTE_US, "replay")] = metrics
        write_metrics(self._catalog, found)

    def _slower(self, version: str) -> float:
        if version not in self._factors:
            fitted_us = self._registry.get(version).cut_us
            sizes = [_SLOWER if one.size is None else one.size for one in self._faults if one.covers(fitted_us)]
            self._factors[version] = max(sizes, default=1.0)
        return self._factors[version]
