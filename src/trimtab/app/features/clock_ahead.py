"""Find records whose append times lie in the future because a clock was wrong, and correct these times.  # D0170"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec
import numpy as np

from trimtab.app.features.materialising import writing_tables
from trimtab.app.state.state import KEPT, State, truncation
from trimtab.app.system import System
from trimtab.core.clock import TOLERANCE_US
from trimtab.core.columns.data import Column
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.shown import count_of
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, format_duration, format_time
from trimtab.features.online.store import read_cursors
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.log_places import position_before
from trimtab.store.ports import Put, Repairable, Table

ACT = "restamp"
REPAIR = "Check the clock first; once it is right, run: trimtab storage recover"


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """The records of a partition whose append times are in the future, or another stored time in the future."""

    where: str  # a partition of the event log, such as "p0001"; or what has the other time, such as "online features"
    first: int | None  # the position of the first of these records; None for another stored time
    records: int  # the number of these records; 0 for another stored time
    newest: str  # the latest of these times
    ahead_us: int  # how far `newest` is ahead of the clock

    def __str__(self) -> str:
        unit_us = next(unit for unit in (DAY_US, HOUR_US, MINUTE_US) if self.ahead_us >= 2 * unit)
        by = format_duration(self.ahead_us // unit_us * unit_us)
        if not self.first:
            return f"{self.where}: their newest time is {by} ahead of the clock ({self.newest})"
        what = f"{count_of(self.records, 'record')} from position {self.first:,} on"
        return f"event log, {self.where}: {what}, stamped {by} ahead of the clock ({self.newest})"


def stamped_ahead(state: State, now_us: int) -> list[Ahead]:
    """Find log records, and other stored times (see `Ahead`), that are ahead of now (by more than a tolerance)."""
    log, found = state.events, list[Ahead]()
    for partition, last in log.positions().items():
        newest = log.read(partition, max(0, last - 1), limit=1)
        if newest and newest[-1].appended_at_us > now_us + TOLERANCE_US:
            before = position_before(log, partition, last, now_us + 1)
            found.append(_ahead(partition, newest[-1].appended_at_us, now_us, before + 1, last - before))
    others = {"records truncated from the log": truncation(state.catalog).newest_us}
    if state.online_place.mark() is not None:
        with suppress(Corrupt):  # other code reports this, where it reads the features
            others["online features"] = max((c.s_us for c in read_cursors(state.online).values()), default=now_us)
    found += [
        _ahead(where, newest_us, now_us) for where, newest_us in others.items() if newest_us > now_us + TOLERANCE_US
    ]
    return found


def restamp(system: System, found: Sequence[Ahead], now_us: int, actor: str) -> None:
    """Set append times in the future to now, first in the tables of record (the long-term store), then in the log.

    Rebuild the online features afterwards. They hold times in the future until then, so `stamped_ahead` still finds
    these if the repair is interrupted.

    Raises:
        Misuse: The log is on a server, so its times cannot be changed here.
        Conflict: Another process writes to a partition or to the tables.
    """
    state = system.state
    if not isinstance(state.events, Repairable):
        raise Misuse(
            f"recover: the times of a {type(state.events).__name__} cannot be changed. Use its server's own tools."
        )
    row = Entry(
        at_us=now_us,
        model="*",
        act=ACT,
        cause="Records were stamped by a clock that was ahead; their append times become the current time.",
        actor=actor,
        evidence={f"{one.where} from {one.first or 0}": f"{one.records} records, {one.newest}" for one in found},
    )
    Ledger(state.catalog).write([row])
    with writing_tables(state):
        for table in state.tables(system.sources, make=False).values():
            _restamp_table(table, now_us)
    for partition in state.events.positions():
        state.events.restamp(partition, now_us, now_us)
    noted = truncation(state.catalog)
    if noted.newest_us > now_us:
        body = msgspec.json.encode(msgspec.structs.replace(noted, newest_us=now_us))
        state.catalog.write([Put(KEPT, "log", body)])


def _restamp_table(table: Table, now_us: int) -> None:
    """Correct the append times of a table's rows that lie in the future.

    If an event became known when it was appended, its known-at time is corrected, too. Other known-at
    times stay, because users may have given them.
    """
    rows = table.scan()
    if not rows.rows:
        return
    ahead = rows.take(np.flatnonzero(rows["_append_at"].values > now_us))
    if not ahead.rows:
        return
    append_at, known_at = ahead["_append_at"].values, ahead["_known_at"].values
    history = np.array(ahead["_history"].to_list(), bool)
    known = np.where((known_at == append_at) & ~history, now_us, known_at)
    times = {"_append_at": np.full(ahead.rows, now_us, np.int64), "_known_at": known.astype(np.int64)}
    instead = ahead.replace({name: Column("time", values) for name, values in times.items()})
    table.erase(ahead.select(["_partition", "_position"]), instead)


def _ahead(where: str, newest_us: int, now_us: int, first: int | None = None, records: int = 0) -> Ahead:
    return Ahead(where=where, first=first, records=records, newest=format_time(newest_us), ahead_us=newest_us - now_us)
