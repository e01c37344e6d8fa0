"""Hold the event log in memory as columns, shared by several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from trimtab.events.columns.frames import EventFrame
from trimtab.events.columns.history import History
from trimtab.events.columns.versions import EventCount
from trimtab.events.definitions import Source
from trimtab.events.tables import Moved
from trimtab.store.ports import Log, Table

# the events of each source, and for each partition the log position up to which they were read
FramesAt: TypeAlias = "tuple[dict[str, EventFrame], dict[str, int]]"

_EVENT_BYTES = 1_000  # the approximate memory of one event, with the computation of its features


class SharedHistory(History):
    """A `History` that several threads may use at the same time: a returned frame never changes."""

    def __init__(
        self,
        log: Log,
        sources: Sequence[Source],
        *,
        upto: Mapping[str, int] | None = None,
        tables: Mapping[str, Table] | Callable[[], Moved] | None = None,
    ) -> None:
        super().__init__(log, sources, upto=upto, tables=tables)
        self._mutex = threading.RLock()

    def refresh(self) -> int:
        """Read the new records of the log, and return their number."""
        with self._mutex:
            return super().refresh()

    def frame(self, source: str) -> EventFrame:
        """Return the events of one source as of the last `refresh`."""
        with self._mutex:
            return super().frame(source)

    def frames_at(self, sources: Iterable[str]) -> FramesAt:
        """Return the newest events of some sources, and the log positions up to which they were read."""
        with self._mutex:
            self.refresh()
            return {name: self.frame(name) for name in sources}, dict(self.positions)

    def counts_at(self) -> tuple[dict[str, EventCount], dict[str, int]]:
        """Return the newest counts of all sources, and the log positions up to which they were counted."""
        with self._mutex:
            self.refresh()
            return self.counts(), dict(self.positions)


def fits_memory(log: Log, memory_bytes: int) -> bool:
    """Estimate whether all events of a log, and what is computed from them, fit into half of `memory_bytes`."""
    return sum(log.positions().values()) * _EVENT_BYTES <= memory_bytes // 2
