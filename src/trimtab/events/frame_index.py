"""What is where in a history that grows: its entities, when each was first heard of, which rows are of which time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import repeat
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Column
from trimtab.events.frames import NEVER_US, EventFrame

Array = NDArray[Any]

_BLOCK = 1_024  # rows whose least and greatest event time are kept


class Entities(msgspec.Struct, frozen=True, eq=False):
    """The distinct texts of one column of a frame, numbered in order of appearance.

    The arrays by number have one place more, the last: that of nobody, number -1.
    """

    numbers: Mapping[str, int]  # may hold more than `count`: those of later frames
    count: int
    of_rows: Array  # int32, one a row; -1 for null
    known_us: Array  # by number: when its first event became known; `NEVER_US` for nobody
    enters_us: tuple[Array, Array]  # when its first event had happened and was known, at that moment or before it

    def of(self, keys: Column) -> Array:
        """The numbers of texts, -1 for null and for those that the frame does not have."""
        found = np.fromiter(map(self.numbers.get, keys.values.tolist(), repeat(-1)), np.int64, len(keys))
        found[found >= self.count] = -1
        return found


class FrameIndex:
    """Finds entities and stretches of time in the frames of one source's history, in those that were asked for.

    It follows a history whose rows stay as they are: a frame has the rows of every frame before it, and more.
    """

    def __init__(self) -> None:
        self._entities: dict[str, _Growing] = {}  # by column
        self._first_us = np.empty(0, np.int64)  # the least event time of each full block of rows
        self._last_us = np.empty(0, np.int64)
        self._lock = threading.Lock()

    def entities(self, frame: EventFrame, column: str) -> Entities:
        """The entities of a frame; what is new since the last frame is added."""
        with self._lock:
            growing = self._entities.get(column)
            if growing is None:
                growing = self._entities[column] = _Growing(column)
            if frame.rows < growing.rows:  # a frame of before
                growing = _Growing(column)
            return growing.upto(frame)

    def around(self, frame: EventFrame, first_us: int, last_us: int) -> slice:
        """A stretch of rows that has all events from `first_us` to `last_us`, and some more."""
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
    """The entities in one column of the frames so far."""

    def __init__(self, column: str) -> None:
        self.rows = 0
        self._column = column
        self._numbers: dict[str, int] = {}
        self._of_rows = np.empty(0, np.int32)
        nobody = np.full(1, NEVER_US)
        self._last = Entities(self._numbers, 0, self._of_rows, nobody, (nobody, nobody))

    def upto(self, frame: EventFrame) -> Entities:
        if frame.rows == self.rows:
            return self._last
        new = slice(self.rows, frame.rows)
        texts = frame.columns[self._column].values[new].tolist()
        numbers = self._numbers
        for text in dict.fromkeys(texts):
            if text is not None and text not in numbers:
                numbers[text] = len(numbers)
        of_new = np.fromiter(map(numbers.get, texts, repeat(-1)), np.int32, len(texts))
        self._append(of_new, frame.rows)
        known_at, event_at = frame.known_at_us[new], frame.event_at_us[new]
        before, at = self._last.enters_us
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

    def _earliest(self, before: Array, of_new: Array, moments_us: Array) -> Array:
        """The earliest moment of each entity, those before included; arrays that were given out stay as they are."""
        first = np.full(len(self._numbers) + 1, NEVER_US)
        first[: len(before) - 1] = before[:-1]
        np.minimum.at(first, of_new, moments_us)
        first[-1] = NEVER_US
        return first
