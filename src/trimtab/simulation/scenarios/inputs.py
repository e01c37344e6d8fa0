"""Check a scenario's inputs with the `InputMonitor` of a service. It gets predictions in blocks, not one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.records import DayQuality, Prediction, Signal
from trimtab.core.time import HOUR_US
from trimtab.monitoring.inputs.input_hours import text_hashes
from trimtab.monitoring.inputs.monitor import Counts, InputMonitor, counts_of
from trimtab.monitoring.inputs.watched_version import Reading
from trimtab.monitoring.profiles.input_rows import rows_of_block
from trimtab.monitoring.profiles.profile_records import InputProfile
from trimtab.monitoring.profiles.profile_store import Profiles
from trimtab.monitoring.profiles.question_hashes import aside_of, question_hashes
from trimtab.registry import Version
from trimtab.simulation.scenarios.rows import Block
from trimtab.simulation.scenarios.shared import Shared, Stores
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop.triggering import declares
from trimtab.store.ports import Blob, Catalog
from trimtab.training.data.sets import TrainingSet


class _SharedProfiles(Profiles):
    """Makes input profiles of versions. The profile of an equal version of another scenario is reused."""

    def __init__(self, catalog: Catalog, blob: Blob, clock: Clock, made: dict[str, InputProfile]) -> None:
        super().__init__(catalog, blob, clock)
        self._of_all = made

    def make(self, version: Version, training_set: TrainingSet) -> InputProfile:
        known = self._of_all.get(version.id)
        if known is None:
            known = self._of_all[version.id] = super().make(version, training_set)
        else:
            self.store(version, known)
        return known


class InputChecks:
    """Checks the inputs of one scenario every few hours. As in service, it counts values by the hour.

    Args:
        stores: The stores of this scenario: hourly counts, signals, time windows with red signals, and the version in
            service.
    """

    def __init__(self, deployment: Deployment, shared: Shared, stores: Stores) -> None:
        now_us = shared.clock.now_us()
        self.profiles = _SharedProfiles(stores.catalog, shared.blob, shared.clock, shared.checks.profiles)
        self.signals: list[Signal] = []
        self._every_us = shared.look_every_us
        self._shared = shared.checks
        self._key, self._aside = deployment.model.request.key, aside_of(deployment.model.request)
        self._looked_us = now_us
        self._monitor = InputMonitor(
            stores.catalog,
            deployment.model,
            profiles=self.profiles,
            registry=stores.registry,
            frame_of=shared.rows.frame,
            now_us=now_us,
            owner=deployment.owner,
            known=shared.checks.findings,
        )
        self._monitor.estimates_red = declares(deployment, "estimate")

    def watch(
        self, block: Block, version: str, matrix: NDArray[Any], predictions: Sequence[Prediction], until_us: int
    ) -> None:
        """Add the predictions for a block of requests, and make the checks that are due before `until_us`.

        Args:
            matrix: The inputs of the version, shape (rows, inputs).
            until_us: The end of the block.
        """
        if not self._every_us:
            return
        self._shared.begin(until_us)
        keys, questions = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if block.stop > block.start:
            keys = block.once("keys", lambda: text_hashes([str(one) for one in block.requests[self._key].to_list()]))
            questions = block.once("questions", lambda: question_hashes(block.payloads, self._aside))

        def counted(hours: NDArray[np.int64], reading: Reading) -> Counts:
            def of_block() -> Counts:
                rows = rows_of_block(reading.plans, matrix, block.requests, block.features)
                scores = np.array([p.score if p.version == version else np.nan for p in predictions])
                return counts_of(reading, rows, block.at_us, [p.id for p in predictions], scores)

            # a canary answers other requests in each scenario
            alone = all(p.version == version for p in predictions)
            key = ("counts", version, reading.estimate, None if alone else self)
            found: Counts = block.once(key, of_block)
            here = np.unique(hours).tolist()
            estimated = {hour: found.estimated[hour] for hour in here if hour in found.estimated}
            return Counts({hour: found.hours[hour] for hour in here}, estimated)

        begin = 0
        step_us = self._every_us
        for look_us in range(self._looked_us // step_us * step_us + step_us, until_us + step_us, step_us):
            end = int(np.searchsorted(block.at_us, min(look_us, until_us)))
            at_us = block.at_us[begin:end]
            of_part = partial(counted, at_us // HOUR_US)
            self._monitor.add_live(version, at_us, keys[begin:end], questions[begin:end], of_part)
            begin = end
            if look_us < until_us:
                self._look(look_us)

    def resume(self, predictions: Sequence[Prediction]) -> None:
        """After a restart, add the logged predictions again, except those in hours whose counts are already stored."""
        if self._every_us:
            self._monitor.follow()
            self._monitor.add([p for p in predictions if p.made_at_us >= self._monitor.read_from_us])

    def close(self, now_us: int, closed: Sequence[DayQuality]) -> None:
        """Make the check at the end of a block. `closed`: the days that were closed just before."""
        if self._every_us:
            self._look(now_us, closed)

    def follow(self) -> None:
        """From now on, check the version that is in service now."""
        if self._every_us:
            self._monitor.follow()

    def _look(self, now_us: int, closed: Sequence[DayQuality] = ()) -> None:
        self._looked_us = now_us
        self.signals += self._monitor.look(now_us, closed).begun
