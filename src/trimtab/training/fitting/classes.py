"""Models of several classes: from what an estimator says of those it has seen to a chance of each that is declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.ports import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Classes(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of a model's answers stand for, and which of them its estimator knows.

    A class that no row to learn from was of gets one chance in (rows + classes), as Laplace would have it: small and
    not 0, so that its first row does not cost without end.  # D0076
    """

    names: tuple[str, ...]  # as declared, in this order
    fitted: tuple[int, ...]  # the places of those that the estimator was fitted on, ascending; at least two
    rows: int  # that it was fitted on

    @property
    def width(self) -> int:
        """How many classes are declared."""
        return len(self.names)

    def chances(self, scores: NDArray[Any]) -> NDArray[Any]:
        """A row of chances for each row of an estimator's answers, shape (rows, classes).

        Args:
            scores: Shape (rows, fitted classes); with two, also the chance of the second alone, shape (rows,).

        Raises:
            Misuse: They have another shape.
        """
        import numpy as np

        known = len(self.fitted)
        if known == 2 and scores.ndim == 1:
            scores = np.stack([1.0 - scores, scores], axis=1)
        if scores.ndim != 2 or scores.shape[1] != known:
            raise Misuse(
                f"predictions of shape {scores.shape} where {known} classes were fitted: a chance of each is needed. "
                "Give the estimator predict_proba."
            )
        if known == self.width:
            return scores
        unseen = 1.0 / (self.rows + self.width)
        spread = np.full((len(scores), self.width), unseen)
        spread[:, list(self.fitted)] = scores * (1.0 - unseen * (self.width - known))
        return spread

    def chances_row(self, scores: float | list[float]) -> list[float]:
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
    """Scores with an estimator, and answers with a chance of each declared class."""

    def __init__(self, classes: Classes, scorer: Scorer) -> None:
        self._classes = classes
        self.inner = scorer

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            import numpy as np

            return np.empty((0, self._classes.width))
        return self._classes.chances(self.inner.predict(matrix))

    def predict_row(self, row: list[float]) -> list[float]:
        return self._classes.chances_row(self.inner.predict_row(row))


def aligned(scores: NDArray[Any], given: Sequence[str], wanted: Sequence[str], what: str) -> NDArray[Any]:
    """Chances of the classes `wanted`, in their order, from those of a version that declared others.

    A class that it did not know has chance 0, and what it gave to classes that are no more is shared out.

    Raises:
        Misuse: The two have no class in common.
    """
    import numpy as np

    from trimtab.stats.metrics.multiclass import shared_out  # here: it loads SciPy, and scoring does without

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
    return shared_out(found)
