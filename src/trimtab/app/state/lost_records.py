"""Find records that readers have read, but that a log no longer has. # D0169

Such records were lost, or an older copy replaced the log. Readers of a log store the position that they have reached.
If that position is beyond the end of the log, new records would get positions that the reader has passed, and the
reader would skip them. Therefore nothing may be appended until a backup is restored or `trimtab storage recover` has
run.
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

EVENTS, PREDICTIONS, EXPOSURES = "events", "predictions", "exposures"
RECOVER = (
    "Put the newest files of the log back (trimtab storage restore BACKUP --force), or go on without those records: "
    "trimtab storage recover"
)
_READ = "read"  # the key of the catalogue record with the ends of the logs, see `store_ends`
Read = dict[str, dict[str, int]]  # positions by log and partition


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one partition that were read before and are missing now."""

    log: str  # "events", "predictions" or "exposures"
    partition: str
    end: int  # the last position in the log; 0 if the file is missing or empty
    reached: int  # the last position that was read
    readers: dict[str, int]  # the readers that had read beyond `end`, with their positions

    def __str__(self) -> str:
        records = self.reached - self.end
        read = ", ".join(f"{name} up to {position:,}" for name, position in self.readers.items())
        return (
            f"log/{self.log}: partition {self.partition} ends at {self.end:,}, and {records:,} records after that "
            f"were read before ({read}). The partition was lost, or replaced by an older copy."
        )


def read_past(log: str, ends: Mapping[str, int], readers: Mapping[str, Mapping[str, int]]) -> list[Lost]:
    """Compare the end of each partition with the positions of its readers, and return the missing records.

    Args:
        ends: The last position of each partition. The caller must read it after the positions of the readers, because a
            reader could otherwise seem to be ahead of an end that is merely out of date.
        readers: The position that each reader has reached in each partition.
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
    """Raise an error if a log ends before the position of one of its readers.

    Raises:
        Corrupt: Records are missing. The message names the first partition concerned and the remedy.
    """
    for lost in read_past(log, ends, readers):
        raise Corrupt(f"{lost} Nothing is appended to it meanwhile. {RECOVER}")


def lost_records(state: State, *, tables: bool = False) -> list[Lost]:
    """Return the missing records of the event log, the prediction log and the exposure log.

    Args:
        tables: Whether the tables of record (the long-term store of events) also count as readers. To read their
            positions is slow.
    """
    stored = stored_ends(state)
    events: dict[str, Mapping[str, int]] = {
        "the catalogue": stored.get(EVENTS, {}),
        "the log's truncation": truncation(state.catalog).through,
    }
    events |= _views(state) | _learners(state)
    if tables:
        events |= {f"table {name}": reached for name, reached in _tables(state, events).items()}
    predictions = {"the catalogue": stored.get(PREDICTIONS, {})}
    return [
        *read_past(EVENTS, state.events.positions(), events),
        *read_past(PREDICTIONS, state.written_predictions.positions(), predictions),
        *read_past(EXPOSURES, state.exposures.positions(), {"the catalogue": stored.get(EXPOSURES, {})}),
    ]


def refuse_lost(state: State) -> None:
    """Raise an error if records of the event log are missing.

    Raises:
        Corrupt: Records are missing. The message names the remedy.
    """
    for lost in lost_records(state):
        if lost.log == EVENTS:
            raise Corrupt(f"{lost} Nothing is appended to it meanwhile. {RECOVER}")


def stored_ends(state: State) -> Read:
    """Return the ends of the logs that `store_ends` stored last."""
    record = state.catalog.get(KEPT, _READ)
    return {} if record is None else msgspec.json.decode(record.body, type=Read)


def store_ends(state: State) -> None:
    """Store the present ends of the logs. If records before these ends are missing later, they were lost."""
    before = state.catalog.get(KEPT, _READ)
    stored: Read = {} if before is None else msgspec.json.decode(before.body, type=Read)
    logs = {EVENTS: state.events, PREDICTIONS: state.written_predictions, EXPOSURES: state.exposures}
    ends = {name: log.positions() for name, log in logs.items()}
    now = {name: {**stored.get(name, {}), **_greater(stored.get(name, {}), found)} for name, found in ends.items()}
    if now != stored:
        put = Put(KEPT, _READ, msgspec.json.encode(now), expected=0 if before is None else before.revision)
        with suppress(Conflict):  # another process has just stored the ends
            state.catalog.write([put])


def _greater(stored: Mapping[str, int], found: Mapping[str, int]) -> dict[str, int]:
    return {partition: position for partition, position in found.items() if position > stored.get(partition, 0)}


def _views(state: State) -> dict[str, Mapping[str, int]]:
    """Return the positions that the stored views have read; nothing if there are no views, or if they are damaged."""
    if state.online_place.mark() is None:
        return {}
    try:
        cursors = read_cursors(state.online)
    except (Corrupt, Unavailable):  # damaged features are reported when they are read
        return {}
    return {f"view {id_of(name)[:8]}": cursor.positions for name, cursor in cursors.items() if name.isalnum()}


def _learners(state: State) -> dict[str, dict[str, int]]:
    """Return the positions that online learners have read; nothing if there are none, or if they are damaged."""
    if state.place("learners").mark() is None:
        return {}
    try:
        reached = positions_learnt(state.learners)
    except (Corrupt, Unavailable):  # damaged learners are reported when their models are served
        return {}
    return {f"learner {name}": positions for name, positions in reached.items()}


def _tables(state: State, readers: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Return for each table of record the last position that it has of each partition.

    The partitions are those of the event log, and those of which another reader has a position.
    """
    partitions = {*state.events.positions(), *(name for reached in readers.values() for name in reached)}
    found: dict[str, dict[str, int]] = {}
    for path in sorted((state.folder / "tables").glob("*/_delta_log")):
        table = open_store(store_url("delta", path.parent), "table")
        try:
            found[path.parent.name] = {name: table.position(name) for name in partitions}
        finally:
            table.close()
    return found
