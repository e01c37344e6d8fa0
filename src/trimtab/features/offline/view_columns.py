"""Compute the features of one view for many requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.core.expressions.by_columns import evaluate_marked
from trimtab.core.expressions.nodes import Expression
from trimtab.events.columns.frame_index import Entities
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import View
from trimtab.features.frames import FAILED, REASONS
from trimtab.features.offline.kernels.ranges import over_covers
from trimtab.features.offline.kernels.table import KERNELS, Shared, Windowed, series_key, span_of
from trimtab.features.offline.kernels.windows import Series, Window
from trimtab.features.offline.keys import match_keys
from trimtab.features.offline.timeline import Timeline, timeline

Array = NDArray[Any]

FOUND, NO_ENTITY, NOT_YET, OUTSIDE, EXPIRED, NULL = (
    REASONS.index(reason) for reason in ("found", "no_entity", "not_yet", "outside_window", "expired", "null")
)

_MANY = 1_000_000  # for so many requests, two threads gather values of events

_MISSING: dict[Dtype, Any] = {"float": np.nan, "str": None}  # stands for null in arrays; 0 for other types


def evaluate_view(
    view: View, keys: Sequence[Column], at_us: Array, frame: EventFrame
) -> dict[str, tuple[Column, Array]]:
    """Return the value and the reason code of each feature, for the entity in each row of `keys`.

    Each row is computed as of its time in `at_us`.
    """
    near = _near(view, at_us, frame)
    enters = _enters(view, frame, near)
    if frame.index is not None and (len(keys) > 1 or keys[0].dtype == "str"):
        known = frame.index.entities(frame, view.by)
        of_events, of_requests, entities, entity_codes = _match_known(view, known, keys, at_us, near)
    else:
        of_events, of_requests, entities = match_keys([frame.columns[name].take(near) for name in view.by], keys)
        entity_codes = _entity_codes(of_events, enters, frame, near, of_requests, at_us, entities)
        # an entity without events near the requests may still have earlier or later ones, which change the reason
        if not isinstance(near, slice):
            rest = np.flatnonzero(entity_codes != FOUND)
            entity_codes[rest] = _entity_codes_at_all(view, [key.take(rest) for key in keys], at_us[rest], frame)
    found = np.flatnonzero(entity_codes == FOUND)
    if len(found) == 0:
        nothing = _Scatter(entity_codes, found)
        return {n: nothing.column(a.dtype(view.source.columns), None, a.traits.zero) for n, a in view.features.items()}
    live = (of_events >= 0) & ~frame.deleted[near] & (enters < frame.superseded_at_us[near])
    live &= enters <= at_us.max()
    chosen = np.flatnonzero(live)
    rows = chosen if isinstance(near, slice) else near[chosen]
    requests = (found, of_requests[found], at_us[found])
    events = timeline(frame, rows, of_events[chosen], enters[chosen], requests, entities)
    return _Answers(view, frame, events, at_us, entity_codes).all()


def _enters(view: View, frame: EventFrame, rows: Array | slice) -> Array:
    """Return the time from which each event counts: when it has both happened and become known."""
    enters: Array = np.maximum(frame.event_at_us[rows] + (view.boundary == "before"), frame.known_at_us[rows])
    return enters


def _near(view: View, at_us: Array, frame: EventFrame) -> Array | slice:
    """Return the rows of events that can affect a request, or all rows if these are at least half of them."""
    start = _earliest(view, int(at_us.min(initial=NEVER_US)))
    if start is None or len(at_us) == 0:
        return slice(None)
    last = at_us.max()
    rows = slice(0, frame.rows) if frame.index is None else frame.index.around(frame, start, int(last))
    event_at = frame.event_at_us[rows]
    near = np.flatnonzero((event_at >= start) & (event_at <= last) & (frame.known_at_us[rows] <= last))
    return near + rows.start if 2 * len(near) < frame.rows else slice(None)


def _earliest(view: View, at_us: int) -> int | None:
    """Return a time before which no event affects requests from `at_us` on; None: there is no such time."""
    starts = []
    for aggregate in view.features.values():
        if aggregate.window_us is None:
            return None
        hop = aggregate.hop_us or 1
        starts.append((at_us - aggregate.window_us) // hop * hop)
    return max(min(starts), -(2**63))


def _match_known(
    view: View, known: Entities, keys: Sequence[Column], at_us: Array, near: Array | slice
) -> tuple[Array, Array, int, Array]:
    """Give an index to each entity that has an event which counts for a request.

    Return what `match_keys` would return for these entities, and what `_entity_codes` returns.
    """
    numbers = known.of(keys)
    entity_codes = np.full(len(at_us), NO_ENTITY, np.uint8)
    entity_codes[at_us >= known.known_us[numbers]] = NOT_YET
    entity_codes[at_us >= known.enters_us[view.boundary == "inclusive"][numbers]] = FOUND
    found = np.zeros(known.count + 1, bool)
    found[numbers[entity_codes == FOUND]] = True
    places = np.full(known.count + 1, -1)
    places[found] = np.arange(np.count_nonzero(found))
    return places[known.of_rows[near]], places[numbers], int(found.sum()), entity_codes


def _entity_codes_at_all(view: View, keys: Sequence[Column], at_us: Array, frame: EventFrame) -> Array:
    if len(at_us) == 0:
        return np.zeros(0, np.uint8)
    of_events, of_requests, entities = match_keys([frame.columns[name] for name in view.by], keys)
    rows = slice(None)
    return _entity_codes(of_events, _enters(view, frame, rows), frame, rows, of_requests, at_us, entities)


def _entity_codes(
    of_events: Array,
    enters: Array,
    frame: EventFrame,
    rows: Array | slice,
    of_requests: Array,
    at_us: Array,
    entities: int,
) -> Array:
    """Return for each request FOUND, or the reason why it cannot have any value.

    NO_ENTITY: at its time, no event of its entity was known. NOT_YET: some were known, but none of them counted yet.
    Deletions do not count as events. # D4
    """
    of_events = np.where(frame.deleted[rows], -1, of_events)
    out = np.full(len(at_us), NO_ENTITY, np.uint8)
    out[_began(of_events, enters, of_requests, at_us, entities)] = FOUND
    if (out != FOUND).any():
        out[_began(of_events, frame.known_at_us[rows], of_requests, at_us, entities) & (out != FOUND)] = NOT_YET
    return out


def _began(of_events: Array, times_us: Array, of_requests: Array, at_us: Array, entities: int) -> Array:
    """Return a boolean array: which requests are at or after the earliest of their entity's `times_us`."""
    first = np.full(entities + 1, NEVER_US)  # the last element is for the index -1, which means no entity
    np.minimum.at(first, of_events, times_us)
    first[-1] = NEVER_US
    began: Array = at_us >= first.take(of_requests)
    return began


