"""Labels of requests, and the times at which they became known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.features.definitions import Label

Array = NDArray[Any]
LabelRequests: TypeAlias = "tuple[Column, Array, Array]"  # keys, times and cuts of some requests
LabelState = Literal["labelled", "late", "pending", "missing", "unlisted"]
LABEL_STATES: tuple[LabelState, ...] = ("labelled", "late", "pending", "missing", "unlisted")  # indexed by code
LABELLED, LATE, PENDING, MISSING, UNLISTED = range(5)  # unlisted: the value is not one of the label's classes


class LabelFrame(msgspec.Struct, frozen=True, eq=False):
    """The labels of requests, with one row for each request, in their order."""

    values: Array  # float64, NaN where there is no label; for classes the index in the declared list
    state: Array  # uint8: the index into `LABEL_STATES`
    known_at_us: Array  # int64: when the label became known, even if it is unlisted; `NEVER_US` where there is no label


class LabelIndex:
    """Finds the labels of requests by their keys, in a history that grows.

    Args:
        label: The source of the labels, and how long to wait for them.
    """

    def __init__(self, label: Label) -> None:
        self.label = label
        self._places = {value: float(place) for place, value in enumerate(label.classes)}
        self._frame: EventFrame | None = None
        self._last: dict[Any, int] = {}  # the last row of each key
        # For each row the preceding row of the same key, or -1 if there is none.
        self._previous: Array = np.zeros(0, np.int64)
        self._rows = 0

    def update(self, frame: EventFrame) -> None:
        """Use a new history of the label's source. This is fast if the history continues the last one.

        Raises:
            Misuse: The history is that of another source.
        """
        if frame.source != self.label.source.name:
            raise Misuse(f"labels: needs the events of {self.label.source.name!r}; these are of {frame.source!r}.")
        if self._frame is not None and not _continues(frame, self._frame):
            self._last = {}
            self._rows = 0
        start = self._rows
        keys = frame.columns[self.label.key].take(slice(start, None))
        previous = np.full(frame.rows - start, -1, np.int64)
        last = self._last
        for row, key in enumerate(keys.to_list(), start):
            if key is not None:
                before = last.get(key)
                if before is not None:
                    previous[row - start] = before
                last[key] = row
        if self._rows + len(previous) > len(self._previous):
            self._previous = np.resize(self._previous, 2 * frame.rows)
        self._previous[start : frame.rows] = previous
        self._rows = frame.rows
        self._frame = frame

    def join(self, keys: Sequence[Any] | Array, at_us: Array, cut_us: int | Array) -> LabelFrame:
        """Return the labels of requests as they were known at `cut_us`.

        The label of a request is the greatest event of its key that is dated at or after the request, was known at the
        cut, and had neither been deleted nor corrected by then. A label without a value counts as no label.

        Args:
            keys: The keys of the requests. A key of None has no label.
            at_us: The times of the requests, int64.
            cut_us: Labels that became known later do not count. One time for all requests, or one for each.
        """
        at_us = np.asarray(at_us, np.int64)
        cut_us = np.broadcast_to(np.asarray(cut_us, np.int64), at_us.shape)
        wanted = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
        if len(wanted) != len(at_us):
            raise Misuse(f"labels: {len(wanted)} keys, but {len(at_us)} times. Give one of each a request.")
        row = np.fromiter(map(self._last.get, wanted, repeat(-1)), np.int64, len(wanted))
        best = self._best(row, at_us, cut_us)
        values = np.full(len(wanted), np.nan)
        known_at = np.full(len(wanted), NEVER_US)
        there = np.flatnonzero(best >= 0)
        if self._frame is not None and len(there):
            names = sorted(self.label.value.columns()) or [self.label.key]
            labels = self._frame.columns.select(names).take(best[there])
            found = evaluate_columns(self.label.value, labels, "label")
            given = found.present()
            there = there[given]
            values[there] = self._numbers(found.values[given])
            known_at[there] = self._frame.known_at_us[best[there]]
        states = self._states(at_us, known_at, cut_us)
        if self._places:
            states[there] = np.where(np.isnan(values[there]), UNLISTED, states[there])
        return LabelFrame(values, states, known_at)

    def _numbers(self, values: Array) -> Array:
        """Return labels as numbers, with NaN for a class that is not declared."""
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
        """For each request, find the row of the greatest event that counts, starting from the last event of its key.

        The row is -1 if there is no such event.
        """
        best = np.full(len(row), -1, np.int64)
        frame = self._frame
        if frame is None:
            return best
        wanted = np.flatnonzero(row >= 0)
        row = row[wanted]
        while len(wanted):  # as many passes as the key with the most events has events
            counts = (frame.event_at_us[row] >= at_us[wanted]) & ~frame.deleted[row]
            cut = cut_us[wanted]
            counts &= (frame.known_at_us[row] <= cut) & (frame.superseded_at_us[row] > cut)
            hits, of = row[counts], wanted[counts]
            better = (best[of] < 0) | _greater(frame, hits, best[of])
            best[of[better]] = hits[better]
            row = self._previous[row]
            more = row >= 0
            wanted, row = wanted[more], row[more]
        return best


def _continues(frame: EventFrame, before: EventFrame) -> bool:
    """Return whether a history starts with all rows of an earlier history."""
    rows = before.rows
    if frame.rows < rows or not np.array_equal(frame.position[:rows], before.position):
        return False
    if frame.partitions == before.partitions:
        return np.array_equal(frame.partition[:rows], before.partition)
    names, names_before = np.array(frame.partitions, object), np.array(before.partitions, object)
    return bool((names[frame.partition[:rows]] == names_before[before.partition]).all())


def _greater(frame: EventFrame, one: Array, other: Array) -> Array:
    """Return a mask that is true where `one` comes after `other` in the order of events."""
    greater = np.zeros(len(one), bool)
    for field in (frame.position, frame.partition, frame.known_at_us, frame.event_at_us):
        a, b = field[one], field[other]
        greater = (a > b) | ((a == b) & greater)
    return greater
