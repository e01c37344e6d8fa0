"""Read the events of a source from files into memory, with only the columns that are needed."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import arro3.core as arro3
import duckdb
import numpy as np
from numpy.typing import NDArray

from trimtab.core.closing import Closing
from trimtab.core.columns.data import Column, Columns, read_arrow
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.versions import Versions
from trimtab.features.definitions import View
from trimtab.features.parts.event_files import EventFiles, connected
from trimtab.features.parts.event_parts import as_recorded
from trimtab.features.parts.parted_views import named_errors
from trimtab.store.duckdb_opening import quoted

Array = NDArray[Any]

# the approximate memory of an event and of one of its values while features are computed (measured in D0215)
_EVENT_BYTES, _VALUE_BYTES, _TEXT_BYTES = 220, 8, 64
_FEW = 1_000  # if more records than this agree in all columns that are read, hashes of ids are read, too (see `load`)
_OWN = ("event_at", "known_at", "deleted", "partition", "position")


class LoadedFrames(Closing):
    """The events of several sources, each read from files into memory when it is needed. Threads may share it.

    Args:
        folder: A folder for what DuckDB moves out of memory.
        views: The views that are evaluated. Columns that none of them reads are not read.
        memory_bytes: About how much memory the events may use while features are computed from them.
    """

    def __init__(
        self, folder: Path, events: Mapping[str, EventFiles], views: Sequence[View], memory_bytes: int
    ) -> None:
        self._folder = folder
        self._events = events
        self._names: dict[str, set[str]] = {}
        for view in views:
            self._names.setdefault(view.source.name, set()).update(view.columns_read)
        self._held: dict[str, EventFrame] = {}
        self._lock = threading.Lock()
        self._connection = connected(folder / "overflow", memory_bytes, ordered=True)
        with named_errors(folder):
            sizes = sorted(self._bytes(name) for name in self._names)
        self.fits = sum(sizes[-1:]) <= memory_bytes  # whether the events of each single source fit
        self.threads = 2 if sum(sizes[-2:]) <= memory_bytes else 1  # how many views may be evaluated at once
        self.all_fit = sum(sizes) <= memory_bytes
        self.keep = self.all_fit  # whether events are kept when those of another source are read

    def frame(self, name: str) -> EventFrame:
        """Return the events of a source."""
        with self._lock:
            if name not in self._held:
                if not self.keep:
                    self._held.clear()
                with named_errors(self._folder, name):
                    self._held[name] = load(self._events[name], self._names[name], self._connection)
            return self._held[name]

    def close(self) -> None:
        self._connection.close()

    def _bytes(self, name: str) -> int:
        events = self._events[name]
        sizes = [
            _TEXT_BYTES if events.source.columns[column] == "str" else _VALUE_BYTES for column in self._names[name]
        ]
        return events.count(self._connection) * (_EVENT_BYTES + sum(sizes))


def load(events: EventFiles, names: Collection[str], connection: duckdb.DuckDBPyConnection) -> EventFrame:
    """Return the versions of all events, in no particular order.

    A record whose id occurs once is the only version of its event. Only the other records are processed in Python.

    Args:
        names: The source's columns to read.
        connection: A connection that keeps the order of rows.
    """
    columns = {name: f"c{i}" for i, name in enumerate(events.source.columns) if name in names}
    picked = "".join(f", {column}" for column in columns.values())
    # If ids are hashes of all values, records with equal ids agree in the columns that are read, so a hash of these
    # columns finds them, and a few other records. (`>> 1` makes hashes fit in int64.)
    hashed = f"hash(event_at{picked})" if events.content_ids else "h"
    rows = events.count(connection)
    own = ", ".join(map(quoted, _OWN))
    found = _read(connection, f"SELECT {own}, {hashed} >> 1 AS h{picked} FROM ({events.select})", rows)
    again = _again(found["h"].values)
    if events.content_ids and np.count_nonzero(again) > _FEW:
        hashed = "h"
        found |= _read(connection, f"SELECT h >> 1 AS h FROM ({events.select})", rows)
        again = _again(found["h"].values)
    hashes = np.unique(found.pop("h").values[again])
    alone = Columns(found) if not len(hashes) else Columns(found).take(~again)
    event_at, known_at, deleted, partition, position = (alone[name].values for name in _OWN)
    frame = EventFrame(
        events.source.name,
        Columns({name: alone[column] for name, column in columns.items()}),
        event_at,
        known_at,
        np.full(len(event_at), NEVER_US),
        deleted,
        partition.astype(np.int16),
        position,
        events.partitions,
    )
    if not len(hashes):
        return frame
    connection.register("again", {"n": hashes})
    query = f"SELECT * EXCLUDE (h) FROM ({events.select}) r SEMI JOIN again ON {hashed} >> 1 = again.n"
    versions = Versions(events.source, list(events.partitions))
    versions.add_table(as_recorded(events.source, events.partitions, connection.execute(query).fetchnumpy()))
    connection.unregister("again")
    return _joined(frame, versions.frame())


def _read(connection: duckdb.DuckDBPyConnection, query: str, rows: int) -> dict[str, Column]:
    """Return the columns of a query with `rows` rows. Little more memory is used than for the result."""
    empty = read_arrow(connection.sql(f"{query} LIMIT 0")).columns.by_name
    values = {name: np.empty(rows, column.values.dtype) for name, column in empty.items()}
    valid = {name: np.empty(rows, bool) for name in empty}
    done = 0
    for batch in arro3.RecordBatchReader.from_stream(connection.sql(query)):
        part = slice(done, done + batch.num_rows)
        done = part.stop
        for name, found in read_arrow(batch).columns.by_name.items():
            values[name][part], valid[name][part] = found.values, found.present()
    return {n: Column(empty[n].dtype, values[n], None if valid[n].all() else valid[n]) for n in empty}


def _again(hashes: Array) -> Array:
    """Return a boolean array: which hashes occur several times."""
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.isin(hashes, repeated) if len(repeated) else np.zeros(len(hashes), bool)


def _joined(one: EventFrame, other: EventFrame) -> EventFrame:
    columns = Columns.concat([one.columns, other.columns.select(one.columns.names)])
    own = ("event_at_us", "known_at_us", "superseded_at_us", "deleted", "partition", "position")
    event_at, known_at, superseded_at, deleted, partition, position = (
        np.concatenate([getattr(one, name), getattr(other, name)]) for name in own
    )
    return EventFrame(
        one.source, columns, event_at, known_at, superseded_at, deleted, partition, position, one.partitions
    )  # fmt: skip