class _Scatter:
    """Makes the results of all requests from those of the requests whose entity has an event that counts.

    The other requests get null or 0, and a reason.
    """

    def __init__(self, entity_codes: Array, rows: Array) -> None:
        self.entity_codes = entity_codes
        self.rows = rows
        self._reasons: dict[int, tuple[Array, Array, Array]] = {}

    def column(self, dtype: Dtype, answer: tuple[Array, Array] | None, zero: bool) -> tuple[Column, Array]:
        """Return a feature's column and reason codes for all requests.

        With `zero`, a value that is neither found nor failed becomes 0 instead of null.
        """
        kind = {"float": np.float64, "bool": np.bool_, "str": np.object_}.get(dtype, np.int64)
        missing: Any = 0 if zero else _MISSING.get(dtype, 0)
        values: Array = np.full(len(self.entity_codes), missing, kind)
        if answer is None:
            valid = np.zeros(len(values), bool)
            return Column(dtype, values, None if zero or len(values) == 0 else valid), self.entity_codes
        found, codes = answer
        reasons, valid = self._for_all(codes)
        if zero and not (codes == FAILED).any():
            values[self.rows] = found
            return Column(dtype, values), reasons
        values[self.rows] = np.where(codes == FAILED if zero else codes != FOUND, missing, found)
        if zero:
            valid = reasons != FAILED
        return Column(dtype, values, None if valid.all() else valid), reasons

    def _for_all(self, codes: Array) -> tuple[Array, Array]:
        """Return the reasons of all requests, and which values are found.

        Several aggregates may have the same array of codes, so the result for each array is kept.
        """
        if id(codes) not in self._reasons:
            reasons = self.entity_codes.copy()
            reasons[self.rows] = codes
            # keep `codes` alive, so that no other array can get the same id
            self._reasons[id(codes)] = (codes, reasons, reasons == FOUND)
        return self._reasons[id(codes)][1:]


