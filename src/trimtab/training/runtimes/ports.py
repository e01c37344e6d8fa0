"""The protocols of model runtimes and scorers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from trimtab.core.errors import Misuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.runtimes.formats import Format

Trust = Literal["pickle"]  # "pickle": loading the version runs code


Score: TypeAlias = float | list[float]  # of one row: a number, or a probability of each of three or more classes


class Scorer(Protocol):
    """A fitted model that scores; many threads may call it at once."""

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The probability of the positive class (or the number) of each row: float64 (rows, inputs) to (rows,).

        Of three or more classes a probability of each: (rows, classes).
        """
        ...

    def predict_row(self, row: list[float]) -> Score:
        """The same for one row (NaN for null), by the fastest path."""
        ...


@runtime_checkable
class PlainScorer(Scorer, Protocol):
    """A scorer that works without NumPy."""

    def predict_rows(self, rows: list[list[float]]) -> list[Score]:
        """The scores of a batch: the bits of `predict`."""
        ...


def check_columns(library: str, matrix: NDArray[Any], inputs: int) -> None:
    """Refuse a matrix whose columns are not the inputs of a model.

    Raises:
        Misuse: It has fewer or more, or another number of dimensions.
    """
    if matrix.ndim != 2 or matrix.shape[1] != inputs:
        raise Misuse(f"{library}: inputs of shape {matrix.shape}; needed are {inputs} columns.")


def wrong_row(library: str, given: int, inputs: int) -> Misuse:
    """The error for a row with fewer or more values than a model has inputs."""
    return Misuse(f"{library}: {inputs} numbers are needed, {given} values were given.")


def row_score(scores: NDArray[Any]) -> Score:
    """The score of the only row of a batch."""
    found: Score = scores[0].tolist()
    return found


def second_of_two(scores: Any) -> NDArray[Any]:
    """Reduce probabilities of two classes to that of the second; other scores stay as they are."""
    import numpy as np

    found = np.asarray(scores, np.float64)
    return np.ascontiguousarray(found[:, 1]) if found.ndim == 2 and found.shape[1] == 2 else found


class Runtime(Protocol):
    """A library that fits and scores."""

    @property
    def name(self) -> str: ...

    @property
    def format(self) -> Format:
        """Export, import, contributions and parameters of its stored models."""
        ...

    @property
    def row_exact(self) -> bool:
        """Whether one row and a batch give the same bits."""
        ...

    @property
    def parity(self) -> float:
        """The largest difference allowed between a stored model and the one in memory, relative to scores above 1."""
        ...

    def handles(self, estimator: Any) -> bool:
        """Whether this is the estimator's runtime."""
        ...

    def accepts_null(self, estimator: Any) -> bool:
        """Whether it can be fitted with NaN; otherwise nulls are imputed and columns scaled first."""
        ...

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        """Set seed and threads on an unfitted estimator; a seed that the user chose stays."""
        ...

    def fit(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        target: NDArray[Any],
        names: tuple[str, ...],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        """Fit on `inputs` of shape (rows, inputs), named by `names`; each row counts by its weight.

        Raises Misuse for weights that the estimator does not take.
        """
        ...

    def save(self, fitted: Any) -> bytes:
        """The fitted estimator as bytes, the same for an equal one. Raises Misuse for one that it cannot save."""
        ...

    def load(self, data: bytes) -> Scorer:
        """A scorer from saved bytes. Raises Corrupt when they hold no model."""
        ...

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        """The library's importance of each input; None when it computes none."""
        ...


@runtime_checkable
class ListRuntime(Protocol):
    """A runtime with estimators that learn from whole lists; its others learn the relevance of each row."""

    def ranks(self, estimator: Any) -> bool:
        """Whether this estimator learns from lists."""
        ...

    def fit_lists(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        relevance: NDArray[Any],
        sizes: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        """Fit on lists: rows of one list stand together, and `sizes` has the number of rows of each, in order.

        `weights` has the weight of each list; None: all alike.

        Raises Misuse for lists or a relevance that the library does not take.
        """
        ...
