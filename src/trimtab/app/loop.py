"""One deployment's loop in a living project: outcomes, quality, decisions; the same parts that a replay wires."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.columns import Column
from trimtab.core.ids import Ids
from trimtab.core.records import Decision, Signal
from trimtab.events.history import History
from trimtab.features.labels import LabelIndex
from trimtab.feedback import KnownLabels, OpenDays, OutcomeJoin
from trimtab.monitoring.quality import QualityMonitor
from trimtab.registry import Registry
from trimtab.serving.prediction_log import PredictionLog
from trimtab.steering.controller import Controller
from trimtab.steering.definitions import Deployment, OnQualityDrop
from trimtab.steering.ledger import Ledger
from trimtab.steering.recipes import BatchRecipe, OnlineRecipe
from trimtab.steering.workshop import TrainingData, VersionWorkshop
from trimtab.store.ports import Append, Blob, Catalog, Put

KIND = "loop_reader"


class Reached(msgspec.Struct, frozen=True):
    """How far a loop has come: days before this moment are closed for good."""

    closed_until_us: int


class DeploymentLoop:
    """Reads what was predicted, closes days, watches quality and steers. `tick` may be called at any time."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        history: History,
        predictions: PredictionLog,
        data: TrainingData,
        registry: Registry,
        catalog: Catalog,
        blob: Blob,
        clock: Clock,
        ids: Ids,
        seed: int,
    ) -> None:
        model = deployment.model
        self.deployment = deployment
        self._history = history
        self._predictions = predictions
        self._catalog = catalog
        self._clock = clock
        self._labels = LabelIndex(model.label)
        self._scores: dict[str, float] = {}
        run_lengths = [r.run_length_days for r in deployment.retrain.any_of if isinstance(r, OnQualityDrop)]
        self.monitor = QualityMonitor(
            catalog, model.name, run_length_days=run_lengths[0] if run_lengths else OnQualityDrop().run_length_days
        )
        recipe = BatchRecipe(model, seed=seed) if deployment.learn == "batch" else OnlineRecipe(model, self, seed=seed)
        self.controller = Controller(
            deployment,
            monitor=self.monitor,
            workshop=VersionWorkshop(deployment, recipe, data, registry, blob, clock=clock, ids=ids),
            ledger=Ledger(catalog),
            catalog=catalog,
            clock=clock,
        )
        record = catalog.get(KIND, model.name)
        self._reached = Reached(-(2**62)) if record is None else msgspec.json.decode(record.body, type=Reached)
        self._seen = predictions.positions_before(self._reached.closed_until_us)
        self._days = OpenDays(
            model.name,
            model.metric,
            OutcomeJoin(self._read_labels, wait_us=model.label.wait_us, key_dtype=model.request.key_dtype),
            closed_until_us=self._reached.closed_until_us,
        )

    def tick(self) -> list[Decision]:
        """Close the days that are due, look at them, and do what is due."""
        self._history.refresh()
        self._labels.update(self._history.frame(self.deployment.model.label.source.name))
        now_us = self._clock.now_us()
        while True:
            before = dict(self._seen)
            block, self._seen = self._predictions.read(before)
            if not block:
                break
            self._days.add(block)
        signals: list[Signal] = []
        for day in self._days.close(now_us):
            signals += self.monitor.observe(day, now_us=now_us)
        self._note(signals, now_us)
        return self.controller.tick()

    def train(self, actor: str) -> list[Decision]:
        """Make and judge a candidate now."""
        self._history.refresh()
        return self.controller.train(actor)

    def scores_of(self, keys: list[object]) -> NDArray[np.float64]:
        """The first logged score of each request, NaN where it was never asked."""
        name = self.deployment.name
        for block in self._predictions.scan():
            for p in block:
                if p.model == name:
                    self._scores.setdefault(p.request_id, p.score)
        return np.array([self._scores.get(str(key), np.nan) for key in keys], np.float64)

    def _read_labels(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        found = self._labels.join(keys.values, at_us, cut_us)
        return KnownLabels(found.values, found.known_at_us)

    def _note(self, signals: list[Signal], now_us: int) -> None:
        """Keep signals and how far the days are closed in one write."""
        closed_until_us = self._days.closed_until_us
        if closed_until_us == self._reached.closed_until_us and not signals:
            return
        reached = Reached(closed_until_us)
        self._catalog.write(
            [
                Put(KIND, self.deployment.name, msgspec.json.encode(reached)),
                *(Append("signals", now_us, msgspec.json.encode(signal)) for signal in signals),
            ]
        )
        self._reached = reached
