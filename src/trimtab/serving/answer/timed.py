"""An answerer that measures how long features and model take, for requests that are sampled, logged or traced."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import ModelInputs, RowScorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trimtab.serving.answer.table_rows import TableRows


class TimedAnswerer(Answerer):
    """A copy of an answerer for one request. It gives the same answers, and measures the time of each stage.

    Args:
        one: The answerer to copy.
        record: The record of the request, if the request is logged or traced. `ModelMetrics` adds the times to it.
        sampled: Whether the times of the request are added to the histogram of stages.
    """

    def __init__(self, one: Answerer, record: Any, *, sampled: bool) -> None:
        self.__dict__.update(one.__dict__)
        self.record = record
        self.sampled = sampled
        self.features_s = 0.0  # seconds spent on reading features
        self.timed = _TimedScorer(one.scorer)
        self.scorer = self.timed
        self._predict_row = self.timed.predict_row

    @property
    def model_s(self) -> float:
        """The seconds spent in calls of the model."""
        return self.timed.taken_s

    def take_times(self, shared: TimedAnswerer) -> None:
        """Copy the times of a shared call that answered this request together with others."""
        self.features_s, self.timed.taken_s = shared.features_s, shared.timed.taken_s

    def inputs(self, rows: Sequence[Row], now_us: int, deadline_s: float | None = None) -> ModelInputs:
        begun_s = perf_counter()
        try:
            return super().inputs(rows, now_us, deadline_s)
        finally:
            self.features_s += perf_counter() - begun_s

    def table_inputs(self, rows: TableRows, now_us: int) -> tuple[NDArray[Any], NDArray[Any]]:
        begun_s = perf_counter()
        try:
            return super().table_inputs(rows, now_us)
        finally:
            self.features_s += perf_counter() - begun_s


class _TimedScorer:
    """A model that measures the total time of its calls."""

    def __init__(self, scorer: RowScorer) -> None:
        self.taken_s = 0.0
        self._scorer = scorer

    def predict(self, matrix: NDArray[Any], /) -> NDArray[Any]:
        begun_s = perf_counter()
        try:
            return self._scorer.predict(matrix)
        finally:
            self.taken_s += perf_counter() - begun_s

    def predict_row(self, row: list[float], /) -> float | list[float]:
        begun_s = perf_counter()
        try:
            return self._scorer.predict_row(row)
        finally:
            self.taken_s += perf_counter() - begun_s
