"""Rows of a request and their answers as columns, without Python objects for each row.  # D0222"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.columns.packed_values import packed_rows_of, packed_values
from trimtab.core.records import Prediction
from trimtab.features.definitions import Request
from trimtab.serving.answer.plain_rows import EARLY_US, YEAR_9999_US
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import ServedVersion
from trimtab.serving.log.prediction_record import EncodedColumn, Fields, PackedPredictions, pack_all

_PACK_ROWS = 4_096  # log this many rows in one record, because a search for a prediction reads a whole record
_LARGEST = 1e150


class TableRows(Sequence[Row]):
    """Checked rows of a request, in columns. Python rows are made when the first one is read."""

    def __init__(self, table: Columns) -> None:
        self.table = table

    @cached_property
    def _rows(self) -> list[Row]:
        return self.table.to_rows()

    def __len__(self) -> int:
        return self.table.rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        return self._rows[place]


def plain_table(request: Request, table: Columns) -> TableRows | None:
    """Return the rows of a table if all of them pass the checks of `plain_check`. None: check the rows one by one."""
    reading = request.source.reading
    if reading.nulls or table.by_name.keys() != request.columns.keys():
        return None
    table = table.select(request.columns)
    needed = {request.key, request.time, *reading.constants}
    for name, dtype in request.columns.items():
        column = table[name]
        if column.dtype != dtype or (name in needed and column.valid is not None) or not _is_plain(column):
            return None
    key = table[request.key]
    return TableRows(table) if key.dtype != "str" or all(key.values.tolist()) else None


def _is_plain(column: Column) -> bool:
    values = column.values if column.valid is None else column.values[column.valid]
    if column.dtype == "str":
        return "".join(values.tolist()).isascii()
    if column.dtype == "float":
        return bool((np.abs(values) <= _LARGEST).all())
    return column.dtype != "time" or bool(((values >= EARLY_US) & (values <= YEAR_9999_US)).all())


def packed_parts(common: Prediction, rows: int, fields_of: Any) -> list[bytes]:
    """Return predictions encoded for the log, in packs. `fields_of` returns the fields of some rows, given as a range.

    Args:
        common: A prediction with the fields that all predictions share.
    """
    starts = range(0, rows, _PACK_ROWS)
    return [pack_all(common, fields_of(range(start, min(start + _PACK_ROWS, rows)))) for start in starts]


def request_fields(table: Columns, key: str, matrix: NDArray[Any]) -> Fields:
    """Return the fields `request_id` and `request` of the predictions for the rows of a table.

    `matrix` has the model's inputs of the same rows. A column that is also in `matrix` is stored only once.
    """
    of_key, rows = table[key], table.rows
    ids = EncodedColumn(rows, [packed_values(of_key)]) if of_key.dtype == "str" else [*map(str, of_key.to_list())]
    return {"request_id": ids, "request": EncodedColumn(rows, packed_rows_of([*table.by_name.values()], matrix))}


def score_fields(served: ServedVersion, scores: NDArray[Any]) -> Fields:
    """Return the fields of predictions that contain scores, shape (rows,) or (rows, classes)."""
    if scores.ndim == 1:
        return {"score": scores}
    named = [dict(zip(served.classes, row, strict=True)) for row in scores.tolist()]
    return {"score": scores.max(axis=1), "scores": named}


class TableAnswers(PackedPredictions):
    """The predictions for the rows of a table, in columns. A `Prediction` is made whenever it is read.

    Args:
        common: A prediction with the fields that all predictions share.
        ids: The ids, as ASCII bytes.
        scores: Shape (rows,), or (rows, classes) for several classes.
        matrix: The model's inputs, float64 (rows, inputs).
        reasons: The code of the reason for each input, uint8 (rows, inputs).
    """

    def __init__(
        self,
        served: ServedVersion,
        common: Prediction,
        rows: TableRows,
        key: str,
        ids: NDArray[Any],
        scores: NDArray[Any],
        matrix: NDArray[Any],
        reasons: NDArray[Any],
    ) -> None:
        self.served = served
        self.common = common
        self.rows = rows
        self.key = key
        self.ids = ids
        self.scores = scores
        self.matrix = matrix
        self.reasons = reasons

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Prediction]: ...
    def __getitem__(self, place: int | slice) -> Prediction | Sequence[Prediction]:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # beyond the end this raises IndexError, which ends `for` loops
        score, scores = self.scores[place].tolist(), None
        if isinstance(score, list):
            scores, score = dict(zip(self.served.classes, score, strict=True)), max(score)
        values = [column.take(slice(place, place + 1)).to_list()[0] for column in self.rows.table.by_name.values()]
        return msgspec.structs.replace(
            self.common,
            id=self.ids[place].decode(),
            request_id=str(self.rows.table[self.key].values[place]),
            score=score,
            request=msgspec.msgpack.encode(values),
            values=self.matrix[place].astype("<f8").tobytes(),
            reasons=self.reasons[place].tobytes(),
            scores=scores,
        )

    def packs(self) -> list[bytes]:
        return packed_parts(self.common, len(self), self._fields)

    def _fields(self, rows: range) -> Fields:
        cut = slice(rows.start, rows.stop)
        matrix = np.ascontiguousarray(self.matrix[cut], "<f8")
        return {
            **request_fields(self.rows.table.take(cut), self.key, matrix),
            **score_fields(self.served, self.scores[cut]),
            "id": self.ids[cut],
            "values": matrix,
            "reasons": self.reasons[cut],
        }
