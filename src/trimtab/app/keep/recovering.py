"""Recover after records were lost, or were stamped by a wrong clock (`trimtab storage recover`).  # D0169, # D0170

If events were lost, the remaining ones are first copied to the tables of record, the long-term store of events, so that
none of them is lost. Each step may be repeated: if the command was killed, run it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain

import msgspec
import numpy as np

from trimtab.app.features.clock_ahead import Ahead, restamp, stamped_ahead
from trimtab.app.features.materialising import copy_to_tables
from trimtab.app.features.source_counts import discard_counts, store_counts
from trimtab.app.online.views import LEASE
from trimtab.app.state.lease import Lease
from trimtab.app.state.lost_records import EVENTS, EXPOSURES, Lost, lost_records
from trimtab.app.state.state import truncation, truncation_put
from trimtab.app.system import System
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.shown import Shown
from trimtab.events.columns.frames import NEVER_US
from trimtab.events.records import ERASED, decode
from trimtab.features.online.store import read_cursors
from trimtab.steering.ledger import Entry, Ledger
from trimtab.store.log_places import records_between
from trimtab.store.ports import LogRecord, Repairable

ACT = "recover"
_NOTHING_US = -(2**62)  # earlier than every append time


class LostRange(msgspec.Struct, frozen=True, kw_only=True):
    """The records that a log has lost in one partition: those at the positions from `first` to `last`."""

    log: str
    partition: str
    first: int
    last: int
    in_tables: int  # how many of the lost records, counted from the first, are still in the tables of record
    readers: dict[str, int]  # readers that had read some of the lost records, with their positions
    appended_again: int  # how many remaining events are appended again, because readers would skip them

    def lines(self) -> list[str]:
        """The lost range as lines of text."""
        records = self.last - self.first + 1
        out = [
            f"log/{self.log}, partition {self.partition}: positions {self.first:,} to {self.last:,} are gone "
            f"({records:,} {self.log})"
        ]
        if self.in_tables:
            out.append(f"  of them {self.in_tables:,} are in the tables of record, and are not lost")
        out += [f"  {name} had read up to position {position:,}" for name, position in self.readers.items()]
        if self.appended_again:
            out.append(
                f"  {self.appended_again:,} remaining records would be skipped by readers, so they are appended again"
            )
        return out


class Recovered(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The repairs that were made or, with `dry_run`, would be made."""

    dry_run: bool
    lost: list[LostRange]
    stamped_ahead: list[Ahead]  # records with append times in the future, which are set to now

    @property
    def is_empty(self) -> bool:
        return not (self.lost or self.stamped_ahead)

    def lines(self) -> list[str]:
        """The result as lines of text."""
        if self.is_empty:
            return ["nothing to recover: the logs have all records that were read, and no append time is in the future"]
        out = [line for one in self.lost for line in one.lines()]
        if any(one.log == EVENTS for one in self.lost):
            out.append(
                "online features still include the lost events, but training no longer does; to compute them from the "
                "remaining events: trimtab storage rebuild --all"
            )
        out += [str(one) for one in self.stamped_ahead]
        if self.stamped_ahead:
            out.append("their append times are replaced by the current time, and online features are rebuilt")
        return out


def recover(system: System, *, dry_run: bool = False, actor: str = "a person") -> Recovered:
    """Repair the logs after a loss of records or a wrong clock; see `Project.recover`."""
    state, now_us = system.state, system.clock.now_us()
    lost = [_range(system, one) for one in lost_records(state, tables=True)]
    done = Recovered(dry_run=dry_run, lost=lost, stamped_ahead=stamped_ahead(state, now_us))
    if dry_run or done.is_empty:
        return done
    if any(one.log == EVENTS for one in lost):
        copy_to_tables(system)
    otherwise = f"{state.folder}: a service is running. Stop it, then run this again."
    with Lease(state.catalog, LEASE, state.folder).taken(otherwise):
        discard_counts(system)
        for one in lost:
            _go_on(system, one, actor)
        if done.stamped_ahead:
            restamp(system, done.stamped_ahead, now_us, actor)
    store_counts(system)
    if done.stamped_ahead:
        system.reopen()  # what was read before the repair is outdated
        system.views.rebuild_all()
    return done


