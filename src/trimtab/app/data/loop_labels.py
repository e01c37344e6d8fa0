"""The labels by which a loop judges its predictions, from memory or from tables of record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from trimtab.app.system import System
from trimtab.core.columns.data import Column
from trimtab.events.columns.frames import EventFrame
from trimtab.features.labels import LabelIndex, LabelRequests
from trimtab.feedback.outcomes import KnownLabels, LabelReader
from trimtab.monitoring.inputs.checks.file_loads import UNKNOWN_US, FileLoads, Rhythm
from trimtab.training.definitions import Model


class LoopLabels:
    """Finds the labels of a model's requests in no more memory than `features.memory_bytes` allows.

    As long as all events fit into half of that, the history is in memory, indexed by key. Otherwise nothing of it is in
    memory: whenever a day is judged, labels are read from the tables of record, for some keys at a time, within 256
    MiB. Both ways give the same labels.

    A read from tables passes over all events of the label's source. Therefore one read serves all predictions of a day
    (`reading`).
    """

    def __init__(self, system: System, model: Model) -> None:
        self._system = system
        self._model = model
        self._index: LabelIndex | None = None
        self._loads: FileLoads | None = None  # when files with the events of `_frame` were loaded
        self._frame: EventFrame | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the history was in memory at the last `refresh`."""
        return self._index is not None

    def refresh(self) -> None:
        """Read new events into memory, or drop the history from memory if it does not fit any more."""
        if not self._system.in_memory():
            if self._index is not None:
                self._index = None
                self._system.drop_history()
            return
        self._index = self._index or LabelIndex(self._model.label)
        frames, _ = self._system.history.frames_at([self._model.label.source.name])
        frame = frames[self._model.label.source.name]
        self._index.update(frame)
        if frame is not self._frame:
            self._frame, self._loads = frame, FileLoads(frame)

    def complete_until(self, now_us: int) -> int:
        """Return the time up to which the known labels are complete.

        If labels come from files, and the history is in memory, this is the time of the last load until the next load
        is overdue. Otherwise, it is `now_us`. As long as the rhythm of the loads is not known, the next one is overdue
        after the label's wait, at most after five weeks.
        """
        loads_us = None if self._index is None or self._loads is None else self._loads.until(now_us)
        if loads_us is None:
            return now_us
        rhythm = Rhythm(loads_us)
        unknown_us = rhythm.last_us + min(self._model.label.wait_us, UNKNOWN_US)
        overdue_us = rhythm.overdue_us() if rhythm.known else unknown_us
        return now_us if now_us >= overdue_us else rhythm.last_us

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        if self._index is not None:
            found = self._index.join(keys.values, at_us, cut_us)
            return KnownLabels(found.values, found.known_at_us)
        with self.reading(lambda: [(keys, at_us, cut_us)]) as labels:
            return labels(keys, at_us, cut_us)

    @contextmanager
    def reading(self, requests: Callable[[], Iterable[LabelRequests]]) -> Iterator[LabelReader]:
        """Return a reader. The caller must call it with exactly the requests that `requests` gives, in the same order.

        Raises:
            Conflict: Another process moves events into the tables of record, or reads labels of the same model.
            Unavailable: The disk is full.
        """
        if self._index is not None:
            yield self
            return
        from trimtab.app.features.recorded_events import recorded_events  # imported here: they load DuckDB
        from trimtab.features.parts.parted_labels import PartedLabels
        from trimtab.features.parts.parted_views import LEAST_MEMORY_BYTES, claimed, named_errors

        label = self._model.label
        folder = self._system.state_folder / "backfill" / f"labels-{self._model.name}"
        with claimed(folder), named_errors(folder):
            files = folder / "files"
            shutil.rmtree(files, ignore_errors=True)  # left by a process that was killed
            files.mkdir()
            events = recorded_events(self._system, label.source)
            parted = PartedLabels(label, events, requests(), files, LEAST_MEMORY_BYTES)
            try:
                yield lambda keys, at_us, cut_us, /: KnownLabels(*parted.take(len(at_us)))
            finally:
                parted.close()
                shutil.rmtree(folder, ignore_errors=True)
