"""Time windows: which events are in the window of each request, and sums and extremes over them.

Sums are differences of prefix sums, and extremes come from doubling tables (see `ranges.py`). Both need orderly events:
those that became known in the order in which they happened (see `timeline.py`). The few other events are added one by
one to the requests that see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.events.columns.frames import NEVER_US
from trimtab.features.offline.kernels.exact_columns import ExactSums, Limbs
from trimtab.features.offline.kernels.ranges import over_covers, over_ranges
from trimtab.features.offline.timeline import Timeline, leaves_us, starts_us

Array = NDArray[Any]
# length (None: no limit), hop (step), and end (how long before the request the window ends)
Span: TypeAlias = tuple[int | None, int, int]


class Series:
    """The values that the events of a timeline give to an aggregate.

    Args:
        column: The value of each event; None if events are counted.
        mask: True for events that may count; None: all events.
        orderly: The orderly events, as indexes into the timeline.
        other: All other events, as indexes into the timeline.
    """

    def __init__(self, column: Column | None, mask: Array | None, orderly: Array | slice, other: Array) -> None:
        self.column = column
        self.orderly = orderly
        self.other = other
        valid = None if column is None else column.valid
        self.is_float = column is not None and column.dtype == "float"
        # True for events that give a value; None: all events
        self.gives = mask if valid is None else valid if mask is None else valid & mask

    @cached_property
    def counts(self) -> ExactSums:
        """1 for each event with a value, in a form that can be summed over windows."""
        assert self.gives is not None  # otherwise `Window.rows` is the number
        return ExactSums(self.gives, "bool")

    @cached_property
    def sums(self) -> ExactSums:
        """The values in a form that can be summed over windows."""
        assert self.column is not None  # `sum()` and `mean()` make sure of this
        values = self.column.values
        return ExactSums(values if self.gives is None else np.where(self.gives, values, 0), self.column.dtype)

    @cached_property
    def floats(self) -> Array:
        """The values as float64, with 0 for events without a value."""
        assert self.column is not None  # `var()` and similar functions make sure of this
        values = self.column.values.astype(np.float64, copy=False)
        return values if self.gives is None else np.where(self.gives, values, 0.0)

    @cached_property
    def float_sums(self) -> ExactSums:
        """The values as floats, in a form that can be summed over windows."""
        return self.sums if self.is_float else ExactSums(self.floats, "float")

    @cached_property
    def square_sums(self) -> ExactSums:
        """The squares of the values, each rounded to a float, in a form that can be summed over windows."""
        return ExactSums(self.floats * self.floats, "float")

    @cached_property
    def prefix_floats(self) -> Limbs:
        """Prefix sums of `float_sums` over the orderly events."""
        return self.prefix_sums if self.is_float else self.float_sums.prefix(self.orderly)

    @cached_property
    def prefix_squares(self) -> Limbs:
        """Prefix sums of `square_sums` over the orderly events."""
        return self.square_sums.prefix(self.orderly)

    @cached_property
    def prefix_counts(self) -> Limbs:
        """Prefix sums of `counts` over the orderly events."""
        return self.counts.prefix(self.orderly)

    @cached_property
    def prefix_sums(self) -> Limbs:
        """Prefix sums of `sums` over the orderly events."""
        return self.sums.prefix(self.orderly)

    def extremes(self, kind: str, windows: Sequence[Window]) -> list[Array]:
        """Return the smallest ("min") or largest ("max") values in each of several windows.

        The result is arbitrary if a window has no value.
        """
        assert self.column is not None  # `min()` and `max()` make sure of this
        op = np.minimum if kind == "min" else np.maximum
        values = self.column.values.astype(np.int8) if self.column.dtype == "bool" else self.column.values
        limits: Any = np.finfo(np.float64) if self.column.dtype == "float" else np.iinfo(values.dtype)
        empty = values.dtype.type(limits.max if kind == "min" else limits.min)
        if self.gives is not None:
            values = np.where(self.gives, values, empty)
        low, high = (np.concatenate([getattr(w, side) for w in windows]) for side in ("low", "high"))
        found = np.split(over_ranges(op, values[self.orderly], low, high, empty), len(windows))
        if len(self.other) == 0:
            return found
        return [op(f, w.cover_extreme(op, values[self.other], empty)) for f, w in zip(found, windows, strict=True)]


class Window:
    """A window of one length, hop and end, for all requests.

    Args:
        events: The timeline: events and requests, sorted by entity and time.
        other_at_us: The times of the events that are not orderly.
        span: The length, hop and end of the window.
    """

    def __init__(self, events: Timeline, other_at_us: Array, span: Span) -> None:
        requests = events.requests
        over_us, hop_us, until_us = span
        self.events = events
        self.span = span
        # each request has the orderly events from `low` to before `high`, and each other event is seen by the requests
        # from `_start` to before `_stop`
        self.low = events.first if over_us is None else events.since(starts_us(requests.at_us, over_us, hop_us))
        high = events.entered
        self._start = events.other_from
        if until_us:
            high = np.minimum(high, events.since(starts_us(requests.at_us, until_us, hop_us)))
            self._start = events.from_(leaves_us(other_at_us, until_us, hop_us))
        self.high = np.maximum(high, self.low)
        leaves = NEVER_US if over_us is None else leaves_us(other_at_us, over_us, hop_us)
        self._stop = np.maximum(events.until(leaves), self._start)
        self._size = len(requests.rows)
        self._counts: dict[int, Array] = {}
        self._sums: dict[int, Array] = {}

    @cached_property
    def rows(self) -> Array:
        """Return the number of events in each request's window."""
        return self.high - self.low + self._cover_sum(np.ones(len(self._start), np.int64))

    def count(self, series: Series) -> Array:
        """Return the number of events in each request's window that give a value."""
        if series.gives is None:
            return self.rows
        if id(series) not in self._counts:
            totals = self._totals(series.prefix_counts, series.counts.limbs(series.other))
            self._counts[id(series)] = series.counts.rounded(totals)
        return self._counts[id(series)]

    def total(self, series: Series) -> tuple[Array, Array | None]:
        """Return the exact sum of the values in each request's window, and which sums have failed (None: none has).

        A sum of integers has failed if it does not fit in 64 bits.
        """
        if series.is_float:
            return self.rounded_total(series), None
        totals = self._totals(series.prefix_sums, series.sums.limbs(series.other))
        return series.sums.rounded(totals), series.sums.overflows(totals)

    def rounded_total(self, series: Series) -> Array:
        """Return the exact sum in each window, rounded once to a float, even if it exceeds 64 bits."""
        return self._sum(series, series.sums, lambda: series.prefix_sums)

    def float_total(self, series: Series) -> Array:
        """Return the exact sum of the values as floats, rounded once."""
        return self._sum(series, series.float_sums, lambda: series.prefix_floats)

    def square_total(self, series: Series) -> Array:
        """Return the exact sum of the squares, rounded once."""
        return self._sum(series, series.square_sums, lambda: series.prefix_squares)

    def cover_extreme(self, op: np.ufunc, values: Array, empty: Any) -> Array:
        """Return the smallest or largest value among the events that are not orderly, for each request's window.

        `values` has one value for each of these events.
        """
        return over_covers(op, self._start, self._stop, values, self._size, empty)

    def others(self) -> tuple[Array, Array, Array]:
        """Return the events that are not orderly and are in some window, with the range of requests that see each.

        The three arrays are: the event's index in the timeline, the first request that sees the event, and the first
        later request that does not.
        """
        seen = self._start < self._stop
        return self.events.other[seen], self._start[seen], self._stop[seen]

    def covers(self, series: Series) -> tuple[Array, Array, Array]:
        """Return all events that give a value and are in some window, with the range of requests that see each.

        The arrays are as in `others`, but include orderly events.
        """
        events = len(self.events.event_place)
        start, stop = (_first_request_after(edge, events) for edge in (self.high, self.low))
        orderly = np.arange(events) if isinstance(self.events.orderly, slice) else self.events.orderly
        others = self.others()
        place = np.concatenate([orderly, others[0]])
        start, stop = np.concatenate([start, others[1]]), np.concatenate([stop, others[2]])
        seen = start < stop
        if series.gives is not None:
            seen &= series.gives[place]
        return place[seen], start[seen], stop[seen]

    def _sum(self, series: Series, sums: ExactSums, prefix: Callable[[], Limbs]) -> Array:
        if id(sums) not in self._sums:
            self._sums[id(sums)] = sums.floats(self._totals(prefix(), sums.limbs(series.other)))
        return self._sums[id(sums)]

    def _totals(self, prefix: Limbs, others: Limbs) -> Limbs:
        return [p[self.high] - p[self.low] + self._cover_sum(o) for p, o in zip(prefix, others, strict=True)]

    def _cover_sum(self, values: Array) -> Array | int:
        """Return for each request the sum of values of the events in its window that are not orderly."""
        if len(values) == 0:
            return 0
        steps = np.zeros(self._size + 1, np.int64)
        np.add.at(steps, self._start, values)
        np.subtract.at(steps, self._stop, values)
        return np.cumsum(steps[:-1])


def _first_request_after(edge: Array, events: int) -> Array:
    """Return for each event the first request whose window begins (or ends, if `edge` is its end) after the event.

    This is how many requests have `edge` at or before the event, because the edge never moves back from one request to
    the next.
    """
    out: Array = np.cumsum(np.bincount(edge, minlength=events + 1))[:events]
    return out
