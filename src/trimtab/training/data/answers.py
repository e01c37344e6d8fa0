"""Logged answers to the rows of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-12  # logged scores are used of versions whose scores of one row and of a batch differ by at most this


class Answered(Protocol):
    """A request with the answer that was logged."""

    @property
    def version(self) -> str:
        """The id of the version that answered."""
        ...

    @property
    def values(self) -> bytes:
        """The inputs of the version: little-endian float64."""
        ...

    @property
    def answer(self) -> float | dict[str, float] | None:
        """The version's score, or the probability of each class by name; None: the answer did not come from the
        version.
        """
        ...


class StoredModel(Protocol):
    """The parts of a version's artifact that are needed to compare the version with its logged answers."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def row_exact(self) -> bool: ...

    @property
    def row_tolerance(self) -> float: ...


class LoggedAnswers(msgspec.Struct, frozen=True, eq=False):
    """The logged answers to the rows of a training set."""

    rows: NDArray[Any]  # an `Answered` for each row; None: nothing was logged

    @staticmethod
    def of(rows: Sequence[Answered | None]) -> LoggedAnswers:
        """Make the logged answers from answers in the order of the rows."""
        array = np.empty(len(rows), object)
        array[:] = rows
        return LoggedAnswers(array)

    def take(self, rows: NDArray[Any]) -> LoggedAnswers:
        """Return the answers to some rows (numbers or a mask)."""
        return LoggedAnswers(self.rows[rows])

    def scores_of(self, version: str, artifact: StoredModel, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """A version's logged scores of these inputs. A score is NaN if the version did not answer or had other inputs.

        A score depends only on the version and the inputs, so the version would give the logged scores again. They
        would be equal to the bit, or within 1e-12 if the library does not promise equal bits. If the version's scores
        of one row and of a batch differ by more than that, no logged scores are used.

        Args:
            version: The id of the version.
            artifact: The artifact of the version.
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
