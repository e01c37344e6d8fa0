"""Growing buffers that hold the history of one source as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.column import NUMPY_TYPES
from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.events.columns.frame_index import FrameIndex
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.records import Value, padded

Block = dict[str, NDArray[Any]]  # values by the name of a column, or of one of the fields below

EVENT_AT, KNOWN_AT, SUPERSEDED_AT = "@event_at", "@known_at", "@superseded_at"
DELETED, PARTITION, POSITION, LOADED_H = "@deleted", "@partition", "@position", "@loaded_h"

_KINDS: dict[str, Any] = {
    EVENT_AT: np.int64,
    KNOWN_AT: np.int64,
    SUPERSEDED_AT: np.int64,
    DELETED: np.bool_,
    PARTITION: np.int16,
    POSITION: np.int64,
    LOADED_H: np.int32,
}
# after this many distinct texts in a column, its texts no longer share memory, because few of them are repeated
_SHARED_TEXTS = 20_000


class Rows:
    """The rows of one source in buffers. A full buffer is doubled, so the cost per row stays constant.

    A frame (see `EventFrame`) is a view of the buffers, and must never change. New rows are added after the rows of all
    frames. Before a row of a frame is changed, the buffer is copied.
    """

    def __init__(self, dtypes: Mapping[str, Dtype]) -> None:
        self.dtypes = dict(dtypes)
        self.size = 0
        self._nullable: set[str] = set()
        self._texts: dict[str, dict[str, str]] = {name: {} for name, dtype in dtypes.items() if dtype == "str"}
        kinds = dict(_KINDS)
        for name, dtype in dtypes.items():
            kinds[name], kinds[_valid(name)] = NUMPY_TYPES[dtype], np.bool_
        self._data: Block = {name: np.empty(0, kind) for name, kind in kinds.items()}
        self._index = FrameIndex()
        self._shown = 0  # how many rows are in frames
        self._lent: set[str] = set()  # the names of the buffers that frames are views of

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the values of a column, or of a field such as `EVENT_AT`. The caller must not change them."""
        return self._data[name][: self.size]

    def present(self, name: str) -> NDArray[Any]:
        """Return a boolean array that is True where a column is not null."""
        return self._data[_valid(name)][: self.size]

    def block(self, tuples: Sequence[Sequence[Value]]) -> Block:
        """Return rows of values as columns. Where a row was stored before a column was added, it has null."""
        width = len(self.dtypes)
        if not {width}.issuperset(map(len, tuples)):
            tuples = [padded(row, width) for row in tuples]
        block: Block = {}
        for place, (name, dtype) in enumerate(self.dtypes.items()):
            if dtype == "float":
                found = np.fromiter(map(itemgetter(place), tuples), np.float64, len(tuples))
                if not np.isnan(found).any():  # NumPy converts None to NaN
                    block[name], block[_valid(name)] = found, np.ones(len(found), bool)
                    continue
            block[name], block[_valid(name)] = self._column(name, dtype, [*map(itemgetter(place), tuples)])
        return block

    def block_of(self, columns: Columns) -> Block:
        """Return the declared columns of rows from a table of record (a copy of events). Missing ones are null."""
        block: Block = {}
        for name, dtype in self.dtypes.items():
            if name not in columns:
                block[name], block[_valid(name)] = self._column(name, dtype, (None,) * columns.rows)
                continue
            values = columns[name].values
            block[name] = self._shared_texts(name, values) if dtype == "str" else values
            block[_valid(name)] = columns[name].present()
        return block

    def append(self, block: Block) -> None:
        """Add rows. `block` has all columns and fields except `SUPERSEDED_AT`, which is set to `NEVER_US`."""
        count = len(block[EVENT_AT])
        end = self.size + count
        self._reserve(end)
        for name, values in block.items():
            self._data[name][self.size : end] = values
        self._data[SUPERSEDED_AT][self.size : end] = NEVER_US
        for name in self.dtypes:
            if name not in self._nullable and not block[_valid(name)].all():
                self._nullable.add(name)
        self.size = end

    def set(self, name: str, rows: NDArray[Any], values: NDArray[Any]) -> None:
        """Set a field of the given rows."""
        self._own(name, int(rows.min(initial=self.size)))
        self._data[name][rows] = values

    def copy_value(self, name: str, row: int, source: int | None) -> None:
        """Set the value of a column in `row` to that in row `source`, or to null if `source` is None."""
        self._own(name, row)
        self._own(_valid(name), row)
        values, valid = self._data[name], self._data[_valid(name)]
        valid[row] = source is not None and valid[source]
        if source is not None:
            values[row] = values[source]
        else:
            values[row] = np.nan if self.dtypes[name] == "float" else None if self.dtypes[name] == "str" else 0
            self._nullable.add(name)

    def keep(self, start: int, kept: NDArray[Any]) -> None:
        """Remove the rows from `start` on for which `kept` is False. The rows after them move up."""
        end = start + int(kept.sum())
        for name in self._data:
            self._own(name, start)
            values = self._data[name]
            values[start:end] = values[start : self.size][kept]
        self.size = end

    def same(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
        """Return a boolean array: whether rows a[i] and b[i] have the same event time, operation, values and nulls."""
        equal: NDArray[np.bool_] = self[EVENT_AT][a] == self[EVENT_AT][b]
        equal &= self[DELETED][a] == self[DELETED][b]
        for name in self.dtypes:
            values, valid = self[name], self.present(name)
            missing = ~valid[a]
            equal &= missing == ~valid[b]
            equal &= missing | (values[a] == values[b]).astype(bool)
        return equal

    def values(self, row: int) -> list[Value]:
        """Return the values of one row, with None for null."""
        out: list[Value] = []
        for name in self.dtypes:
            value = self._data[name][row]
            there = bool(self._data[_valid(name)][row])
            out.append(None if not there else value if isinstance(value, str) else value.item())
        return out

    def frame(self, source: str, partitions: Sequence[str]) -> EventFrame:
        """Return all rows as a frame. In the frame, each partition is given as its index in the sorted `partitions`."""
        self._shown, self._lent = self.size, set(self._data)
        columns = {
            name: Column(dtype, self[name], self.present(name) if name in self._nullable else None)
            for name, dtype in self.dtypes.items()
        }
        names = tuple(sorted(partitions))
        partition = self[PARTITION]
        if names != tuple(partitions):
            partition = np.array([names.index(p) for p in partitions], np.int16)[partition]
        return EventFrame(
            source=source,
            columns=Columns(columns),
            event_at_us=self[EVENT_AT],
            known_at_us=self[KNOWN_AT],
            superseded_at_us=self[SUPERSEDED_AT],
            deleted=self[DELETED],
            partition=partition,
            position=self[POSITION],
            partitions=names,
            loaded_h=self[LOADED_H],
            index=self._index,
        )

    def _column(self, name: str, dtype: Dtype, values: Sequence[Value]) -> tuple[NDArray[Any], NDArray[Any]]:
        gaps = None in values
        valid = np.array([v is not None for v in values], bool) if gaps else np.ones(len(values), bool)
        if dtype != "str":
            placeholder = np.nan if dtype == "float" else 0
            filled = [placeholder if v is None else v for v in values] if gaps else values
            return np.array(filled, NUMPY_TYPES[dtype]), valid
        return self._shared_texts(name, values), valid

    def _shared_texts(self, name: str, values: Any) -> NDArray[Any]:
        """Return texts as an array. As long as the column has few distinct texts, equal texts are one object."""
        texts = self._texts[name]
        if len(texts) < _SHARED_TEXTS:
            values = list(map(texts.setdefault, values, values))
        array = np.empty(len(values), object)
        array[:] = values
        return array

    def _reserve(self, size: int) -> None:
        if size <= len(self._data[EVENT_AT]):
            return
        capacity = max(size, 2 * len(self._data[EVENT_AT]), 1_024)
        for name, old in self._data.items():
            grown = np.empty(capacity, old.dtype)
            grown[: self.size] = old[: self.size]
            self._data[name] = grown
        self._lent.clear()

    def _own(self, name: str, row: int) -> None:
        """Copy a buffer before a change to `row`, if a frame shows the row."""
        if row < self._shown and name != SUPERSEDED_AT:
            self._index = FrameIndex()  # frames that were made earlier keep the old index, which fits their rows
        if row < self._shown and name in self._lent:
            self._data[name] = self._data[name].copy()
            self._lent.discard(name)


def _valid(name: str) -> str:
    return "?" + name
