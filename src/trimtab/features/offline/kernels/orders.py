"""The first and the last values of windows, given by their places in the timeline."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.features.offline.kernels.ranges import over_covers
from trimtab.features.offline.kernels.windows import Series, Window

Array = NDArray[Any]


class Orders:
    """The places of the first and last values of a series in each request's window.

    A place is an index into the timeline's events, or -1 for no value. For orderly events (see `timeline.py`), the
    places follow from the number of values that lie before the edges of the window. The other events with a value are
    few and mostly lie further back. They are merged in row by row, and only for windows where one of them may be among
    the last `most` values.
    """

    def __init__(self, series: Series, window: Window, most: int) -> None:
        events = window.events
        self._window = window
        self._most = most  # the number of last values that are needed
        self._places: Array | None = None if isinstance(events.orderly, slice) else events.orderly
        gives = None if series.gives is None else series.gives[events.orderly]
        # The indexes of the orderly events that have a value.
        self._given = None if gives is None else np.flatnonzero(gives)
        counts = None if gives is None else np.concatenate([[0], np.cumsum(gives)])
        self._low, self._high = (edge if counts is None else counts[edge] for edge in (window.low, window.high))
        other, start, stop = window.others()
        there = slice(None) if series.gives is None else series.gives[other]
        self._other, self._start, self._stop = other[there], start[there], stop[there]
        self._merged: Array | None = None
        self._rows = np.zeros(0, np.int64)  # the requests that need merging

    def first(self) -> Array:
        """The place of the first value in each window."""
        found = self._at(self._low)
        if len(self._other) == 0:
            return found
        never = np.iinfo(np.int64).max
        other = over_covers(np.minimum, self._start, self._stop, self._other, len(found), never)
        found = np.minimum(np.where(found < 0, never, found), other)
        return np.where(found == never, -1, found)

    def last(self, place: int) -> Array:
        """The place of the value that is `place`-th from the end of each window; the last value is number 1."""
        found = self._at(self._high - place)
        if len(self._other):
            if self._merged is None:
                self._merged = self._merge()
            found[self._rows] = self._merged[:, place - 1]
        return found

    def _at(self, index: Array) -> Array:
        """Turn indexes among the values of orderly events into places in the timeline, -1 outside the window."""
        there = (index >= self._low) & (index < self._high)
        found = np.where(there, index, 0)
        if self._given is not None:
            found = np.append(self._given, 0)[found]
        if self._places is not None:
            found = np.append(self._places, 0)[found]
        return np.where(there, found, -1)

    def _merge(self) -> Array:
        """Find the requests that need merging, and return the places of their last values.

        The last value comes first. The result has the shape (requests that need merging, most).
        """
        least = self._at(self._high - self._most)
        greatest = over_covers(np.maximum, self._start, self._stop, self._other, len(least), np.int64(-1))
        self._rows = np.flatnonzero((greatest >= 0) & (greatest > least))
        out = np.full((len(self._rows), 2 * self._most), -1, np.int64)
        for place in range(1, self._most + 1):
            out[:, place - 1] = self._at(self._high - place)[self._rows]
        if self._most == 1:
            out[:, 1] = greatest[self._rows]
        else:
            alive: list[int] = []
            replayed = replay(self._start, self._stop, self._other, self._rows, *sorted_list(alive))
            for row, _ in enumerate(replayed):
                some = alive[-self._most :]
                out[row, self._most : self._most + len(some)] = some
        out.sort(axis=1)
        return out[:, ::-1][:, : self._most]


def sorted_list(alive: list[Any]) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    """Return two functions: the first inserts an item into the sorted list, the second removes an item."""

    def add(item: Any) -> None:
        insort(alive, item)

    def remove(item: Any) -> None:
        del alive[bisect_left(alive, item)]

    return add, remove


def replay(
    start: Array, stop: Array, items: Array, rows: Array, add: Callable[[Any], None], remove: Callable[[Any], None]
) -> Iterator[int]:
    """Go through rows in order while items come and go. Yield each row when exactly the items it sees are present.

    Args:
        start: The first row that sees each item.
        stop: The first later row that does not see the item any more.
        items: The items that come and go.
        rows: The rows to stop at, in rising order.
        add: Called with each item that comes.
        remove: Called with each item that goes.
    """
    order = np.argsort(start, kind="stable")
    coming, comes = items[order].tolist(), start[order].tolist()
    order = np.argsort(stop, kind="stable")
    going, goes = items[order].tolist(), stop[order].tolist()
    i, j, end = 0, 0, len(coming)
    for row in rows.tolist():
        while i < end and comes[i] <= row:
            add(coming[i])
            i += 1
        while j < end and goes[j] <= row:
            remove(going[j])
            j += 1
        yield row