def _range(system: System, lost: Lost) -> LostRange:
    kept = 0
    if lost.log == EVENTS:
        tables = system.state.tables(system.sources, make=False)
        through = truncation(system.state.catalog).through.get(lost.partition, 0)
        reached = [tables[s.name].position(lost.partition) if s.name in tables else 0 for s in system.sources]
        kept = max(0, min([max(through, position) for position in reached], default=0) - lost.end)
    return LostRange(
        log=lost.log,
        partition=lost.partition,
        first=lost.end + 1,
        last=lost.reached,
        in_tables=min(kept, lost.reached - lost.end),
        readers=_named(system, lost.readers),
        appended_again=sum(1 for _ in _unread(system, lost.partition, lost.end)) if lost.log == EVENTS else 0,
    )


def _named(system: System, readers: Mapping[str, int]) -> dict[str, int]:
    """Return the readers. Views that are in use are shown by their names in place of their hashes."""
    names = {f"view {plan.cursor_name[:8]}": f"view {name}" for name, plan in system.views.store.plans.items()}
    return {names.get(reader, reader): position for reader, position in readers.items()}


def _go_on(system: System, lost: LostRange, actor: str) -> None:
    """Record the repair in the ledger. Then let a partition continue after the last position that was read."""
    state = system.state
    log = {EVENTS: state.events, EXPOSURES: state.exposures}.get(lost.log, state.written_predictions)
    if not isinstance(log, Repairable):
        raise Misuse(f"recover: a {type(log).__name__} cannot be recovered here. Recover its server instead.")
    now_us, end = system.clock.now_us(), lost.first - 1
    row = Entry(
        at_us=now_us,
        model="*",
        act=ACT,
        cause=f"Records of log/{lost.log} were lost; partition {lost.partition} continues after position {lost.last}.",
        actor=actor,
        evidence={
            "partition": lost.partition,
            "first": lost.first,
            "last": lost.last,
            "in_tables": lost.in_tables,
            "appended_again": lost.appended_again,
        },
    )
    if lost.log == EVENTS:
        tables = state.tables(system.sources, make=False)
        reached = {name: {lost.partition: table.position(lost.partition)} for name, table in tables.items()}
        truncated = truncation_put(state.catalog, reached, {lost.partition: lost.last}, now_us)
        Ledger(state.catalog).write([row], [truncated])
        again = ((record.payload, now_us) for record in _unread(system, lost.partition, end))
    else:  # predictions and exposures are in no table, so all remaining ones get later positions
        Ledger(state.catalog).write([row])
        left = chain.from_iterable(records_between(log, lost.partition, 0, end))
        again = ((record.payload, record.appended_at_us) for record in left)
    log.skip_to(lost.partition, lost.last, again)


def _unread(system: System, partition: str, end: int) -> Iterator[LogRecord]:
    """Yield the remaining events that must be appended again.

    Some were appended after the loss, at positions that readers had passed before, so no reader has read them. Others
    are of undeclared sources, so no table has them.
    """
    seen_us, known = _seen_us(system, partition, end), {ERASED, *system.definitions.sources}
    for record in chain.from_iterable(records_between(system.state.events, partition, 0, end)):
        if record.appended_at_us > seen_us or decode(record.payload).source not in known:
            yield record


def _seen_us(system: System, partition: str, end: int) -> int:
    """Return the latest append time that was seen by the views and tables that have read beyond position `end`.

    If there are none, the result is `NEVER_US`, so that no remaining record counts as appended later.
    """
    state, seen = system.state, [_NOTHING_US]
    if state.online_place.mark() is not None:
        with suppress(Corrupt):  # damaged features must be rebuilt, and then read the log from its beginning
            cursors = read_cursors(state.online).values()
            seen += [cursor.s_us for cursor in cursors if cursor.positions.get(partition, 0) > end]
    for table in state.tables(system.sources, make=False).values():
        rows = table.scan(["_append_at", "_partition", "_position"])
        if rows.rows and table.position(partition) > end:
            mine = np.array(rows["_partition"].to_list()) == partition
            seen += rows["_append_at"].values[mine].tolist()
    return max(seen) if len(seen) > 1 else NEVER_US
