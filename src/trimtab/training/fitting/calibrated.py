"""A scorer whose answers are corrected before they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab.stats.recalibration import Recalibration
from trimtab.training.runtimes.ports import Score, Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CalibratedScorer:
    """Scores, and corrects with the same operations for one row and for many."""

    def __init__(self, recalibration: Recalibration, scorer: Scorer) -> None:
        self._corrected = recalibration.mapping()
        self._corrected_row = recalibration.row_mapping()
        self.inner = scorer

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self._corrected(self.inner.predict(matrix))

    def predict_row(self, row: list[float]) -> Score:
        return self._corrected_row(self.inner.predict_row(row))  # type: ignore[arg-type]  # a map is of their kind
