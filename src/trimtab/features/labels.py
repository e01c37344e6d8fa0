"""Find the labels of requests, and when each became known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, repeat
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.definitions import Label
from trimtab.features.offline.keys import match_keys

Array = NDArray[Any]
LabelState = Literal["labelled", "late", "pending", "missing", "unlisted"]
# late: known after the wait; pending: there is none, and the wait is not over; missing: there is none after the wait
LABEL_STATES: tuple[LabelState, ...] = ("labelled", "late", "pending", "missing", "unlisted")
LABELLED, LATE, PENDING, MISSING, UNLISTED = range(5)  # UNLISTED: the value is not one of the declared classes


class LabelFrame(msgspec.Struct, frozen=True, eq=False):
    """The labels of requests: one row for each request, in order."""

    values: Array  # float64: the label, for classes its index in the declared list; NaN: there is none
    state: Array  # uint8: index into `LABEL_STATES`
    known_at_us: Array  # int64: when the label became known, even if it is unlisted; `NEVER_US`: there is no label


def values_of_events(label: Label, columns: Columns, rows: Array | slice = slice(None)) -> Column:
    """Return the value of the label in some events of its source, before it is numbered by class."""
    names = sorted(label.value.columns()) or [label.key]
    return evaluate_columns(label.value, columns.select(names).take(rows), "label")


def positives(label: Label, columns: Columns) -> Column:
    """Return whether the label of each event is positive (null: it has none); perhaps it is a column already."""
    if outcome_column(label) in columns:
        return columns[outcome_column(label)]
    found = values_of_events(label, columns)
    return Column("bool", found.values == 1, found.present())


def outcome_column(label: Label) -> str:
    """Return the name of the column of events that says whether a label is positive."""
    return f"label {label.hash}"


def find_labels(label: Label, frame: EventFrame, keys: Column, at_us: Array, cut_us: int | Array) -> LabelFrame:
    """Find the labels of requests in one history. It is quicker than a new `LabelIndex`; see its method `join`."""
    of_events, of_requests, count = match_keys([frame.columns[label.key]], [keys])
    index = LabelIndex(label, keys=count)
    index.add(frame, of_events)
    return index.join_numbered(of_requests, at_us, cut_us)


class LabelIndex:
    """Finds labels of requests by their keys, in a history that grows.

    Args:
        label: The declaration of the label: its source, and how long to wait for it.
        keys: For how many keys the caller has numbers, if `add` and `join_numbered` are called without `numbers`.
    """

    def __init__(self, label: Label, *, keys: int = 0) -> None:
        self.label = label
        self._places = {value: float(place) for place, value in enumerate(label.classes)}
        self._frame: EventFrame | None = None
        self._number_of: dict[Any, int] = {None: -1}  # a number for each key
        self._newest: Array = np.full(keys + 1, -1)  # the newest row of the key with each number; -1: there is none
        # for each row, the previous row with the same key; -1: there is none
        self._previous: Array = np.zeros(0, np.int64)
        self._rows = 0

    def update(self, frame: EventFrame) -> None:
        """Use a new history of the label's source. If it continues the previous one, this is fast.

        Raises:
            Misuse: The history belongs to another source.
        """
        if frame is self._frame:
            return
        if self._frame is not None and not _continues(frame, self._frame):
            self._newest[:] = -1
            self._rows = 0
        numbers = self.numbers(frame.columns[self.label.key].take(slice(self._rows, None)).to_list())
        self.add(frame, numbers)

    def add(self, frame: EventFrame, numbers: Array) -> None:
        """Use a history that has further rows, with the number of each new row's key; -1: it has none."""
        if frame.source != self.label.source.name:
            raise Misuse(f"labels: needs the events of {self.label.source.name!r}; these are of {frame.source!r}.")
        start = self._rows
        previous = self._newest[numbers]
        order = np.argsort(numbers, kind="stable")  # by key: link each new row to the previous one
        again = np.flatnonzero(numbers[order[1:]] == numbers[order[:-1]])
        previous[order[again + 1]] = order[again] + start
        previous[numbers < 0] = -1
        self._newest[numbers] = np.arange(start, frame.rows)
        self._newest[-1] = -1  # of the key None
        if self._rows + len(previous) > len(self._previous):
            self._previous = np.resize(self._previous, 2 * frame.rows)
        self._previous[start : frame.rows] = previous
        self._rows = frame.rows
        self._frame = frame

    def numbers(self, keys: Sequence[Any]) -> Array:
        """Return a number for each key, for `join_numbered`. It never changes."""
        known = self._number_of
        new = [key for key in dict.fromkeys(keys) if key not in known]
        known.update(zip(new, count(len(known) - 1), strict=False))
        if len(known) > len(self._newest):  # the last place stays free, for the number -1
            self._newest = np.append(self._newest, np.full(len(known), -1))
        return np.fromiter(map(known.__getitem__, keys), np.int64, len(keys))

    def join(self, keys: Sequence[Any] | Array, at_us: Array, cut_us: int | Array) -> LabelFrame:
        """Return the labels of requests as far as they were known at the time `cut_us`.

        The label of a request is the value of the last event with its key that is not earlier than the request, was
        known at `cut_us`, and was not deleted or corrected by then. If this event has no value, there is no label.

        With `dated_by_request` (the source has one event for each key, with the request's time as event time), the
        event may also be earlier than the request. But it may not if the key already had an earlier event that was
        known at the time of the request.  # D206

        Args:
            keys: The key of each request. A request whose key is None has no label.
            at_us: The time of each request, int64.
            cut_us: One time for all requests, or one for each. Labels that became known later do not count.
        """
        numbers = np.fromiter(map(self._number_of.get, keys, repeat(-1)), np.int64, len(at_us))
        return self.join_numbered(numbers, at_us, cut_us)

    def join_numbered(self, numbers: Array, at_us: Array, cut_us: int | Array) -> LabelFrame:
        """Like `join`, with the numbers of the keys, which are quicker to look up."""
        at_us = np.asarray(at_us, np.int64)
        cut_us = np.broadcast_to(np.asarray(cut_us, np.int64), at_us.shape)
        best = self._best(self._newest[numbers], at_us, cut_us)
        values = np.full(len(numbers), np.nan)
        known_at = np.full(len(numbers), NEVER_US)
        there = np.flatnonzero(best >= 0)
        if self._frame is not None and len(there):
            found = values_of_events(self.label, self._frame.columns, best[there])
            given = found.present()
            there = there[given]
            values[there] = self._numbers(found.values[given])
            known_at[there] = self._frame.known_at_us[best[there]]
        states = self._states(at_us, known_at, cut_us)
        if self._places:
            states[there] = np.where(np.isnan(values[there]), UNLISTED, states[there])
        return LabelFrame(values, states, known_at)

    def _numbers(self, values: Array) -> Array:
        """Return labels as numbers. A class that is not declared becomes NaN."""
        if not self._places:
            return values.astype(np.float64)
        return np.fromiter(map(self._places.get, values.tolist(), repeat(np.nan)), np.float64, len(values))

    def _states(self, at_us: Array, known_at_us: Array, cut_us: Array) -> Array:
        due = self.label.final_at(at_us)
        unlabelled = np.where(cut_us < due, PENDING, MISSING)
        labelled = np.where(known_at_us <= due, LABELLED, LATE)
        state: Array = np.where(known_at_us == NEVER_US, unlabelled, labelled).astype(np.uint8)
        return state

    def _best(self, row: Array, at_us: Array, cut_us: Array) -> Array:
        """Return for each request the row of the last event that may be its label (see `join`); -1: there is none.

        `row` has for each request the newest row with the request's key; -1: there is none.
        """
        best = np.full(len(row), -1, np.int64)
        frame = self._frame
        if frame is None:
            return best
        wanted = np.flatnonzero(row >= 0)
        row = row[wanted]
        before = np.zeros(len(best), np.bool_)  # whether an event with an earlier event time was known at `at_us`
        while len(wanted):  # the number of rounds is the largest number of events of a key
            at, cut = at_us[wanted], cut_us[wanted]
            dated = frame.event_at_us[row] >= at
            if self.label.dated_by_request:
                known = frame.known_at_us[row] <= at
                before[wanted[known & ~dated]] = True
                dated |= ~known
            counts = dated & ~frame.deleted[row]
            counts &= (frame.known_at_us[row] <= cut) & (frame.superseded_at_us[row] > cut)
            hits, of = row[counts], wanted[counts]
            better = best[of] < 0
            found_twice = np.flatnonzero(~better)
            better[found_twice] = _greater(frame, hits[found_twice], best[of[found_twice]])
            best[of[better]] = hits[better]
            row = self._previous[row]
            more = row >= 0
            wanted, row = wanted[more], row[more]
        # an event that is earlier than its request does not count if `before` is true for the request
        known_before = np.flatnonzero(before & (best >= 0))
        best[known_before[frame.event_at_us[best[known_before]] < at_us[known_before]]] = -1
        return best


def _continues(frame: EventFrame, before: EventFrame) -> bool:
    """Return whether a history begins with all rows of an earlier one."""
    rows = before.rows
    if frame.rows < rows or not np.array_equal(frame.position[:rows], before.position):
        return False
    if frame.partitions == before.partitions:
        return np.array_equal(frame.partition[:rows], before.partition)
    names, names_before = np.array(frame.partitions, object), np.array(before.partitions, object)
    return bool((names[frame.partition[:rows]] == names_before[before.partition]).all())


def _greater(frame: EventFrame, one: Array, other: Array) -> Array:
    """Return a boolean array: whether event `one` comes after event `other`."""
    greater = np.zeros(len(one), bool)
    for field in (frame.position, frame.partition, frame.known_at_us, frame.event_at_us):
        a, b = field[one], field[other]
        greater = (a > b) | ((a == b) & greater)
    return greater
