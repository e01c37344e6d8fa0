"""What every runtime must do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

Trust = Literal["pickle"]  # how far a version may be trusted: "pickle" runs code when it is loaded


class Scorer(Protocol):
    """A fitted model that answers; many threads may call it at once."""

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """The probability of the positive class (or the number) of each row: float64 (rows, inputs) to (rows,)."""
        ...

    def predict_row(self, row: list[float]) -> float:
        """The same for one row (NaN for null), by the fastest way there is."""
        ...


class Runtime(Protocol):
    """A library that fits and scores."""

    @property
    def name(self) -> str: ...

    @property
    def row_exact(self) -> bool:
        """Whether one row and a batch give the same bits."""
        ...

    @property
    def parity(self) -> float:
        """How far a stored model may be from the one in memory, relative to scores above 1."""
        ...

    def handles(self, estimator: Any) -> bool:
        """Whether this is the estimator's runtime."""
        ...

    def accepts_null(self, estimator: Any) -> bool:
        """Whether it can be fitted with NaN; otherwise nulls are imputed and columns scaled before."""
        ...

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        """Set seed and threads on an unfitted estimator; a seed that the user chose stays."""
        ...

    def fit(self, estimator: Any, inputs: NDArray[Any], target: NDArray[Any], names: tuple[str, ...]) -> Any:
        """The fitted estimator: `inputs` of shape (rows, inputs), named by `names`."""
        ...

    def save(self, fitted: Any) -> bytes:
        """The fitted estimator; the same bytes for an equal one. Raises Misuse for one that it cannot save."""
        ...

    def load(self, data: bytes) -> Scorer:
        """What scores from saved bytes. Raises Corrupt when they are none."""
        ...

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        """A weight for each input, as the library sees it; None when it has no view."""
        ...
