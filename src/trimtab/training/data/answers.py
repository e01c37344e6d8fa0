"""Logged answers to the rows of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-12  # the largest difference between one row and a batch of versions whose logged scores are used


class Answered(Protocol):
    """A request with the answer that was logged."""

    @property
    def version(self) -> str:
        """The id of the version that answered."""
        ...

    @property
    def values(self) -> bytes:
        """Its inputs: little-endian float64."""
        ...

    @property
    def answer(self) -> float | dict[str, float] | None:
        """Its score, or the probability of each class by name; None: the version had no part in the answer."""
        ...


class StoredModel(Protocol):
    """The model of a version, as far as its logged answers are compared with it: an artifact."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def row_exact(self) -> bool: ...

    @property
    def row_tolerance(self) -> float: ...


class LoggedAnswers(msgspec.Struct, frozen=True, eq=False):
    """The logged answers to the rows of a training set."""

    rows: NDArray[Any]  # an `Answered` each, None where nothing was logged

    @staticmethod
    def of(rows: Sequence[Answered | None]) -> LoggedAnswers:
        """The answers in the order of the rows."""
        array = np.empty(len(rows), object)
        array[:] = rows
        return LoggedAnswers(array)

    def take(self, rows: NDArray[Any]) -> LoggedAnswers:
        """The answers to some rows (numbers or a mask)."""
        return LoggedAnswers(self.rows[rows])

    def scores_of(self, version: str, artifact: StoredModel, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """A version's logged scores of these inputs, NaN where it did not answer or had other inputs.

        A score depends on version and inputs alone, so the version would give the same ones again: to the bit, or
        within 1e-12 where the library does not promise that. No scores are used of a version that differs by more
        between one row and a batch.

        Args:
            version: Its id.
            artifact: Its artifact.
            matrix: The inputs, shape (rows, inputs).

        Returns:
            Shape (rows,), with several classes (rows, classes).
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
