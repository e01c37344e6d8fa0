"""Find the first and the last values in the windows of many requests."""

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
    """Finds the first and last values of a series in each request's window.

    The result is a place: an index into the timeline's events, or -1 for no value. Most events are orderly: they became
    known in the order in which they happened. For these, a place is found by counting: how many values come before the
    beginning and before the end of the window. The other events are few, and most of them are too old to be among the
    last `most` values. For windows in which one of them may be among these values, `_merge` combines both kinds, one
    request after another.
    """

    def __init__(self, series: Series, window: Window, most: int) -> None:
        events = window.events
        self._window = window
        self._most = most  # how many of the last values are needed
        self._places: Array | None = None if isinstance(events.orderly, slice) else events.orderly
        gives = None if series.gives is None else series.gives[events.orderly]
        # indexes of the orderly events (see `timeline.py`) that have a value; None: all of them have one
        self._given = None if gives is None else np.flatnonzero(gives)
        counts = None if gives is None else np.concatenate([[0], np.cumsum(gives)])
        self._low, self._high = (edge if counts is None else counts[edge] for edge in (window.low, window.high))
        other, start, stop = window.others()
        there = slice(None) if series.gives is None else series.gives[other]
        self._other, self._start, self._stop = other[there], start[there], stop[there]
        self._merged: Array | None = None
        self._rows = np.zeros(0, np.int64)  # the requests that need merging

    def first(self) -> Array:
        """Return the place of the first value in each window."""
        found = self._at(self._low)
        if len(self._other) == 0:
            return found
        never = np.iinfo(np.int64).max
        other = over_covers(np.minimum, self._start, self._stop, self._other, len(found), never)
        found = np.minimum(np.where(found < 0, never, found), other)
        return np.where(found == never, -1, found)

    def last(self, n: int) -> Array:
        """Return the place of the n-th value from the end of each window (1: the last value)."""
        found = self._at(self._high - n)
        if len(self._other):
            if self._merged is None:
                self._merged = self._merge()
            found[self._rows] = self._merged[:, n - 1]
        return found

    def _at(self, index: Array) -> Array:
        """Return places, given indexes among the orderly events that have a value; -1: outside of the window."""
        there = (index >= self._low) & (index < self._high)
        found = np.where(there, index, 0)
        if self._given is not None:
            found = np.append(self._given, 0)[found]
        if self._places is not None:
            found = np.append(self._places, 0)[found]
        return np.where(there, found, -1)

    def _merge(self) -> Array:
        """Find the requests that need merging: an event that is not orderly may be among their last `most` values.

        Return the places of their last values, shape (requests that need merging, most), with the last value first.
        """
        least = self._at(self._high - self._most)
        greatest = over_covers(np.maximum, self._start, self._stop, self._other, len(least), np.int64(-1))
        self._rows = np.flatnonzero((greatest >= 0) & (greatest > least))
        out = np.full((len(self._rows), 2 * self._most), -1, np.int64)
        for n in range(1, self._most + 1):
            out[:, n - 1] = self._at(self._high - n)[self._rows]
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
    """Return two functions that insert an item into a sorted list and remove one from it."""

    def add(item: Any) -> None:
        insort(alive, item)

    def remove(item: Any) -> None:
        del alive[bisect_left(alive, item)]

    return add, remove


def replay(
    start: Array, stop: Array, items: Array, rows: Array, add: Callable[[Any], None], remove: Callable[[Any], None]
) -> Iterator[int]:
    """Add and remove items, and yield each row at the point where exactly the items that it sees are present.

    Args:
        start: For each item, the first row that sees it.
        stop: For each item, the first later row that does not see it.
        rows: The rows to yield, in ascending order.
        add: Called with each item that is added.
        remove: Called with each item that is removed.
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
