"""The protocols of model runtimes and scorers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from trimtab.core.errors import Misuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.runtimes.formats import Format

Trust = Literal["pickle"]  # "pickle": the user allows that loading the version runs code


Score: TypeAlias = float | list[float]  # the score of one row: a number, or the probabilities of three or more classes


class Scorer(Protocol):
    """A fitted model that scores; many threads may call it at once."""

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of the positive class (or the number) of each row: float64 (rows, inputs) to (rows,).

        With three or more classes return a probability of each class: (rows, classes).
        """
        ...

    def predict_row(self, row: list[float]) -> Score:
        """Return the score of one row (NaN for null), by the fastest path."""
        ...


@runtime_checkable
class PlainScorer(Scorer, Protocol):
    """A scorer that works without NumPy."""

    def predict_rows(self, rows: list[list[float]]) -> list[Score]:
        """Return the scores of a batch, with the same bits as `predict`."""
        ...


def check_columns(library: str, matrix: NDArray[Any], inputs: int) -> None:
    """Refuse a matrix whose columns are not the inputs of a model.

    Raises:
        Misuse: The matrix has another number of columns, or another number of dimensions.
    """
    if matrix.ndim != 2 or matrix.shape[1] != inputs:
        raise Misuse(f"{library}: inputs of shape {matrix.shape}; needed are {inputs} columns.")


def wrong_row(library: str, given: int, inputs: int) -> Misuse:
    """Return the error for a row whose number of values is not the number of the model's inputs."""
    return Misuse(f"{library}: {inputs} numbers are needed, {given} values were given.")


def row_score(scores: NDArray[Any]) -> Score:
    """Return the score of the only row of a batch."""
    found: Score = scores[0].tolist()
    return found


def second_of_two(scores: Any) -> NDArray[Any]:
    """Reduce probabilities of two classes to those of the second class. Other scores stay as they are."""
    import numpy as np

    found = np.asarray(scores, np.float64)
    return np.ascontiguousarray(found[:, 1]) if found.ndim == 2 and found.shape[1] == 2 else found


class Runtime(Protocol):
    """A library that fits and scores."""

    @property
    def name(self) -> str: ...

    @property
    def format(self) -> Format:
        """Export, import, contributions and parameters of the runtime's stored models."""
        ...

    @property
    def row_exact(self) -> bool:
        """Whether scoring one row and scoring a batch give the same bits."""
        ...

    @property
    def parity(self) -> float:
        """The largest difference allowed between a stored model and the one in memory, relative to scores above 1."""
        ...

    def handles(self, estimator: Any) -> bool:
        """Return whether this runtime fits the estimator."""
        ...

    def accepts_null(self, estimator: Any) -> bool:
        """Return whether the estimator can be fitted with NaN. If not, nulls are imputed and columns scaled first."""
        ...

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        """Set seed and threads on an unfitted estimator. A seed that the user chose is kept."""
        ...

    def fit(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        target: NDArray[Any],
        names: tuple[str, ...],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        """Fit on `inputs` of shape (rows, inputs), named by `names`, with one weight per row.

        Raises Misuse for weights if the estimator takes none.
        """
        ...

    def save(self, fitted: Any) -> bytes:
        """Return the fitted estimator as bytes; equal estimators give equal bytes.

        Raises Misuse for an estimator that cannot be saved.
        """
        ...

    def load(self, data: bytes) -> Scorer:
        """Return a scorer from saved bytes. Raises Corrupt if the bytes hold no model."""
        ...

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        """Return the library's importance of each input; None if the library computes none."""
        ...


@runtime_checkable
class ListRuntime(Protocol):
    """A runtime with estimators that learn from whole lists. Its other estimators learn the relevance of each row."""

    def ranks(self, estimator: Any) -> bool:
        """Return whether this estimator learns from lists."""
        ...

    def fit_lists(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        relevance: NDArray[Any],
        sizes: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        """Fit on lists. Rows of one list stand together, and `sizes` has the number of rows of each list, in order.

        `weights` has the weight of each list; None: all lists have the same weight.

        Raises Misuse for lists or a relevance that the library does not take.
        """
        ...
