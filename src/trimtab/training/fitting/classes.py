"""Probabilities of all declared classes from those of the classes that an estimator was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.ports import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def all_classes(scores: Any, fitted: Any, width: int, rows: int) -> Any:
    """Probabilities of all classes, shape (rows, width), from those of the fitted ones. Exports copy this function.

    Args:
        scores: Shape (rows, fitted classes); of two also the probability of the second alone, shape (rows,).
        fitted: The places of the fitted classes.
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

    A class without training rows gets the probability 1 / (rows + classes) (Laplace's rule of succession): small and
    not 0, so that the log loss of its first row is finite.  # D0076
    """

    names: tuple[str, ...]  # as declared, in this order
    fitted: tuple[int, ...]  # the places of those that the estimator was fitted on, ascending; at least two
    rows: int  # that it was fitted on

    @property
    def width(self) -> int:
        """The number of declared classes."""
        return len(self.names)

    def probabilities(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Probabilities of all declared classes from an estimator's scores, shape (rows, classes).

        Args:
            scores: Shape (rows, fitted classes); of two also the probability of the second alone, shape (rows,).

        Raises:
            Misuse: They have another shape.
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
        """The same for one row, to the bit."""
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
    """Probabilities of the classes `wanted`, in their order, from those of a version that declared others.

    A class that the version did not know has probability 0; that of classes which are no longer declared is distributed
    over the others.

    Raises:
        Misuse: The two have no class in common.
    """
    import numpy as np

    from trimtab.stats.metrics.multiclass import normalized  # here: it loads SciPy, and scoring does without

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
