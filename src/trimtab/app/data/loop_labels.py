"""The labels that a loop judges its predictions by, from memory or from tables of record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.features.labels import LabelIndex, LabelRequests
from trimtab.feedback.outcomes import KnownLabels, LabelReader
from trimtab.training.definitions import Model

if TYPE_CHECKING:
    from trimtab.app.system import System


class LoopLabels:
    """Finds the labels of a model's requests in no more memory than `features.memory_bytes` allows.

    As long as all events fit into half of it, the history is in memory, indexed by key. After that nothing of it is in
    memory. The labels are then read from the tables of record whenever a day is judged, for some of its keys at a time,
    within 256 MiB. Both ways give the same labels.

    Reading from tables takes a pass over all events of the label's source. It is therefore done once for all
    predictions of a day (`reading`), not for each part of them.
    """

    def __init__(self, system: System, model: Model) -> None:
        self._system = system
        self._model = model
        self._index: LabelIndex | None = None

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
        self._index.update(frames[self._model.label.source.name])

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        if self._index is not None:
            found = self._index.join(keys.values, at_us, cut_us)
            return KnownLabels(found.values, found.known_at_us)
        with self.reading(lambda: [(keys, at_us, cut_us)]) as labels:
            return labels(keys, at_us, cut_us)

    @contextmanager
    def reading(self, requests: Callable[[], Iterable[LabelRequests]]) -> Iterator[LabelReader]:
        """Return a reader that is then called with exactly the requests that `requests` gives, in the same order.

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
            shutil.rmtree(files, ignore_errors=True)  # of a process that was killed
            files.mkdir()
            events = recorded_events(self._system, label.source)
            parted = PartedLabels(label, events, requests(), files, LEAST_MEMORY_BYTES)
            try:
                yield lambda keys, at_us, cut_us, /: KnownLabels(*parted.take(len(at_us)))
            finally:
                parted.close()
                shutil.rmtree(folder, ignore_errors=True)
