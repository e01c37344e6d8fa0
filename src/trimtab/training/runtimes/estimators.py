"""Wrappers of estimators for ONNX and PyTorch. Importing this module loads neither library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trimtab.core.errors import Misuse


class OnnxEstimator:
    """A scikit-learn estimator that is converted to ONNX when it is stored. Make one with `onnx()`."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __repr__(self) -> str:
        return f"onnx({self.estimator!r})"

    def fit(self, inputs: Any, target: Any) -> OnnxEstimator:
        """Fit the estimator."""
        self.estimator.fit(inputs, target)
        return self

    def predict(self, inputs: Any) -> Any:
        """The estimator's own predictions; probabilities come from `predict_proba`."""
        return self.estimator.predict(inputs)

    def __getattr__(self, name: str) -> Any:
        if name == "predict_proba":  # only where the estimator has it
            return getattr(self.estimator, name)
        raise AttributeError(name)


def onnx(estimator: Any) -> OnnxEstimator:
    """Score an estimator with ONNX Runtime: it is converted when it is stored, and compared with itself.

    The two may differ by 1e-5 of a score, because some of ONNX's kernels are of single precision.

    Args:
        estimator: A scikit-learn estimator or pipeline.

    >>> from sklearn.linear_model import Ridge
    >>> onnx(Ridge())
    onnx(Ridge())
    """
    return OnnxEstimator(estimator)


class TorchEstimator:
    """A PyTorch module and how it is fitted. Make one with `neural()`."""

    def __init__(
        self,
        layers: tuple[int, ...],
        build: Callable[[int, int], Any] | None,
        *,
        epochs: int,
        batch_rows: int,
        learning_rate: float,
        seed: int | None,
    ) -> None:
        self.layers = layers
        self.build = build
        self.epochs = epochs
        self.batch_rows = batch_rows
        self.learning_rate = learning_rate
        self.seed = seed
        self.threads = 1

    def __repr__(self) -> str:
        return f"neural({list(self.layers) if self.build is None else self.build.__name__})"

    def fit(self, inputs: Any, target: Any) -> Any:
        """Fit on inputs without null and return a scorer."""
        from trimtab.training.runtimes.table import runtime_named

        return runtime_named("torch").fit(self, inputs, target, tuple(map(str, range(inputs.shape[1]))))

    def predict(self, inputs: Any) -> Any:
        """Refused: `fit` returns the scorer."""
        raise Misuse(f"{self!r}: it does not predict. Call predict of what fit returned.")


def neural(
    layers: Sequence[int] | Callable[[int, int], Any] = (32, 16),
    *,
    epochs: int = 20,
    batch_rows: int = 256,
    learning_rate: float = 1e-3,
    seed: int | None = None,
) -> TorchEstimator:
    """A neural network of PyTorch, on the processor (extra `torch`).

    Args:
        layers: Widths of its hidden layers; or a function of the number of inputs and outputs that returns a
            `torch.nn.Module`, which returns logits of classes or a number: (rows, outputs). It must be at the top of
            a file, and is stored by its name and the hash of its code; only the weights are stored as numbers.
        epochs: How often all rows are seen.
        batch_rows: Rows of one step.
        learning_rate: Of Adam.
        seed: Left out, the project's.

    Raises:
        Misuse: A width, an epoch or a batch below 1, or a learning rate that is none.

    >>> neural([16])
    neural([16])
    """
    build = layers if callable(layers) else None
    widths = () if callable(layers) else tuple(layers)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (*widths, epochs, batch_rows)):
        raise Misuse(
            f"neural: layers={layers!r}, epochs={epochs!r}, batch_rows={batch_rows!r}. Give numbers from 1 on."
        )
    if not 0.0 < learning_rate < float("inf"):
        raise Misuse(f"neural: learning_rate={learning_rate!r}. Give a number above 0, e.g. 0.001.")
    return TorchEstimator(widths, build, epochs=epochs, batch_rows=batch_rows, learning_rate=learning_rate, seed=seed)
