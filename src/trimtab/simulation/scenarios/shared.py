"""The data and work that all scenarios of a replay share, and the stores of each scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from trimtab import store
from trimtab.core.clock import Clock
from trimtab.core.urls import store_url
from trimtab.monitoring.inputs.checks.findings import Known
from trimtab.monitoring.profiles.profile_records import InputProfile
from trimtab.registry import Registry
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.simulation.faults import Fault
from trimtab.simulation.scenarios.rows import AnsweredRows
from trimtab.simulation.scenarios.shared_fits import FitCache
from trimtab.store.embedded_files import catalog_file
from trimtab.store.ports import Blob, Catalog


class SharedChecks:
    """Input profiles and findings. They are equal in all scenarios with the same version and the same rows."""

    def __init__(self) -> None:
        self.profiles: dict[str, InputProfile] = {}
        self.findings: Known = {}  # what the checks found in the newest block
        self._until_us: int | None = None

    def begin(self, until_us: int) -> None:
        """Drop the findings of the previous block. Only the first call for a block has an effect."""
        if until_us != self._until_us:
            self._until_us = until_us
            self.findings.clear()


class Shared(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The data that all scenarios of a replay share, and the results of work that is done once for all."""

    rows: AnsweredRows  # the requests with their features and labels
    blob: Blob
    clock: Clock
    seed: int
    look_every_us: int  # time between two checks of inputs, a multiple of an hour; 0: inputs are not checked
    faults: Sequence[Fault] = ()
    fits: FitCache = msgspec.field(default_factory=FitCache)
    checks: SharedChecks = msgspec.field(default_factory=SharedChecks)


class Stores(msgspec.Struct, frozen=True, eq=False):
    """The stores of one scenario, in its folder."""

    catalog: Catalog
    predictions: PredictionLog
    registry: Registry

    @staticmethod
    def open(folder: Path, shared: Shared) -> Stores:
        """Open the stores. Their writes are not synced, because a replay can be repeated. # D190"""
        clock = shared.clock
        catalog = store.open(f"{store_url('sqlite', catalog_file(folder))}?mode=relaxed", "catalog", clock=clock)
        log = store.open(f"{store_url('sqlite', folder / 'log' / 'predictions')}?mode=relaxed", "log", clock=clock)
        return Stores(catalog, PredictionLog(log), Registry(catalog, shared.blob, clock=clock, actor="policy"))

    def close(self) -> None:
        self.predictions.close()
        self.catalog.close()
