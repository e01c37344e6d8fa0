"""Probabilities of all declared classes, made from those of the classes that an estimator was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.ports import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def all_classes(scores: Any, fitted: Any, width: int, rows: int) -> Any:
    """Spread probabilities of the fitted classes over all classes, shape (rows, width). Exports copy this function.

    Args:
        scores: Shape (rows, fitted classes). For two fitted classes also shape (rows,): the probability of the second.
        fitted: The position of each fitted class among the declared classes.
        width: The number of declared classes.
        rows: The number of training rows.
    """
    import numpy as np

    if scores.ndim == 1:
        scores = np.stack([1.0 - scores, scores], axis=1)
    if len(fitted) == width:
        return scores
    unseen = 1.0 / (rows + width)
    spread = np.full((len(scores), width), unseen)
    spread[:, list(fitted)] = scores * (1.0 - unseen * (width - len(fitted)))
    return spread


class Classes(msgspec.Struct, frozen=True, kw_only=True):
    """The declared classes of a model, and which of them its estimator was fitted on.

    A class without training rows gets the probability 1 / (rows + classes) (Laplace's rule of succession). It is small
    but not 0, so that the log loss of the first row of this class is finite.  # D0076
    """

    names: tuple[str, ...]  # all declared classes, in the declared order
    fitted: tuple[int, ...]  # the positions of the classes that the estimator was fitted on, ascending; at least two
    rows: int  # the number of rows that the estimator was fitted on

    @property
    def width(self) -> int:
        """The number of declared classes."""
        return len(self.names)

    def probabilities(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Return probabilities of all declared classes from an estimator's scores, shape (rows, classes).

        Args:
            scores: Shape (rows, fitted classes). For two fitted classes also shape (rows,): the probability of the
                second.

        Raises:
            Misuse: The scores have another shape.
        """
        known = len(self.fitted)
        if (scores.shape[1:] or (2,)) != (known,):
            raise Misuse(
                f"predictions of shape {scores.shape} where {known} classes were fitted: a probability of each is "
                "needed. Give the estimator predict_proba."
            )
        found: NDArray[Any] = all_classes(scores, self.fitted, self.width, self.rows)
        return found

    def probabilities_row(self, scores: float | list[float]) -> list[float]:
        """Return the probabilities of one row, with the same bits as `probabilities`."""
        if not isinstance(scores, list):
            scores = [1.0 - scores, scores]
        if len(scores) == self.width:
            return scores
        unseen = 1.0 / (self.rows + self.width)
        share = 1.0 - unseen * (self.width - len(self.fitted))
        spread = [unseen] * self.width
        for place, score in zip(self.fitted, scores, strict=True):
            spread[place] = score * share
        return spread


class ClassScorer:
    """A scorer of probabilities of all declared classes."""

    def __init__(self, classes: Classes, scorer: Scorer) -> None:
        self._classes = classes
        self.inner = scorer

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            import numpy as np

            return np.empty((0, self._classes.width))
        return self._classes.probabilities(self.inner.predict(matrix))

    def predict_row(self, row: list[float]) -> list[float]:
        return self._classes.probabilities_row(self.inner.predict_row(row))


def aligned(scores: NDArray[Any], given: Sequence[str], wanted: Sequence[str], what: str) -> NDArray[Any]:
    """Rearrange the probabilities of a version for the classes `wanted`, which may differ from the version's own.

    A class that the version did not know has probability 0. The probability of classes that are no longer declared is
    distributed over the other classes.

    Raises:
        Misuse: The version and `wanted` have no class in common.
    """
    import numpy as np

    # imported here because it loads SciPy, which scoring does not need
    from trimtab.stats.metrics.multiclass import normalized

    if tuple(given) == tuple(wanted):
        return scores
    shared = [(place, given.index(name)) for place, name in enumerate(wanted) if name in given]
    if scores.ndim != 2 or not shared:
        raise Misuse(
            f"{what}: the version in service answers of {', '.join(given) or 'no classes'}, the model declares "
            f"{', '.join(wanted) or 'none'}: they cannot be compared. Give the model of other classes another name."
        )
    found = np.zeros((len(scores), len(wanted)))
    for place, there in shared:
        found[:, place] = scores[:, there]
    return normalized(found)
