"""The guard of a canary, or of a version that has just taken over, by the metrics of the service."""

from __future__ import annotations

from trimtab.core.time import DAY_US
from trimtab.monitoring.breaches import breach
from trimtab.monitoring.guardrails import Guardrails
from trimtab.registry import Registry
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arm_metrics import service_metrics
from trimtab.serving.arms.arms import CANARY
from trimtab.store.ports import Catalog


class ServiceGuard:
    """Compares the service metrics of a version with those of the version that answers now, or answered before.

    Args:
        model: The model's name.
        registry: Says which version is in service.
        catalog: Has the metrics, which serving processes write every ten seconds.
        limits: The limits whose violation is a breach.
        arm: The arm of the version in service.
    """

    def __init__(
        self, model: str, registry: Registry, catalog: Catalog, limits: Guardrails, *, arm: str = CHAMPION
    ) -> None:
        self._arm = arm
        self._model = model
        self._registry = registry
        self._catalog = catalog
        self._limits = limits

    def __call__(self, version: str, against: str, *, since_us: int) -> str | None:
        """The breach of the service by a version, in one sentence; None without a breach.

        Args:
            version: The address of the version that is guarded: a canary, or one that has just taken over.
            against: The version that answers the other requests, or that answered before.
            since_us: The time since which `version` answers.
        """
        champion = self._registry.alias(self._model, CHAMPION)
        took_over = champion is not None and champion.id == version
        own = service_metrics(
            self._catalog, self._model, version, self._arm if took_over else CANARY, since_us=since_us
        )
        before_us = since_us - DAY_US if took_over else since_us  # the replaced version no longer answers requests
        other = service_metrics(self._catalog, self._model, against, self._arm, since_us=before_us)
        found = breach(own, other, self._limits)
        return None if found is None else found.message

    def requests(self, version: str, *, since_us: int) -> int:
        """The number of requests that a canary has answered since a time."""
        return service_metrics(self._catalog, self._model, version, CANARY, since_us=since_us).requests
