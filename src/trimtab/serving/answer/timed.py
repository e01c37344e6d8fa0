"""An answerer whose parts are timed, for the requests that somebody wants to know more of."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from trimtab.serving.answer.answering import Answerer, ModelInputs, RowScorer
from trimtab.serving.answer.request_rows import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trimtab.serving.http.requests.request_record import RequestRecord


class TimedAnswerer(Answerer):
    """Another answerer for one request: it gives the same answers, and knows afterwards what they took.

    Args:
        one: Whose answers.
        exchange: What is to be told of the request, if anything.
        sampled: Whether it shows in the histogram of stages.
    """

    def __init__(self, one: Answerer, exchange: RequestRecord | None, *, sampled: bool) -> None:
        self.__dict__.update(one.__dict__)
        self.exchange = exchange
        self.sampled = sampled
        self.features_s = 0.0  # reading features
        self.timed = _TimedScorer(one.scorer)
        self.scorer = self.timed
        self._predict_row = self.timed.predict_row

    @property
    def model_s(self) -> float:
        """The model's own calls."""
        return self.timed.taken_s

    def take_times(self, shared: TimedAnswerer) -> None:
        """What another one took that answered several requests together, this one among them."""
        self.features_s, self.timed.taken_s = shared.features_s, shared.timed.taken_s

    def inputs(self, rows: Sequence[Row], now_us: int, deadline_s: float | None = None) -> ModelInputs:
        begun_s = perf_counter()
        try:
            return super().inputs(rows, now_us, deadline_s)
        finally:
            self.features_s += perf_counter() - begun_s


class _TimedScorer:
    """A model, and how long its calls took together."""

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
