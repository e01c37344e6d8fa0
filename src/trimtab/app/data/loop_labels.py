"""The labels by which a loop judges its predictions: an index finds the events of each request's key."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from trimtab.app.data.recent_events import RecentEvents
from trimtab.app.system import System
from trimtab.core.columns.data import Column
from trimtab.features.labels import find_labels
from trimtab.feedback.outcomes import KnownLabels
from trimtab.monitoring.inputs.checks.file_loads import UNKNOWN_US, FileLoads, Rhythm
from trimtab.training.definitions import Model


class LoopLabels:
    """Finds the labels of a model's requests. Only the events of these requests are read."""

    def __init__(self, system: System, model: Model) -> None:
        self._system = system
        self._model = model

    def complete_until(self, now_us: int) -> int:
        """Return the time up to which the known labels are complete.

        If labels come from files and the next load is not overdue yet, this is the time of the last load. Otherwise, it
        is `now_us`. As long as the rhythm of the loads is not known, the next one is overdue after the label's wait, at
        most after five weeks.
        """
        loads_us = FileLoads(self._system.part(RecentEvents).frame(self._model.label.source.name)).until(now_us)
        if loads_us is None:
            return now_us
        rhythm = Rhythm(loads_us)
        unknown_us = rhythm.last_us + min(self._model.label.wait_us, UNKNOWN_US)
        overdue_us = rhythm.overdue_us() if rhythm.known else unknown_us
        return now_us if now_us >= overdue_us else rhythm.last_us

    def __call__(self, keys: Column, at_us: NDArray[Any], cut_us: NDArray[Any], /) -> KnownLabels:
        label = self._model.label
        source = self._system.definitions.sources[label.source.name]
        events = self._system.events_with(source, label.key, keys.values.tolist())
        found = find_labels(label, events, keys, at_us, cut_us)
        return KnownLabels(found.values, found.known_at_us)
