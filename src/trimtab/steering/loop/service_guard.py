"""The guard of a canary or of a promoted version: it compares service metrics with the declared limits."""

from __future__ import annotations

from trimtab.core.time import DAY_US
from trimtab.monitoring.breaches import breach
from trimtab.monitoring.guardrails import Guardrails
from trimtab.registry import Registry
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arm_metrics import service_metrics
from trimtab.serving.arms.arms import CANARY
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.store.ports import Catalog


class ServiceGuard:
    """Compares the service metrics of a version with those of the other arm, or of the version that it replaced.

    Args:
        registry: Tells which version is in service.
        catalog: Where serving processes write their metrics, every ten seconds.
        arm: The arm of the version in service.
        predictions: The prediction log, in which the answers of a project that runs without a service are counted.
    """

    def __init__(
        self,
        model: str,
        registry: Registry,
        catalog: Catalog,
        limits: Guardrails,
        *,
        arm: str = CHAMPION,
        predictions: PredictionLog | None = None,
    ) -> None:
        self._predictions = predictions
        self._arm = arm
        self._model = model
        self._registry = registry
        self._catalog = catalog
        self._limits = limits

    def __call__(self, version: str, against: str, *, since_us: int) -> str | None:
        """Return a sentence about the limit that a version exceeds; None if it exceeds none.

        Args:
            version: The id of the version to guard: a canary, or a version that was just promoted.
            against: The id of the version that answers the other requests, or that answered before.
            since_us: Since when `version` answers requests.
        """
        champion = self._registry.alias(self._model, CHAMPION)
        took_over = champion is not None and champion.id == version
        own = service_metrics(
            self._catalog, self._model, version, self._arm if took_over else CANARY, since_us=since_us
        )
        # the replaced version does not answer any more, so take its metrics of the day before
        before_us = since_us - DAY_US if took_over else since_us
        other = service_metrics(self._catalog, self._model, against, self._arm, since_us=before_us)
        found = breach(own, other, self._limits)
        return None if found is None else found.message

    def requests(self, version: str, *, since_us: int) -> int:
        """Return how many requests a canary has answered since a time, in a service or in Python."""
        served = service_metrics(self._catalog, self._model, version, CANARY, since_us=since_us).requests
        if served or self._predictions is None:
            return served
        blocks = self._predictions.blocks(self._predictions.positions_before(since_us), model=self._model)
        return sum(one.version == version and one.arm == CANARY for block, _ in blocks for one in block)
