"""The number of distinct values, and the most frequent values, in the windows of many requests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.features.formulas import RANKED, estimated
from trimtab.features.offline.kernels.formula_columns import hashes
from trimtab.features.offline.kernels.orders import replay, sorted_list
from trimtab.features.offline.kernels.windows import Series, Window

Array = NDArray[Any]


def distinct_counts(series: Series, window: Window, keep: int, hashed: Array) -> Array:
    """Return the number of distinct values in each request's window.

    Below `keep`, the number is exact, and otherwise an estimate. Each event is seen by a range of requests. A value is
    in a request's window if the request sees at least one of the events with this value. So the requests that see a
    value are the union of the ranges of its events.

    Args:
        keep: How many hashes an estimate uses.
        hashed: The hash of each event's value.
    """
    place, start, stop = window.covers(series)
    start, stop, value = _ranges(start, stop, hashed[place])
    rows = len(window.low)
    steps = np.bincount(start, minlength=rows + 1) - np.bincount(stop, minlength=rows + 1)
    counts = np.cumsum(steps[:rows])
    many = counts >= keep
    if not many.any():
        return counts
    before = np.concatenate([[0], np.cumsum(many)])
    needed = before[stop] > before[start]  # ranges with at least one request that has many values
    alive: list[int] = []
    replayed = replay(start[needed], stop[needed], value[needed], np.flatnonzero(many), *sorted_list(alive))
    counts[many] = [estimated(alive[keep - 1], keep) for _ in replayed]
    return counts


def most_frequent(series: Series, window: Window, most: int) -> tuple[Array, Array]:
    """Return the values in each request's window, most frequent first. Equally frequent values are sorted by value.

    Returns:
        The distinct values in sorted order, and the ranking of each window as indexes of these values, shape
        (requests, most). If a window has fewer values, its ranking ends with -1.
    """
    place, start, stop = window.covers(series)
    assert series.column is not None  # `top_k()` makes sure of this
    distinct, code = np.unique(series.column.values[place], return_inverse=True)
    ranking = _Ranking(hashes(Column(series.column.dtype, distinct)).tolist())
    out = np.full((len(window.low), most), -1, np.int64)
    for row in replay(start, stop, code, np.arange(len(out)), ranking.add, ranking.remove):
        first = ranking.first(most)
        if first:
            out[row, : len(first)] = first
    return distinct, out


class _Ranking:
    """The values in a window, sorted by falling frequency. A value is represented by a code.

    `_alive` is a sorted list with one number for each value: code - frequency * number of codes. Sorting by it gives
    the wanted order.
    """

    def __init__(self, hashed: list[int]) -> None:
        self._hashed = hashed
        self._width = max(1, len(hashed))
        self._counts: dict[int, int] = {}
        self._alive: list[int] = []
        self._put, self._take = sorted_list(self._alive)
        # True: a window may have more than `RANKED` values; then only those with the least hashes are counted
        self._bounded = len(hashed) > RANKED
        self._hashes: list[int] = []  # the hashes of the values in the window, sorted
        self._put_hash, self._take_hash = sorted_list(self._hashes)
        self._first: list[int] | None = None

    def add(self, code: int) -> None:
        self._count(code, 1)

    def remove(self, code: int) -> None:
        self._count(code, -1)

    def first(self, most: int) -> list[int]:
        """Return the codes of the most frequent values, at most `most` of them."""
        if self._first is None:
            if len(self._counts) <= RANKED:
                self._first = [key % self._width for key in self._alive[:most]]
            else:
                greatest, hashed = self._hashes[RANKED - 1], self._hashed
                ranked = (key % self._width for key in self._alive)
                kept = (code for code in ranked if hashed[code] <= greatest)
                self._first = [code for code, _ in zip(kept, range(most), strict=False)]
        return self._first

    def _count(self, code: int, more: int) -> None:
        before = self._counts.get(code, 0)
        after = before + more
        if before:
            self._take(code - before * self._width)
        elif self._bounded:
            self._put_hash(self._hashed[code])
        if after:
            self._counts[code] = after
            self._put(code - after * self._width)
        else:
            del self._counts[code]
            if self._bounded:
                self._take_hash(self._hashed[code])
        self._first = None


def _ranges(start: Array, stop: Array, value: Array) -> tuple[Array, Array, Array]:
    """For each value, merge the ranges of requests that overlap. Return disjoint ranges."""
    if len(start) == 0:
        return start, stop, value
    order = np.lexsort((start, value))
    start, stop, value = start[order], stop[order], value[order]
    new = np.concatenate([[True], value[1:] != value[:-1]])
    width = int(stop.max()) + 1
    # with this offset, a value's ranges end after those of earlier values, so the maximum is over one value's ranges
    offset = np.cumsum(new) * width
    reached = np.maximum.accumulate(stop + offset) - offset
    first = new.copy()
    first[1:] |= start[1:] > reached[:-1]
    begins = np.flatnonzero(first)
    ends = np.append(begins[1:], len(start)) - 1
    return start[begins], reached[ends], value[begins]
