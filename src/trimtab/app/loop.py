"""One deployment's loop in a living project: one process at a time reads what was predicted, and steers."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.lease import Lease
from trimtab.core.clock import Clock
from trimtab.core.columns import Column
from trimtab.core.errors import Conflict
from trimtab.core.ids import Ids
from trimtab.core.records import Decision
from trimtab.events.history import History
from trimtab.features.labels import LabelIndex
from trimtab.feedback import KnownLabels
from trimtab.registry import Registry
from trimtab.serving.answering import PAST
from trimtab.serving.prediction_log import PredictionLog
from trimtab.steering.definitions import Deployment
from trimtab.steering.loop import Loop
from trimtab.steering.workshop import TrainingData
from trimtab.store.ports import Blob, Catalog, Put

KIND = "loop_turn"
_OWN_TIME = ("live", "online", "replay")  # answers that were made when they were asked for


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """The newest turn of a loop, and how its ticks fare."""

    doing: Literal["tick", "train"]
    holder: str  # "process 412 on wheelhouse"
    began_us: int
    ended_us: int | None  # None: under way, or its process died
    last_tick_us: int | None  # the end of the newest tick that went well
    last_error: str | None  # of the newest tick; None: it went well


def last_turn(catalog: Catalog, model: str) -> Turn | None:
    """The newest turn of a deployment's loop; None: it never had one.

    A loop is ill when `last_error` is not None, or when `last_tick_us` lies far back.
    """
    record = catalog.get(KIND, model)
    return None if record is None else msgspec.json.decode(record.body, type=Turn)


class DeploymentLoop:
    """Reads what was predicted, closes days, watches quality and steers. `tick` may be called at any time.

    Any number of processes and threads may call `tick` and `train`: a lease lets one at a time act, and that one reads
    first what the others have stored. If a lease is lost all the same, the revisions that writes expect decide.
    """

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
        folder: Path,
        clock: Clock,
        ids: Ids,
        seed: int,
    ) -> None:
        self.deployment = deployment
        self._history = history
        self._predictions = predictions
        self._catalog = catalog
        self._folder = folder
        self._clock = clock
        self._labels = LabelIndex(deployment.model.label)
        self._loop = Loop(
            deployment,
            labels=self._read_labels,
            live=self,
            data=data,
            registry=registry,
            catalog=catalog,
            blob=blob,
            clock=clock,
            ids=ids,
            seed=seed,
        )
        self.monitor = self._loop.monitor
        self.controller = self._loop.controller
        self._seen: dict[str, int] | None = None  # positions read; None: begin where the days are open

    def tick(self) -> list[Decision]:
        """Close the days that are due, look at them, and do what is due; nothing while another process does."""
        with self._turn("tick") as mine:
            if not mine:
                return []
            self._reload()
            decisions = self._loop.controller.finish()
            self._read_predictions()
            self._loop.close_days()
            return decisions + self._loop.controller.tick()

    def train(self, actor: str) -> list[Decision]:
        """Make and judge a candidate now.

        Raises:
            Conflict: Another process is at it, which the message names; or automation is frozen.
        """
        with self._turn("train") as mine:
            if not mine:
                turn = last_turn(self._catalog, self.deployment.name)
                who = "another process" if turn is None else f"{turn.holder} (its {turn.doing})"
                raise Conflict(f"train {self.deployment.name!r}: {who} is at work on it. Try again when it is done.")
            self._reload()
            return self._loop.controller.train(actor)

    def scores_of(self, keys: list[object], *, version: str, since_us: int) -> NDArray[np.float64]:
        """What a version first answered to each request since a moment, when it was asked; NaN where it was not.

        Answers made ahead, in batches or as of a moment in the past say nothing about how well it did in service.
        """
        name = self.deployment.name
        scores: dict[str, float] = {}
        for block in self._predictions.scan(self._predictions.positions_before(since_us)):
            for p in block:
                own = p.mode in _OWN_TIME and p.at_us >= p.made_at_us and PAST not in p.flags
                if own and p.version == version and p.model == name and p.at_us >= since_us:
                    scores.setdefault(p.request_id, p.score)
        return np.array([scores.get(str(key), np.nan) for key in keys], np.float64)

    def _reload(self) -> None:
        """Catch up with what is known and with what other processes have done."""
        self._history.refresh()
        self._labels.update(self._history.frame(self.deployment.model.label.source.name))
        if self._loop.reload():
            self._seen = None

    def _read_predictions(self) -> None:
        if self._seen is None:
            self._seen = self._predictions.positions_before(self._loop.closed_until_us)
        while True:
            block, seen = self._predictions.read(self._seen)
            if not block:
                return
            self._loop.add(block)
            self._seen = seen

    def _read_labels(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        found = self._labels.join(keys.values, at_us, cut_us)
        return KnownLabels(found.values, found.known_at_us)

    @contextmanager
    def _turn(self, doing: Literal["tick", "train"]) -> Iterator[bool]:
        """Act alone, and say so; False: another process or thread acts."""
        name, who = self.deployment.name, f"process {os.getpid()} on {platform.node()}"
        lease = Lease(self._catalog, f"loop.{name}", self._folder)  # of this turn: threads exclude each other too
        if not lease.take():
            yield False
            return
        try:
            before = last_turn(self._catalog, name)
            turn = Turn(
                doing=doing,
                holder=who,
                began_us=self._clock.now_us(),
                ended_us=None,
                last_tick_us=None if before is None else before.last_tick_us,
                last_error=None if before is None else before.last_error,
            )
            self._note(turn)
            try:
                yield True
            except BaseException as error:
                said = f"{type(error).__name__}: {error}" if doing == "tick" else turn.last_error
                self._note(msgspec.structs.replace(turn, ended_us=self._clock.now_us(), last_error=said))
                raise
            now_us = self._clock.now_us()
            well = {"last_tick_us": now_us, "last_error": None} if doing == "tick" else {}
            self._note(msgspec.structs.replace(turn, ended_us=now_us, **well))
        finally:
            lease.let_go()

    def _note(self, turn: Turn) -> None:
        self._catalog.write([Put(KIND, self.deployment.name, msgspec.json.encode(turn))])
