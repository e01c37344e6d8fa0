"""Give every declared class a probability, even if an estimator was fitted on rows of only some of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.ports import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray


def all_classes(scores: Any, fitted: Any, width: int, rows: int) -> Any:
    """Return probabilities of all classes, shape (rows, width). Exports of models contain a copy of this function.

    Args:
        scores: Probabilities, shape (rows, fitted classes). With two fitted classes, the probabilities of the second
            are enough, shape (rows,).
        fitted: The position of each fitted class among the declared classes.
        width: The number of declared classes.
        rows: The number of training rows (see `Classes`), not that of `scores`.
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
    """The declared classes of a model, and those that its estimator was fitted on.

    A class without training rows gets the probability 1 / (rows + classes) (Laplace's rule of succession). It is small
    but not 0, so the log loss is finite when the first row of this class occurs.  # D0076
    """

    names: tuple[str, ...]  # all declared classes, in the declared order
    # the positions of the fitted classes among the declared ones, in ascending order; at least two
    fitted: tuple[int, ...]
    rows: int  # the number of rows that the estimator was fitted on

    @property
    def width(self) -> int:
        """The number of declared classes."""
        return len(self.names)

    def probabilities(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Return the probabilities of all declared classes, shape (rows, classes), given an estimator's scores.

        Args:
            scores: Probabilities, shape (rows, fitted classes). With two fitted classes, the probabilities of the
                second are enough, shape (rows,).

        Raises:
            Misuse: The scores have another shape.
        """
        known = len(self.fitted)
        if (scores.shape[1:] or (2,)) != (known,):
            raise Misuse(
                f"found predictions of shape {scores.shape}, needed a probability of each of the {known} fitted "
                "classes. Give the estimator predict_proba."
            )
        found: NDArray[Any] = all_classes(scores, self.fitted, self.width, self.rows)
        return found

    def probabilities_row(self, scores: float | list[float]) -> list[float]:
        """Return the probabilities for one row. The result equals `probabilities`, bit for bit."""
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
    """A scorer that returns the probabilities of all declared classes."""

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
    """Convert a version's probabilities of the classes `given` to probabilities of the classes `wanted`.

    A wanted class that the version does not know gets 0. Probabilities of classes that are not wanted are dropped, and
    the others are divided by their sum.

    Raises:
        Misuse: The version has none of the classes `wanted`.
    """
    import numpy as np

    # imported here, because it loads SciPy, which scoring otherwise does not need
    from trimtab.stats.metrics.multiclass import normalized

    if tuple(given) == tuple(wanted):
        return scores
    shared = [(place, given.index(name)) for place, name in enumerate(wanted) if name in given]
    if scores.ndim != 2 or not shared:
        raise Misuse(
            f"{what}: the compared version predicts {', '.join(given) or 'no classes'}, but the model declares "
            f"{', '.join(wanted) or 'none'}, so they cannot be compared. Give the model with other classes another "
            "name."
        )
    found = np.zeros((len(scores), len(wanted)))
    for place, there in shared:
        found[:, place] = scores[:, there]
    return normalized(found)
