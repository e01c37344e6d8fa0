"""The table of kernels: for each kind of aggregate, the function that computes it for many requests.

A kernel returns a value and a reason code for each request. Intermediate results are shared by the aggregates of a
view.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.features.aggregates import Aggregate, AggregateKind
from trimtab.features.frames import FAILED, REASONS
from trimtab.features.offline.kernels.decay import decayed
from trimtab.features.offline.kernels.distinct import distinct_counts, most_frequent
from trimtab.features.offline.kernels.formula_columns import hashes, variances
from trimtab.features.offline.kernels.orders import Orders
from trimtab.features.offline.kernels.windows import Series, Span, Window
from trimtab.features.offline.timeline import Timeline

Array = NDArray[Any]
Found: TypeAlias = tuple[Array, Array]  # values, and the codes of their reasons
_Made = TypeVar("_Made")

FOUND, NULL = REASONS.index("found"), REASONS.index("null")


class Shared:
    """Intermediate results that the aggregates of one view share. Each is computed once.

    This object must not refer to the objects that hold it, so that its large arrays are freed without the garbage
    collector.

    Args:
        event_at_us: The time of each event in the history, before events are sorted.
    """

    def __init__(self, aggregates: list[Aggregate], events: Timeline, event_at_us: Array) -> None:
        self.aggregates = aggregates
        self.events = events
        self._event_at_us = event_at_us
        self._made: dict[object, Any] = {}

    def event_at_us(self) -> Array:
        """The time of each event of the timeline."""
        return self._event_at_us[self.events.rows]

    def window(self, span: Span) -> Window:
        """Return the window of a span (length, hop and end)."""
        return self.once(span, lambda: Window(self.events, self._event_at_us[self._other_rows()], span))

    def _other_rows(self) -> Array:
        return self.once("other", lambda: self.events.rows[self.events.other])

    def once(self, key: object, make: Callable[[], _Made]) -> _Made:
        """Return the result of `make`, which is only called once for each key."""
        if key not in self._made:
            self._made[key] = make()
        made: _Made = self._made[key]
        return made


class Windowed(msgspec.Struct, frozen=True, eq=False):
    """One aggregate over one window, with everything that its kernel needs."""

    aggregate: Aggregate
    series: Series
    window: Window
    count: Array  # the number of values in each request's window
    codes: Array  # FOUND for each request with a value in its window, otherwise the code of the reason
    shared: Shared

    @property
    def key(self) -> tuple[str, Span]:
        """Return a key that is equal for aggregates of the same values over the same window."""
        return series_key(self.aggregate), span_of(self.aggregate)

    def without(self, missing: Array, code: int) -> Array:
        """Return the reason codes. Where `missing` is True, `code` replaces FOUND."""
        return np.where((self.codes == FOUND) & missing, np.uint8(code), self.codes)


def span_of(aggregate: Aggregate) -> Span:
    """Return the length, hop and end of an aggregate's window."""
    return aggregate.over_us, aggregate.hop_us, aggregate.until_us


def series_key(aggregate: Aggregate) -> str:
    """Return a key that is equal for aggregates of the same values."""
    return " ".join("" if e is None else e.hash for e in (aggregate.of, aggregate.where))


def _count(one: Windowed) -> Found:
    return one.count, one.codes


def _sum(one: Windowed) -> Found:
    total, overflows = one.window.total(one.series)
    return total, one.codes if overflows is None else one.without(overflows, FAILED)


def _mean(one: Windowed) -> Found:
    return one.window.rounded_total(one.series) / np.maximum(one.count, 1) + 0.0, one.codes


def _extreme(one: Windowed) -> Found:
    """Return the smallest or largest values in the windows.

    The first call for a series computes the extremes of all its windows, because they share doubling tables.
    """
    kind, (key, span) = one.aggregate.kind, one.key

    def make() -> dict[Span, Array]:
        alike = [a for a in one.shared.aggregates if a.kind == kind and series_key(a) == key]
        spans = list(dict.fromkeys(map(span_of, alike)))
        found = one.series.extremes(kind, [one.shared.window(span) for span in spans])
        return dict(zip(spans, found, strict=True))

    return one.shared.once((kind, key), make)[span], one.codes


def _variance(one: Windowed) -> Found:
    spread = variances(one.count, one.window.float_total(one.series), one.window.square_total(one.series))
    return spread, one.without(one.count < 2, NULL)


def _deviation(one: Windowed) -> Found:
    spread, codes = _variance(one)
    return np.sqrt(spread), codes


def _decayed(one: Windowed) -> tuple[Array, Array]:
    """Return the weighted sums, and the sums of the weights."""
    shared, half_life_us = one.shared, one.aggregate.half_life_us
    return shared.once(
        ("decayed", one.key, half_life_us),
        lambda: decayed(one.series, shared.events, shared.event_at_us(), span_of(one.aggregate), half_life_us),
    )


def _decayed_sum(one: Windowed) -> Found:
    return _decayed(one)[0], one.codes


def _decayed_mean(one: Windowed) -> Found:
    weighted, weight = _decayed(one)
    return weighted / np.where(weight > 0.0, weight, 1.0) + 0.0, one.codes


def _distinct(one: Windowed) -> Found:
    column = one.series.column
    assert column is not None  # `count_distinct()` makes sure of this
    hashed = one.shared.once(("hashes", one.key[0]), lambda: hashes(column))
    return distinct_counts(one.series, one.window, one.aggregate.keep, hashed), one.codes


def _first(one: Windowed) -> Found:
    return _taken(one, _orders(one).first())


def _last(one: Windowed) -> Found:
    return _taken(one, _orders(one).last(one.aggregate.place))


def _orders(one: Windowed) -> Orders:
    return one.shared.once(("orders", one.key), lambda: Orders(one.series, one.window, _places(one, "last")))


def _top(one: Windowed) -> Found:
    make = lambda: most_frequent(one.series, one.window, _places(one, "top"))  # noqa: E731
    values, ranked = one.shared.once(("top", one.key), make)
    return _taken(one, ranked[:, one.aggregate.place - 1], values)


def _places(one: Windowed, kind: AggregateKind) -> int:
    """Return the largest `place` of the view's aggregates of this kind with the same values and window."""
    alike = [a.place for a in one.shared.aggregates if a.kind == kind and (series_key(a), span_of(a)) == one.key]
    return max(alike, default=1)


def _taken(one: Windowed, places: Array, values: Array | None = None) -> Found:
    """Return the values at `places`, with null where a place is -1.

    Places are indexes into `values`, or by default into the values of the series.
    """
    column = one.series.column
    assert column is not None  # `first()` and similar functions make sure of this
    values = column.values if values is None else values
    there = places >= 0
    if len(values) == 0:
        found = np.full(len(places), None if column.dtype == "str" else 0, values.dtype)
    else:
        found = values[np.where(there, places, 0)]
    return found, one.without(~there, NULL)


KERNELS: dict[AggregateKind, Callable[[Windowed], Found]] = {
    "count": _count,
    "sum": _sum,
    "mean": _mean,
    "min": _extreme,
    "max": _extreme,
    "var": _variance,
    "std": _deviation,
    "first": _first,
    "last": _last,
    "count_distinct": _distinct,
    "top": _top,
    "decayed_sum": _decayed_sum,
    "decayed_mean": _decayed_mean,
}  # `latest` is missing here, because it has no window; `view_columns.py` computes it
