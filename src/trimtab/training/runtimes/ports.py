"""The protocols that model runtimes and scorers follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from trimtab.core.errors import Misuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.runtimes.formats import Format

Trust = Literal["pickle"]  # "pickle": the user accepts that loading the version runs code
Array: TypeAlias = "NDArray[Any]"
# the score of one row: a number, or for three or more classes the probability of each
Score: TypeAlias = float | list[float]


class Scorer(Protocol):
    """A fitted model that scores. Many threads may use it at once."""

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of the positive class, or the predicted number, for each row: shape (rows,).

        For three or more classes, return the probability of each class: shape (rows, classes).
        """
        ...

    def predict_row(self, row: list[float]) -> Score:
        """Return the score of one row, in which NaN means null, by the fastest scoring path."""
        ...


@runtime_checkable
class PlainScorer(Scorer, Protocol):
    """A scorer that can score rows without NumPy."""

    def predict_rows(self, rows: list[list[float]]) -> list[Score]:
        """Return the scores of rows. The result equals `predict`, bit for bit."""
        ...


def check_columns(library: str, matrix: NDArray[Any], inputs: int) -> None:
    """Refuse a matrix that does not have one column for each input of a model.

    Raises:
        Misuse: The matrix has another number of columns, or is not a matrix.
    """
    if matrix.ndim != 2 or matrix.shape[1] != inputs:
        raise Misuse(f"{library}: the inputs have shape {matrix.shape}; needed {inputs} columns.")


def wrong_row(library: str, given: int, inputs: int) -> Misuse:
    """Return the error for a row that does not have one value for each input of a model."""
    return Misuse(f"{library}: needed {inputs} numbers, found {given} values.")


def row_score(scores: NDArray[Any]) -> Score:
    """Return the score of the only row in an array of scores."""
    found: Score = scores[0].tolist()
    return found


def second_of_two(scores: Any) -> NDArray[Any]:
    """Return the probabilities of the second class if there are two. Return other scores unchanged."""
    import numpy as np

    found = np.asarray(scores, np.float64)
    return np.ascontiguousarray(found[:, 1]) if found.ndim == 2 and found.shape[1] == 2 else found


class Runtime(Protocol):
    """A library that fits models and scores with them."""

    @property
    def name(self) -> str: ...

    @property
    def format(self) -> Format:
        """The uses of this library's stored models: export, import, SHAP values, parameters."""
        ...

    @property
    def row_exact(self) -> bool:
        """Whether a row gets the same score alone and in a batch, bit for bit."""
        ...

    @property
    def parity(self) -> float:
        """The allowed difference between scores of a stored model and of the model in memory (above 1: relative)."""
        ...

    def handles(self, estimator: Any) -> bool:
        """Return whether this runtime can fit the estimator."""
        ...

    def accepts_null(self, estimator: Any) -> bool:
        """Return whether the estimator accepts NaN. If not, nulls are replaced and columns scaled first."""
        ...

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        """Set seed and threads of an unfitted estimator. A seed that the user has set is kept."""
        ...

    def fit(
        self, estimator: Any, inputs: Array, target: Array, names: tuple[str, ...], weights: Array | None = None
    ) -> Any:
        """Fit on `inputs`, shape (rows, inputs). `weights` has one weight for each row; None: all are equal.

        Raise Misuse if there are weights and the estimator does not accept them.
        """
        ...

    def save(self, fitted: Any) -> bytes:
        """Return the fitted estimator as bytes. Equal estimators give equal bytes.

        Raise Misuse if the estimator cannot be stored.
        """
        ...

    def load(self, data: bytes) -> Scorer:
        """Return a scorer for stored bytes. Raise Corrupt if they are not a model."""
        ...

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        """Return the importance of each input, as computed by the library; None if it does not compute any."""
        ...


@runtime_checkable
class ListRuntime(Protocol):
    """A runtime with estimators that learn from whole lists. (Other estimators learn the relevance of each row.)"""

    def ranks(self, estimator: Any) -> bool:
        """Return whether this estimator learns from lists."""
        ...

    def fit_lists(
        self, estimator: Any, inputs: Array, relevance: Array, sizes: Array, weights: Array | None = None
    ) -> Any:
        """Fit on lists. Rows of one list are next to each other; `sizes` has the number of rows of each list.

        `weights` has one weight for each list; None: all are equal.

        Raise Misuse for lists or relevances that the library does not accept.
        """
        ...
