"""Sampled questions of a replay, read through the online path at their own moment and held against the columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab import store
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import REASONS
from trimtab.features.online import OnlineStore
from trimtab.features.request_plan import RequestPlan
from trimtab.simulation.rows import AnsweredRows, Block
from trimtab.store.ports import Log, LogRecord

_BATCH = 5_000


class SpotCheck:
    """Applies the log to online state up to each sampled question's moment, reads it there, and compares the bits.

    Args:
        features: What is read.
        rows: The questions.
        log: The event log, appended to by the replay.
        folder: Online state is kept in `online/` there; at the end of a replay it stands at the end of the log.
        count: How many questions to sample.
        seed: Chooses them.
    """

    def __init__(self, features: FeatureSet, rows: AnsweredRows, log: Log, folder: Path, count: int, seed: int) -> None:
        self.rows = self.values = self.mismatches = 0
        self._features = features
        self._log = log
        self._count = count
        self._seed = seed
        self._kv = store.open(f"lmdb://{folder}/online", "kv")
        self._online = OnlineStore(self._kv, features.views)
        self._plan = RequestPlan(features, self._kv)
        self._chosen: NDArray[Any] = np.zeros(0, np.int64)
        self._pending: list[LogRecord] = []
        self._read: dict[str, int] = {}

    def choose(self, first: int, stop: int) -> None:
        """Draw the questions to be checked from [first, stop)."""
        count = min(self._count, stop - first)
        if count:
            drawn: NDArray[Any] = np.random.default_rng(self._seed).choice(stop - first, count, replace=False)
            self._chosen = np.sort(drawn) + first

    def compare(self, block: Block) -> None:
        """Check the sampled questions of a block; afterwards every record of the log so far is applied or pending."""
        if not self._count:
            return
        self._fetch()
        for row in self._chosen[(self._chosen >= block.start) & (self._chosen < block.stop)].tolist():
            place = row - block.start
            at_us = int(block.at_us[place])
            self._apply_until(at_us)
            request = block.requests.take(slice(place, place + 1)).to_rows()[0]
            answer = self._plan.read([request], at_us)
            columns = block.features.values.take(slice(place, place + 1))
            self.rows += 1
            for name, online, code in zip(answer.names, answer.values[0], answer.reasons[0], strict=True):
                offline = columns[name].to_list()[0]
                codes = block.features.reasons.get(name)
                same = type(online) is type(offline) and online == offline
                self.values += 1
                self.mismatches += not (same and (codes is None or REASONS[codes[place]] == REASONS[code]))

    def close(self) -> None:
        """Apply what is left, so that online state stands at the end of the log."""
        if self._count:
            self._fetch()
            self._apply_until(2**63 - 1)
        self._kv.close()

    def _fetch(self) -> None:
        for partition in self._log.positions():
            while records := self._log.read(partition, self._read.get(partition, 0), limit=_BATCH):
                self._pending += records
                self._read[partition] = records[-1].position
        self._pending.sort(key=lambda r: (r.appended_at_us, r.partition, r.position))

    def _apply_until(self, at_us: int) -> None:
        """Apply the records that were in the log at `at_us`: at one instant, events come before questions."""
        ready = 0
        while ready < len(self._pending) and self._pending[ready].appended_at_us <= at_us:
            ready += 1
        for start in range(0, ready, _BATCH):
            self._online.apply(self._pending[start : min(start + _BATCH, ready)])
        del self._pending[:ready]
