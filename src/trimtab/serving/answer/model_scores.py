"""What a model says of many rows, held to what was declared of it; and what is said when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trimtab.serving.failures import ModelFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.serving.answer.answering import RowScorer, ServedVersion

_NUMBERS = frozenset("biuf")  # NumPy's kinds of them


def scores_of(served: ServedVersion, scorer: RowScorer, matrix: NDArray[Any], *, first: int = 0) -> NDArray[Any]:
    """The scores of some rows: float64 (rows,), of several classes (rows, classes).

    Args:
        served: Which version scores.
        scorer: Its model.
        matrix: The model's inputs, float64 (rows, inputs).
        first: The number of the first row, for messages.

    Raises:
        ModelFailed: It raised, or gave no finite number, or not one for each row and class.
    """
    import numpy as np

    try:
        found = np.asarray(scorer.predict(matrix))
    except Exception as error:  # whatever a user's model raises, or gives for a number
        raise model_raised(served, error) from error
    needed = (len(matrix), len(served.classes)) if served.classes else (len(matrix),)
    if found.shape != needed:
        raise ModelFailed(f"{served.label}: the model gave numbers of shape {found.shape}; needed is {needed}.")
    if found.dtype.kind not in _NUMBERS:
        raise no_number(served)
    scores = found.astype(np.float64, copy=False)
    finite = np.isfinite(scores)
    if not finite.all():
        raise no_number(served, first + int(np.flatnonzero(~finite.reshape(len(matrix), -1).all(axis=1))[0]))
    return scores


def no_number(served: ServedVersion, row: int | None = None) -> ModelFailed:
    """A model said nothing that can be an answer, of which row of several if that is known."""
    each = f" for each of {len(served.classes)} classes" if served.classes else ""
    of_row = "" if row is None else f", of row {row}"
    return ModelFailed(f"{served.label}: the model gave no finite number{each}{of_row}.")


def model_raised(served: ServedVersion, error: Exception) -> ModelFailed:
    """A model raised `error`, whose words are not for whoever asks from elsewhere."""
    raised = f"{served.label}: the model raised {type(error).__name__}"
    return ModelFailed(f"{raised}: {error}", shown=f"{raised}; the server's log says what.")
