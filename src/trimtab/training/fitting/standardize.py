"""Replace nulls and scale inputs, for estimators that do not accept nulls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.training.runtimes.ports import Score, Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def standardized(matrix: Any, means: Any, scales: Any) -> Any:
    """Return (value - mean) / scale for each input, and 0 for null. Exports of models contain a copy of this."""
    import numpy as np

    scaled = (matrix - np.array(means)) / np.array(scales)
    scaled[np.isnan(scaled)] = 0.0
    return scaled


class Standardize(msgspec.Struct, frozen=True):
    """Computes (value - mean) / scale for each input, and 0 for null. Means and scales are those of the training rows.

    If all training values of an input are null, its mean is 0 and its scale 1, so nulls become 0 and later values stay
    as they are. If all training values are equal, the scale is 1, too.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]

    def apply(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return the standardized matrix, without nulls."""
        scaled: NDArray[Any] = standardized(matrix, self.means, self.scales)
        return scaled

    def apply_row(self, row: list[float]) -> list[float]:
        """Return one standardized row. The result equals `apply`, bit for bit."""
        return [
            (value - mean) / scale if value == value else 0.0  # NaN is the only value that is not equal to itself
            for value, mean, scale in zip(row, self.means, self.scales, strict=True)
        ]


class StandardizedScorer:
    """A scorer that standardizes its inputs, then lets another scorer score them."""

    def __init__(self, step: Standardize, scorer: Scorer) -> None:
        self._step = step
        self.inner = scorer

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self.inner.predict(self._step.apply(matrix))

    def predict_row(self, row: list[float]) -> Score:
        return self.inner.predict_row(self._step.apply_row(row))


def fit_standardize(matrix: NDArray[Any], weights: NDArray[Any] | None = None) -> Standardize:
    """Return the weighted mean and standard deviation of each input over the values that are not null."""
    import numpy as np

    there = ~np.isnan(matrix)
    known: Any = (lambda x: x) if there.all() else lambda x: np.where(there, x, 0.0)
    if weights is None:
        count = np.maximum(there.sum(axis=0), 1)
        means = known(matrix).sum(axis=0) / count
        variances = known((matrix - means) ** 2).sum(axis=0) / count
    else:
        row = weights[:, None]
        total = (there * row).sum(axis=0)
        total[total == 0.0] = 1.0
        means = known(matrix * row).sum(axis=0) / total
        variances = known((matrix - means) ** 2 * row).sum(axis=0) / total
    scales = np.sqrt(variances)
    # a standard deviation that is only due to rounding counts as 0
    scales[~(scales > 1e-12 * np.maximum(1.0, np.abs(means)))] = 1.0
    return Standardize(tuple(means.tolist()), tuple(scales.tolist()))
