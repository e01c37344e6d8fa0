"""The rows of a batch: their model inputs, their scores, and their records in the prediction log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US
from trimtab.events.columns.frames import EventFrame
from trimtab.features.definitions import Request
from trimtab.serving.answer.answering import NOT_AT_LEAD
from trimtab.serving.answer.inputs import OfflineInputs
from trimtab.serving.answer.model_scores import scores_of
from trimtab.serving.answer.served import RowScorer, ServedVersion
from trimtab.serving.answer.table_rows import packed_parts, request_fields, score_fields
from trimtab.serving.log.prediction_ids import packed_batch_ids
from trimtab.serving.log.prediction_record import Fields

_TOGETHER_ROWS = 50_000  # compute the features of this many rows together, because each computation reads all events


class BatchPart(msgspec.Struct, frozen=True):
    """Some rows of a batch: their model inputs (float64), and the reason code of each input (uint8)."""

    rows: range
    matrix: NDArray[Any]
    reasons: NDArray[Any]


class BatchRows:
    """Computes the model inputs of the rows of a batch, their scores, and the records of the log.

    Args:
        common: A prediction with the fields that all predictions share. Its id is that of the batch.
    """

    def __init__(
        self,
        served: ServedVersion,
        inputs: OfflineInputs,
        scorer: RowScorer,
        common: Prediction,
        table: Columns,
        at_us: NDArray[Any],
        frames: Mapping[str, EventFrame],
    ) -> None:
        self._served = served
        self._inputs = inputs
        self._scorer = scorer
        self._common = common
        self._table = table
        self._at_us = at_us
        self._frames = frames

    def parts(self, left: Sequence[range]) -> Iterator[BatchPart]:
        """Yield the parts that consist of these rows. The features of several parts are computed together."""
        count = max(1, _TOGETHER_ROWS // max(map(len, left), default=1))
        for n in range(0, len(left), count):
            together = left[n : n + count]
            start = together[0].start
            cut = slice(start, together[-1].stop)
            matrix, reasons = self._inputs.compute(self._table.take(cut), self._at_us[cut], self._frames)
            for rows in together:
                cut = slice(rows.start - start, rows.stop - start)
                yield BatchPart(rows, matrix[cut], reasons[cut])

    def packs(self, part: BatchPart) -> list[bytes]:
        """Score the rows of a part, and return their predictions encoded for the log, in packs."""
        scores = scores_of(self._served, self._scorer, part.matrix, first=part.rows.start)

        def fields_of(rows: range) -> Fields:
            cut = slice(rows.start, rows.stop)
            matrix = np.ascontiguousarray(part.matrix[cut], "<f8")
            inputs: Fields = {"values": matrix, "reasons": part.reasons[cut]}
            return {**inputs, **self._requests(part.rows[cut], matrix), **score_fields(self._served, scores[cut])}

        return packed_parts(self._common, len(part.rows), fields_of)

    def _requests(self, rows: range, matrix: NDArray[Any]) -> Fields:
        """Return the ids, requests, times and flags of these rows, as fields of the log."""
        cut, common = slice(rows.start, rows.stop), self._common
        table, at_us, request = self._table.take(cut), self._at_us[cut], self._inputs.features.request
        off = off_lead(request, table, common.made_at_us) & (at_us == common.made_at_us)
        return {
            **({"flags": [(NOT_AT_LEAD,) if one else () for one in off.tolist()]} if off.any() else {}),
            "id": packed_batch_ids(common.id, common.made_at_us, rows),
            "at_us": at_us,
            **request_fields(table, request.key, matrix),
        }


def off_lead(request: Request, table: Columns, now_us: int) -> NDArray[np.bool_]:
    """Return which rows would be answered more than a day too early if they were answered now.

    A row should be answered at its own time minus the lead. Without a lead, no row is too early.
    """
    ahead: NDArray[np.bool_] = table[request.time].values - request.lead_us - now_us > DAY_US
    return ahead & bool(request.lead_us)
