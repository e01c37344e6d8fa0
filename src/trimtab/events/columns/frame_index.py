"""An index of a source's history: its entities, when each became known, and which rows are near a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.events.records import NEVER_US

Array = NDArray[Any]

_BLOCK = 1_024  # the earliest and the latest event time are kept for each block of this many rows


def key_values(columns: Sequence[Column]) -> list[Any]:
    """Return one hashable value for each row: a tuple if there are several columns, and None if any value is null."""
    if len(columns) == 1:
        found: list[Any] = columns[0].values.tolist() if columns[0].dtype == "str" else columns[0].to_list()
        return found
    return [None if None in key else key for key in zip(*(one.to_list() for one in columns), strict=True)]


class Frame(Protocol):
    """The attributes of an `EventFrame` that the index reads."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> Columns: ...
    @property
    def event_at_us(self) -> Array: ...
    @property
    def known_at_us(self) -> Array: ...
    @property
    def deleted(self) -> Array: ...


class Entities(msgspec.Struct, frozen=True, eq=False):
    """The distinct entities of a frame for some columns, numbered in the order in which they first appear.

    `known_us` and the arrays in `enters_us` end with one more element, `NEVER_US`. It is found by the index -1, which
    means that there is no entity.
    """

    # the index of each entity (key: a value, or a tuple for several columns); may also have entities of later frames
    numbers: Mapping[Any, int]
    count: int
    of_rows: Array  # int32: for each row the index of its entity, or -1 if a value is null
    known_us: Array  # for each entity, when its first event became known (deletions do not count)
    # for each entity, when its first event counts: in views with the boundary "before", and in those with "inclusive"
    enters_us: tuple[Array, Array]

    def of(self, keys: Sequence[Column]) -> Array:
        """Return the index of each entity, or -1 if a value is null or the frame does not have the entity."""
        found = np.fromiter(map(self.numbers.get, key_values(keys), repeat(-1)), np.int64, len(keys[0]))
        found[found >= self.count] = -1
        return found


class FrameIndex:
    """Finds entities and time intervals in the frames (snapshots) of one source's history.

    A later frame must have all rows of an earlier frame, unchanged, followed by new ones.
    """

    def __init__(self) -> None:
        self._entities: dict[tuple[str, ...], _Growing] = {}  # by the names of the columns that identify the entities
        self._first_us = np.empty(0, np.int64)  # the earliest event time of each full block of rows
        self._last_us = np.empty(0, np.int64)
        self._lock = threading.Lock()

    def entities(self, frame: Frame, columns: tuple[str, ...]) -> Entities:
        """Return the entities that some columns of a frame identify. Only rows that no earlier frame had are read."""
        with self._lock:
            growing = self._entities.get(columns)
            if growing is None:
                growing = self._entities[columns] = _Growing(columns)
            if frame.rows < growing.rows:  # this frame is older than the last one
                growing = _Growing(columns)
            return growing.upto(frame)

    def around(self, frame: Frame, first_us: int, last_us: int) -> slice:
        """Return a range of rows that has all events from `first_us` to `last_us`, and perhaps other events."""
        with self._lock:
            full = frame.rows // _BLOCK
            known = len(self._first_us)
            if full > known:
                blocks = frame.event_at_us[known * _BLOCK : full * _BLOCK].reshape(-1, _BLOCK)
                self._first_us = np.concatenate([self._first_us, blocks.min(1)])
                self._last_us = np.concatenate([self._last_us, blocks.max(1)])
            hits = np.flatnonzero((self._first_us[:full] <= last_us) & (self._last_us[:full] >= first_us))
        if not len(hits):
            return slice(full * _BLOCK, frame.rows)
        end = frame.rows if full * _BLOCK < frame.rows else int(hits[-1] + 1) * _BLOCK
        return slice(int(hits[0]) * _BLOCK, end)


class _Growing:
    """The entities (distinct values of some columns) in the newest frame that was indexed."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.rows = 0
        self._columns = columns
        self._numbers: dict[Any, int] = {}
        self._of_rows = np.empty(0, np.int32)
        none = np.full(1, NEVER_US)
        self._last = Entities(self._numbers, 0, self._of_rows, none, (none, none))

    def upto(self, frame: Frame) -> Entities:
        if frame.rows == self.rows:
            return self._last
        new = slice(self.rows, frame.rows)
        keys = key_values([frame.columns[name].take(new) for name in self._columns])
        numbers = self._numbers
        for key in dict.fromkeys(keys):
            if key is not None and key not in numbers:
                numbers[key] = len(numbers)
        of_new = np.fromiter(map(numbers.get, keys, repeat(-1)), np.int32, len(keys))
        self._append(of_new, frame.rows)
        known_at, event_at = frame.known_at_us[new], frame.event_at_us[new]
        before, at = self._last.enters_us
        of_new = np.where(frame.deleted[new], -1, of_new)  # a deletion does not make an entity known  # D4
        self._last = Entities(
            numbers,
            len(numbers),
            self._of_rows[: frame.rows],
            self._earliest(self._last.known_us, of_new, known_at),
            (
                self._earliest(before, of_new, np.maximum(event_at + 1, known_at)),
                self._earliest(at, of_new, np.maximum(event_at, known_at)),
            ),
        )
        self.rows = frame.rows
        return self._last

    def _append(self, of_new: Array, rows: int) -> None:
        if rows > len(self._of_rows):
            grown = np.empty(max(rows, 2 * len(self._of_rows)), np.int32)
            grown[: self.rows] = self._of_rows[: self.rows]
            self._of_rows = grown
        self._of_rows[self.rows : rows] = of_new

    def _earliest(self, before: Array, of_new: Array, times_us: Array) -> Array:
        """Return the earliest time of each entity over old and new rows, as a new array."""
        first = np.full(len(self._numbers) + 1, NEVER_US)
        first[: len(before) - 1] = before[:-1]
        np.minimum.at(first, of_new, times_us)
        first[-1] = NEVER_US
        return first
