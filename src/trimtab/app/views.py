"""Online features of a project: who applies the log to them, and what they look like in history."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from trimtab.app.state import State
from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict
from trimtab.events.frames import EventFrame
from trimtab.events.history import History
from trimtab.features.definitions import View
from trimtab.features.online import OnlineStore
from trimtab.serving.applier import Applier
from trimtab.store.ports import LogRecord
from trimtab.training.definitions import Model

LEASE = "views"
LEASE_S = 30.0
_BATCH = 5_000


class Views:
    """The views of all deployed models, kept as of the event log.

    Args:
        state: Log, online state and leases.
        models: Whose views they are.
        clock: For the applier's lag.
    """

    def __init__(self, state: State, models: Sequence[Model], *, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._holder = f"process {os.getpid()}"
        self.views: list[View] = list({v.hash: v for model in models for v in model.features.views}.values())
        self._sources = list({v.source.name: v.source for v in self.views}.values())
        self._history: History | None = None

    @property
    def store(self) -> OnlineStore:
        return OnlineStore(self._state.online, self.views)

    def catch_up(self) -> bool:
        """Apply what is new in the log, unless another process does that; whether it was done here."""
        if not self.views or not self._state.catalog.acquire(LEASE, self._holder, LEASE_S):
            return False
        try:
            store = self.store
            positions = dict(store.positions())
            while new := self._new(positions):
                store.apply(new)
                positions.update({record.partition: record.position for record in new})
        finally:
            self._state.catalog.release(LEASE, self._holder)
        return True

    def follow(self) -> Applier:
        """A thread that applies the log from now on; this process holds the lease for as long.

        Raises:
            Conflict: Another process holds it.
        """
        self.renew()
        store = self.store
        return Applier(self._state.events, store.apply, store.positions, clock=self._clock)

    def renew(self) -> None:
        """Hold the lease for another while.

        Raises:
            Conflict: Another process took it.
        """
        if not self._state.catalog.acquire(LEASE, self._holder, LEASE_S):
            raise Conflict(
                f"{self._state.folder}: another process applies events to this project's features (a running "
                "`trimtab serve`?). Stop it first, or push to it over HTTP."
            )

    def let_go(self) -> None:
        """Give the lease back."""
        self._state.catalog.release(LEASE, self._holder)

    def lag_records(self) -> int:
        """How many records of the log the views have not seen."""
        applied = self.store.positions() if self.views else {}
        return sum(max(0, last - applied.get(name, 0)) for name, last in self._state.events.positions().items())

    def snapshot(self, upto: Mapping[str, int] | None) -> tuple[Mapping[str, EventFrame], Mapping[str, int]]:
        """Every source's events, all or up to some positions, and the positions they reach."""
        if upto is not None:
            history = History(self._state.events, self._sources, upto=upto)
        else:
            self._history = history = self._history or History(self._state.events, self._sources)
        history.refresh()
        return {source.name: history.frame(source.name) for source in self._sources}, dict(history.positions)

    def _new(self, positions: Mapping[str, int]) -> list[LogRecord]:
        """The next records of all partitions, by append time."""
        new: list[LogRecord] = []
        for name in self._state.events.positions():
            new += self._state.events.read(name, positions.get(name, 0), limit=_BATCH)
        new.sort(key=lambda r: (r.appended_at_us, r.partition, r.position))
        return new
