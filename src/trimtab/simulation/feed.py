"""Write recorded events to the log in the order in which they became known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.clock import Clock
from trimtab.core.columns.data import Columns
from trimtab.events.definitions import Source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.features.definitions import Request
from trimtab.store.ports import Log


class Entered(msgspec.Struct, frozen=True):
    """The number of events that a call wrote to the log."""

    accepted: int
    quarantined: int


class Feed:
    """Tables of recorded events, replayed in the order in which the events became known.

    Each source writes a log partition of its own, so that append times never decrease within a partition.

    Args:
        tables: The recorded events by source name. If a row has a value of `_known_at`, that is when it became known
            or, for a request, when it was made.
        requests: The sources that are requests. A request is known when it is made, `lead` before its time.
        logs: One writer of the event log for each source.
        clock: Gives the times of quarantined rows.
        quarantine: Stores the rows that were refused.
    """

    def __init__(
        self,
        tables: Mapping[str, Columns],
        sources: Sequence[Source],
        requests: Sequence[Request],
        logs: Mapping[str, Log],
        *,
        clock: Clock,
        quarantine: Quarantine,
    ) -> None:
        leads = {request.name: request.lead_us for request in requests}
        self._streams = [
            _Stream.of(
                tables[source.name],
                source,
                source.delay_us - leads.get(source.name, 0),
                "left" if source.name in leads else "right",
                # In history, times after now are accepted, because these rows were accepted when they came.
                Ingestor(logs[source.name], [source], clock=clock, quarantine=quarantine, future_ok={source.name}),
                Ingestor(logs[source.name], [source], clock=clock, quarantine=quarantine, future_ok=frozenset(leads)),
            )
            for source in sources
            if source.name in tables
        ]

    def load_history(self, until_us: int) -> Entered:
        """Write all that was known by `until_us` to the log as history.

        The append time of these records is now, but each counts as known since it became known in the recording.
        """
        return self._enter([stream.load_history(until_us) for stream in self._streams])

    def advance(self, until_us: int) -> Entered:
        """Write the records that became known since the last call and by `until_us`, with these times as append times.

        At equal times, events come before requests: a request that is made at `until_us` is not written yet.
        """
        return self._enter([stream.advance(until_us) for stream in self._streams])

    @staticmethod
    def _enter(parts: Sequence[Entered]) -> Entered:
        return Entered(sum(p.accepted for p in parts), sum(p.quarantined for p in parts))


class _Stream:
    """The rows of one source in the order in which they became known. Rows without a time come first."""

    def __init__(
        self,
        source: Source,
        rows: Columns,
        known_at_us: NDArray[Any],
        side: Literal["left", "right"],
        past: Ingestor,
        ingestor: Ingestor,
    ) -> None:
        self._source = source
        self._rows = rows
        self._known_at_us = known_at_us
        self._side = side  # "right": rows that become known exactly at the end are included
        self._past = past
        self._ingestor = ingestor
        self._next = 0

    @staticmethod
    def of(
        rows: Columns, source: Source, delay_us: int, side: Literal["left", "right"], past: Ingestor, ingestor: Ingestor
    ) -> _Stream:
        time = rows[source.time]
        known = np.where(time.present(), time.values + delay_us, np.iinfo(np.int64).min)
        if "_known_at" in rows:
            said = rows["_known_at"]
            known = np.where(said.present(), said.values, known)
        order = np.argsort(known, kind="stable")
        return _Stream(source, rows.take(order), known[order], side, past, ingestor)

    def load_history(self, until_us: int) -> Entered:
        pushed = self._past.load(self._source.name, self._take(until_us), history=True)
        return Entered(pushed.accepted, pushed.quarantined)

    def advance(self, until_us: int) -> Entered:
        start = self._next
        rows = self._take(until_us)
        if not rows.rows:
            return Entered(0, 0)
        at_us = self._known_at_us[start : self._next]
        # `_known_at` is left out, because the append times are equal to it
        declared = rows.select(name for name in rows.names if name != "_known_at")
        pushed = self._ingestor.load(self._source.name, declared, at_us=at_us)
        return Entered(pushed.accepted, pushed.quarantined)

    def _take(self, until_us: int) -> Columns:
        start = self._next
        self._next = int(np.searchsorted(self._known_at_us, until_us, self._side))
        return self._rows.take(slice(start, self._next))
