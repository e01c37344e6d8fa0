"""Fill new views, rebuild views and compact their storage, between batches of applied records."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from trimtab.app.online.rebuilding import Rebuild, Rebuilds
from trimtab.app.state.lost_records import EVENTS, refuse_read_past
from trimtab.app.state.state import State
from trimtab.core.clock import Clock
from trimtab.core.errors import Conflict, TrimtabError, Unavailable
from trimtab.core.time import HOUR_US
from trimtab.events.definitions import Source
from trimtab.features.online.compaction import Compaction
from trimtab.features.online.fill.fill import Filled, fill, live_positions, mark_unfilled, unfilled
from trimtab.features.online.store import OnlineStore
from trimtab.store.log_places import begin_of

if TYPE_CHECKING:
    from trimtab.events.tables import Moved

_logger = logging.getLogger(__name__)
_COMPACT_US = HOUR_US  # the time between two compactions
_LOOK_S = 1.0  # the time between two checks for requested rebuilds
_AGAIN_S = 60.0  # after a failure, the time until another attempt
_NOTE_S = 0.5  # the time between two updates of the stored progress


class ViewWork:
    """Fills, rebuilds and compacts the stored features of views, in short pieces between which records are applied."""

    def __init__(self, state: State, store: OnlineStore, sources: Sequence[Source], *, clock: Clock) -> None:
        self.failure: str | None = None  # why new views could not be filled
        self._state = state
        self._store = store
        self._sources = sources
        self._clock = clock
        self._rebuilds = Rebuilds(state.catalog)
        self._filling: Iterator[Filled] | None = None
        self._rebuilt: str | None = None  # the name of the view that is being rebuilt on request
        self._rows = 0
        self._look_s = 0.0  # the monotonic time of the next check for requested rebuilds
        self._again_s = 0.0  # the monotonic time of the next check for new views to fill
        self._stored_s = 0.0
        self._compaction = Compaction(store)
        self._compact_us = clock.now_us() + _COMPACT_US

    def fill(self, names: Sequence[str] | None = None) -> Iterator[Filled]:
        """Fill the named views, or all new views, from the log.

        Records that are no longer in the log are read from the tables of record, their long-term store.
        """
        names = unfilled(self._store) if names is None else names
        moved = self._state.moved(self._sources) if names and any(self._truncated().values()) else None
        return fill(self._store, self._state.events, views=names, moved=moved)

    def read_tables(self) -> None:
        """If filled views still need records that were truncated from the log, apply them from the tables of record."""
        live = live_positions(self._store)
        truncated = self._truncated()
        if live is None or all(position <= live.get(name, 0) for name, position in truncated.items()):
            return
        from trimtab.events.tables import recorded  # imported here, because it is rarely needed

        moved = self._state.moved(self._sources)
        for records in recorded(moved.tables, self._sources, live):
            self._store.apply(records, reached={})
        reached = {name: min(self._reached(moved, name), last) for name, last in self._state.events.positions().items()}
        self._store.apply([], reached=reached)

    def _truncated(self) -> dict[str, int]:
        """Return for each partition of the log the position up to which it was truncated."""
        log = self._state.events
        return {name: begin_of(log, name, last) for name, last in log.positions().items()}

    def _reached(self, moved: Moved, partition: str) -> int:
        """Return the position of a partition up to which all records of the views' sources are in tables."""
        tables, through = moved.tables, moved.through.get(partition, 0)
        found = [tables[s.name].position(partition) if s.name in tables else 0 for s in self._sources]
        return min((max(position, through) for position in found), default=0)

    def mark(self) -> None:
        """Mark new views as unfilled: records are only applied to them once they are filled."""
        moved = self._state.moved(self._sources) if any(self._truncated().values()) else None
        mark_unfilled(self._store, self._state.events, moved)

    def reading(self) -> Mapping[str, int]:
        """Return for each partition the position that the filled views have reached; if there are none, the log's end.

        Raises:
            Corrupt: The log ends before one of these positions, so records were lost.
        """
        live = live_positions(self._store)
        ends = self._state.events.positions()
        if live is None:
            return ends
        refuse_read_past(EVENTS, ends, {"online features": live})
        return live

    def piece(self, busy: bool) -> bool:
        """Do one short piece of work that is due, and return whether more work is waiting.

        Args:
            busy: Whether records were applied just before this call. Then views are filled, but not compacted.

        Raises:
            Unavailable: Another process writes. Try again.
        """
        try:
            if self._filling is None:
                self._filling = self._next()
            if self._filling is not None:
                self._fill_on(self._filling)
                return True
            return not busy and self._compact_on()
        except (Conflict, Unavailable) as error:
            self._filling = None
            raise Unavailable(str(error)) from error
        except TrimtabError as error:
            self._filling = None
            self._fail(str(error))
            return False

    def _next(self) -> Iterator[Filled] | None:
        """Return an iterator over the steps of the next fill; None if nothing must be filled now."""
        now_s = time.monotonic()
        if now_s >= self._again_s and unfilled(self._store) and any(self._state.events.positions().values()):
            self._rebuilt = None
            return self.fill()
        if now_s < self._look_s:
            return None
        self._look_s = now_s + _LOOK_S
        view = self._rebuilds.next()
        if view is None:
            return None
        self._rebuilt, self._rows = view, 0
        names = [name for name, plan in self._store.plans.items() if plan.name == view]
        if not names:
            self._fail(f"no served model uses this view. Views in use: {', '.join(self._store.plans)}.")
            return None
        return self.fill(names)

    def _fill_on(self, steps: Iterator[Filled]) -> None:
        filled = next(steps, None)
        if filled is None:
            self._filling, self.failure = None, None
            if self._rebuilt is not None:
                self._rebuilds.done(self._rebuilt)
                self._rebuilt = None
        elif self._rebuilt is not None and time.monotonic() >= self._stored_s:
            self._stored_s = time.monotonic() + _NOTE_S
            self._rebuilds.note(self._rebuilt, Rebuild(filled.rows, filled.of))

    def _compact_on(self) -> bool:
        if self._clock.now_us() < self._compact_us:
            return False
        found = self._compaction.step()
        if found.done:
            self._compact_us = self._clock.now_us() + _COMPACT_US
        return not found.done

    def _fail(self, why: str) -> None:
        view, self._rebuilt = self._rebuilt, None
        if view is not None:
            _logger.warning("rebuild of view %s: %s", view, why)
            self._rebuilds.failed(view, why)
        else:
            _logger.warning("online features: %s", why)
            self.failure = why
            self._again_s = time.monotonic() + _AGAIN_S
