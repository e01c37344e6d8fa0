"""Answers that the prediction log has to the rows of a training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-12  # of versions whose scores differ by more between one row and many, no logged score is used


class Answered(Protocol):
    """A request with the answer that was logged."""

    @property
    def version(self) -> str:
        """The address of the version that answered."""
        ...

    @property
    def values(self) -> bytes:
        """Its inputs: little-endian float64."""
        ...

    @property
    def answer(self) -> float | dict[str, float] | None:
        """Its score, of several classes the probability of each by name; None: it had no part in the answer."""
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

    rows: NDArray[Any]  # an `Answered` for each, None where nothing was logged

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
        """The scores that a version gave to these very inputs, NaN where it did not answer or had other inputs.

        A score depends on version and inputs alone, so that these are the numbers it would give again: the same bits,
        within 1e-12 where the library does not promise them. Of a version that differs by more between one row and many
        there are none.

        Args:
            version: Its address.
            artifact: What it is made of.
            matrix: The inputs, shape (rows, inputs).

        Returns:
            Shape (rows,), of several classes (rows, classes).
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
