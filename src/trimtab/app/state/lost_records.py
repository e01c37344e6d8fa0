"""Records that others have read and that a log does not hold any more: lost, rolled back, or its files gone. # D0169

The readers of a log note how far they have come. Where a noted position lies behind the log's end, the log would give
that position again, and its readers would pass over the new record; so nothing is appended until `trimtab recover`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from trimtab.app.state.state import KEPT, State, truncation
from trimtab.core.errors import Conflict, Corrupt, Unavailable
from trimtab.core.urls import store_url
from trimtab.features.online.generations import id_of
from trimtab.features.online.store import read_cursors
from trimtab.serving.arms.online_learning import positions_learnt
from trimtab.store.opening import open as open_store
from trimtab.store.ports import Put

EVENTS, PREDICTIONS = "events", "predictions"
RECOVER = "Put its newest files back (trimtab restore BACKUP --force), or go on without those records: trimtab recover"
_READ = "read"  # the catalogue's record of how far logs were when they were read last
Read = dict[str, dict[str, int]]  # by log and partition


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one partition that a log does not hold any more, though they were read."""

    log: str  # "events" or "predictions"
    partition: str
    end: int  # the last position that is there; 0: the file is gone, or empty
    reached: int  # the last position that was read
    readers: dict[str, int]  # by who has read beyond the end, up to where

    def __str__(self) -> str:
        records = self.reached - self.end
        told = ", ".join(f"{name} up to {position:,}" for name, position in self.readers.items())
        return (
            f"log/{self.log}: partition {self.partition} ends at {self.end:,}, and {records:,} records behind that "
            f"were read before ({told}). It was lost, or replaced by an older copy."
        )


def read_past(log: str, ends: Mapping[str, int], readers: Mapping[str, Mapping[str, int]]) -> list[Lost]:
    """What a log does not hold any more.

    Args:
        log: Which one.
        ends: The last position of each of its partitions; looked at after the readers' positions.
        readers: By who has read it, the positions reached.
    """
    found: dict[str, dict[str, int]] = {}
    for name, reached in readers.items():
        for partition, position in reached.items():
            if position > ends.get(partition, 0):
                found.setdefault(partition, {})[name] = position
    return [
        Lost(log=log, partition=partition, end=ends.get(partition, 0), reached=max(past.values()), readers=past)
        for partition, past in sorted(found.items())
    ]


def refuse_read_past(log: str, ends: Mapping[str, int], readers: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse to go on with a log that others have read beyond its end.

    Raises:
        Corrupt: It does not hold what they have read; the message names the first partition, and the way out.
    """
    for lost in read_past(log, ends, readers):
        raise Corrupt(f"{lost} Nothing is appended to it meanwhile. {RECOVER}")


def lost_records(state: State, *, tables: bool = False) -> list[Lost]:
    """What the logs of events and predictions do not hold any more, as their readers' positions say.

    Args:
        state: Whose logs.
        tables: Ask the tables of record as well, which takes longer: the catalogue says how far they were before.
    """
    noted = noted_read(state)
    events: dict[str, Mapping[str, int]] = {
        "the catalogue": noted.get(EVENTS, {}),
        "the log's truncation": truncation(state.catalog).through,
    }
    events |= _views(state) | _learners(state)
    if tables:
        events |= {f"table {name}": reached for name, reached in _tables(state, events).items()}
    predictions = {"the catalogue": noted.get(PREDICTIONS, {})}
    return [
        *read_past(EVENTS, state.events.positions(), events),
        *read_past(PREDICTIONS, state.written_predictions.positions(), predictions),
    ]


def refuse_lost(state: State) -> None:
    """Refuse to append to an event log that does not hold what was read from it.

    Raises:
        Corrupt: Records were lost; the message has the way out.
    """
    for lost in lost_records(state):
        if lost.log == EVENTS:
            raise Corrupt(f"{lost} Nothing is appended to it meanwhile. {RECOVER}")


def noted_read(state: State) -> Read:
    """How far each log was when `note_read` looked last."""
    record = state.catalog.get(KEPT, _READ)
    return {} if record is None else msgspec.json.decode(record.body, type=Read)


def note_read(state: State) -> None:
    """Write down how far the logs are: what is missing up to there later was lost."""
    before = state.catalog.get(KEPT, _READ)
    noted: Read = {} if before is None else msgspec.json.decode(before.body, type=Read)
    ends = {EVENTS: state.events.positions(), PREDICTIONS: state.written_predictions.positions()}
    now = {name: {**noted.get(name, {}), **_greater(noted.get(name, {}), found)} for name, found in ends.items()}
    if now != noted:
        put = Put(KEPT, _READ, msgspec.json.encode(now), expected=0 if before is None else before.revision)
        with suppress(Conflict):  # another process has just done so
            state.catalog.write([put])


def _greater(noted: Mapping[str, int], found: Mapping[str, int]) -> dict[str, int]:
    return {partition: position for partition, position in found.items() if position > noted.get(partition, 0)}


def _views(state: State) -> dict[str, Mapping[str, int]]:
    """How far the views are that are stored; nothing where there are none, or where they are damaged."""
    if state.online_file() is None:
        return {}
    try:
        cursors = read_cursors(state.online)
    except (Corrupt, Unavailable):  # it is found, and said, by who reads features
        return {}
    return {f"view {id_of(name)[:8]}": cursor.positions for name, cursor in cursors.items() if name.isalnum()}


def _learners(state: State) -> dict[str, dict[str, int]]:
    """How far the log was read for online learners; nothing where there are none, or where they are damaged."""
    if not (state.folder / "learners" / "data.mdb").exists():
        return {}
    try:
        reached = positions_learnt(state.learners)
    except (Corrupt, Unavailable):  # it is found, and said, by who serves their models
        return {}
    return {f"learner {name}": positions for name, positions in reached.items()}


def _tables(state: State, readers: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """How far the tables of record are, in the partitions that the log or another reader knows."""
    partitions = {*state.events.positions(), *(name for reached in readers.values() for name in reached)}
    found: dict[str, dict[str, int]] = {}
    for path in sorted((state.folder / "tables").glob("*/_delta_log")):
        table = open_store(store_url("delta", path.parent), "table")
        try:
            found[path.parent.name] = {name: table.position(name) for name in partitions}
        finally:
            table.close()
    return found
