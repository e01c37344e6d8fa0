"""The scores that were logged in service for the rows of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

# logged scores are not used if the scores of a row alone and in a batch may differ by more than this
_ROUNDING = 1e-12


class Answered(Protocol):
    """A request, with the prediction that was logged for it."""

    @property
    def version(self) -> str:
        """The id of the version that made the prediction."""
        ...

    @property
    def values(self) -> bytes:
        """The inputs that the version got, as little-endian float64."""
        ...

    @property
    def answer(self) -> float | dict[str, float] | None:
        """The version's score, or the probability of each class by name; None if a fallback answered."""
        ...


class StoredModel(Protocol):
    """The parts of a version's artifact (stored model) that are needed to use its logged scores."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def row_exact(self) -> bool: ...

    @property
    def row_tolerance(self) -> float: ...


class LoggedAnswers(msgspec.Struct, frozen=True, eq=False):
    """The logged predictions for the rows of a training set."""

    rows: NDArray[Any]  # an `Answered` for each row; None: nothing was logged for it

    @staticmethod
    def of(rows: Sequence[Answered | None]) -> LoggedAnswers:
        """Wrap the logged predictions for some rows, in the order of the rows."""
        array = np.empty(len(rows), object)
        array[:] = rows
        return LoggedAnswers(array)

    def take(self, rows: NDArray[Any]) -> LoggedAnswers:
        """Return the predictions for the given rows (row numbers or a boolean array)."""
        return LoggedAnswers(self.rows[rows])

    def scores_of(self, version: str, artifact: StoredModel, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logged scores of a version for rows of inputs.

        A score is NaN if the version did not predict for the row, or had other inputs for it.

        A score only depends on the version and the inputs, so the version would give the same score again, or one that
        differs by at most 1e-12. If the library's scores of a row alone and in a batch may differ by more than that, no
        logged scores are used: all are NaN.

        Args:
            matrix: The inputs, shape (rows, inputs).

        Returns:
            Scores of shape (rows,); with several classes (rows, classes).
        """
        classes = artifact.class_names
        scores = np.full((len(matrix), len(classes)) if classes else len(matrix), np.nan)
        if not artifact.row_exact and artifact.row_tolerance > _ROUNDING:
            return scores
        inputs, width = matrix.astype("<f8", copy=False).tobytes(), 8 * matrix.shape[1]
        places, found = [], []
        for place, row in enumerate(self.rows.tolist()):
            if row is None or row.version != version or row.answer is None:
                continue
            if row.values == inputs[place * width : place * width + width]:
                places.append(place)
                found.append([row.answer[name] for name in classes] if classes else row.answer)
        if places:
            scores[places] = found
        return scores
