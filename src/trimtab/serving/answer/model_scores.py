"""Compute scores of many rows and check them. Create the exceptions for a model that fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from trimtab.serving.answer.served import RowScorer, ServedVersion
from trimtab.serving.failures import ModelFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MANY = 2_000  # one thread is faster for fewer rows than this
_NUMBERS = frozenset("biuf")  # the kinds of NumPy types that are numbers


def scores_of(served: ServedVersion, scorer: RowScorer, matrix: NDArray[Any], *, first: int = 0) -> NDArray[Any]:
    """Return the scores of some rows: float64, shape (rows,), or (rows, classes) for several classes.

    Args:
        matrix: The model's inputs, float64 (rows, inputs).
        first: The index of the first row, for error messages.

    Raises:
        ModelFailed: The model raised an error, or did not return a finite number for each row and class.
    """
    import numpy as np

    try:
        found = np.asarray(scorer.predict(matrix))
    except Exception as error:  # a user's model may raise any error, and return any object instead of a number
        raise model_raised(served, error) from error
    needed = (len(matrix), len(served.classes)) if served.classes else (len(matrix),)
    if found.shape != needed:
        raise ModelFailed(f"{served.label}: the model gave scores of shape {found.shape}, needed {needed}.")
    if found.dtype.kind not in _NUMBERS:
        raise no_number(served)
    scores = found.astype(np.float64, copy=False)
    finite = np.isfinite(scores)
    if not finite.all():
        raise no_number(served, first + int(np.flatnonzero(~finite.reshape(len(matrix), -1).all(axis=1))[0]))
    return scores


def scores_by_halves(served: ServedVersion, scorer: RowScorer, matrix: NDArray[Any]) -> NDArray[Any]:
    """Do the same as `scores_of`, but compute the scores of many rows in two threads, each for half of the rows."""
    if len(matrix) < _MANY:
        return scores_of(served, scorer, matrix)
    import numpy as np

    half = len(matrix) // 2
    with ThreadPoolExecutor(1, "trimtab-scores") as other:
        later = other.submit(scores_of, served, scorer, matrix[half:], first=half)
        return np.concatenate([scores_of(served, scorer, matrix[:half]), later.result()])


def no_number(served: ServedVersion, row: int | None = None) -> ModelFailed:
    """Return the error for a model that returned no finite number. The message names the row if it is known."""
    each = f" for each of {len(served.classes)} classes" if served.classes else ""
    of_row = "" if row is None else f" for row {row}"
    return ModelFailed(f"{served.label}: the model gave no finite number{each}{of_row}.")


def model_raised(served: ServedVersion, error: Exception) -> ModelFailed:
    """Return the error for a model that raised `error`. The text of `error` is not shown to remote clients."""
    raised = f"{served.label}: the model raised {type(error).__name__}"
    return ModelFailed(f"{raised}: {error}", shown=f"{raised}; the server's log has the message.")