class _Answers:
    """The evaluation of one view, with the intermediate results that its aggregates share."""

    def __init__(self, view: View, frame: EventFrame, events: Timeline, at_us: Array, entity_codes: Array) -> None:
        self.view = view
        self.frame = frame
        self.events = events
        self.at_us = at_us
        self.entity_codes = entity_codes
        self._newest_by_age: dict[int | None, tuple[Array, Array, Array]] = {}
        self._columns: dict[str, Column] = {}
        self._series: dict[str, Series] = {}
        aggregates = list(view.features.values())
        self._shared = Shared(aggregates, events, frame.event_at_us)

    def all(self) -> dict[str, tuple[Column, Array]]:
        """Return the column and the reason codes of each feature, for all requests in order."""
        scatter = _Scatter(self.entity_codes, self.events.requests.rows)
        whats = {name: f"view {self.view.name!r}, feature {name!r}" for name in self.view.features}
        latest = {name: one for name, one in self.view.features.items() if one.kind == "latest"}
        answers = {}
        for name, aggregate in self.view.features.items():
            if name in latest:
                self._newest(aggregate.max_age_us)  # once, before threads need it
            else:
                dtype, found = aggregate.dtype(self.view.source.columns), self._windowed(aggregate, whats[name])
                answers[name] = scatter.column(dtype, found, aggregate.traits.zero)
        with ThreadPoolExecutor(2) as pool:
            each = map if len(self.at_us) < _MANY else pool.map
            answers |= zip(latest, each(self._latest, latest.values(), [whats[name] for name in latest]), strict=True)
        return answers

    def _latest(self, aggregate: Aggregate, what: str) -> tuple[Column, Array]:
        assert aggregate.of is not None  # `latest()` makes sure of this
        there, rows, reasons = self._newest(aggregate.max_age_us)
        names = sorted(aggregate.of.columns()) or [self.view.by[0]]
        columns = self.frame.columns.select(names).take(rows)
        found, failed = columns[names[0]], None
        if aggregate.of.op != "col":  # the values of events need no checks
            found, failed, _ = evaluate_marked(aggregate.of, columns, what, there)
        if found.valid is not None:
            nulls = np.flatnonzero(there & ~found.valid)
            reasons = reasons.copy()
            reasons[nulls] = NULL if failed is None else np.where(failed[nulls], FAILED, NULL)
        if there.all():
            return found, reasons
        # the array may be changed, because `take` or `evaluate_marked` has just made it
        found.values[~there] = _MISSING.get(found.dtype, 0)
        return Column(found.dtype, found.values, reasons == FOUND), reasons

    def _newest(self, max_age_us: int | None) -> tuple[Array, Array, Array]:
        """Find the newest event of each request's entity that is at most `max_age_us` old.

        Return which requests have such an event, the row of this event in the history (any row, if there is none), and
        the reasons of all requests.
        """
        if max_age_us not in self._newest_by_age:
            newest = np.full(len(self.entity_codes), -1, np.int64)
            newest[self.events.requests.rows] = np.append(self.events.rows, -1)[self._newest_place]
            there = newest >= 0
            if max_age_us is not None:
                there &= self.at_us - self.frame.event_at_us[newest] <= max_age_us
            reasons = self.entity_codes.copy()
            reasons[(reasons == FOUND) & ~there] = EXPIRED
            self._newest_by_age[max_age_us] = there, newest, reasons
        return self._newest_by_age[max_age_us]

    @cached_property
    def _newest_place(self) -> Array:
        """Return the index of the newest event of each request's entity among the sorted events; -1: there is none."""
        events = self.events
        last = np.where(events.entered > events.first, events.entered - 1, -1)
        if isinstance(events.orderly, slice):
            return last
        until = events.until(NEVER_US)
        others = over_covers(np.maximum, events.other_from, until, events.other, len(last), np.int64(-1))
        latest: Array = np.maximum(np.append(events.orderly, -1)[last], others)
        return latest

    def _windowed(self, aggregate: Aggregate, what: str) -> tuple[Array, Array]:
        series, window = self._series_of(aggregate, what), self._shared.window(span_of(aggregate))
        count = window.count(series)
        codes = self._codes_of(aggregate, window, count)
        return KERNELS[aggregate.kind](Windowed(aggregate, series, window, count, codes, self._shared))

    def _codes_of(self, aggregate: Aggregate, window: Window, count: Array) -> Array:
        def make() -> Array:
            nothing = np.where(window.rows > 0, np.uint8(NULL), np.uint8(OUTSIDE))
            return np.where(count > 0, np.uint8(FOUND), nothing)

        return self._shared.once(("codes", series_key(aggregate), span_of(aggregate)), make)

    def _series_of(self, aggregate: Aggregate, what: str) -> Series:
        key = series_key(aggregate)
        if key not in self._series:
            mask = None
            if aggregate.where is not None:
                condition = self._evaluated(aggregate.where, what, None)
                mask = condition.values & condition.present()
            column = None if aggregate.of is None else self._evaluated(aggregate.of, what, mask)
            self._series[key] = Series(column, mask, self.events.orderly, self.events.other)
        return self._series[key]

    def _evaluated(self, expression: Expression, what: str, needed: Array | None) -> Column:
        names = sorted(expression.columns()) or [self.view.by[0]]
        for name in names:
            if name not in self._columns:
                self._columns[name] = self.frame.columns[name].take(self.events.rows)
        return evaluate_marked(expression, Columns({n: self._columns[n] for n in names}), what, needed).column
