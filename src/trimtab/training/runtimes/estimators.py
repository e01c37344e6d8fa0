"""Estimators for ONNX and PyTorch. Importing this module loads neither library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trimtab.core.errors import Misuse


class OnnxEstimator:
    """A scikit-learn estimator that is converted to ONNX when it is stored. `onnx()` makes one."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __repr__(self) -> str:
        return f"onnx({self.estimator!r})"

    def fit(self, inputs: Any, target: Any) -> OnnxEstimator:
        """Fit the estimator."""
        self.estimator.fit(inputs, target)
        return self

    def predict(self, inputs: Any) -> Any:
        """Return the estimator's own predictions. (`predict_proba` returns probabilities.)"""
        return self.estimator.predict(inputs)

    def __getattr__(self, name: str) -> Any:
        if name == "predict_proba":  # `hasattr` must only be True if the wrapped estimator has this method
            return getattr(self.estimator, name)
        raise AttributeError(name)


def onnx(estimator: Any) -> OnnxEstimator:
    """Let ONNX Runtime compute an estimator's scores. Each fit converts the estimator, and compares the scores of both.

    They may differ by 1e-5, because some operations of ONNX only have single precision.

    Args:
        estimator: A scikit-learn estimator or pipeline.

    >>> from sklearn.linear_model import Ridge
    >>> onnx(Ridge())
    onnx(Ridge())
    """
    return OnnxEstimator(estimator)


class TorchEstimator:
    """A PyTorch network and how to fit it. `neural()` makes one."""

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
        """Fit on inputs without nulls, and return an object with `predict`."""
        from trimtab.training.runtimes.table import runtime_named

        return runtime_named("torch").fit(self, inputs, target, tuple(map(str, range(inputs.shape[1]))))

    def predict(self, inputs: Any) -> Any:
        """Raise an error, because predictions are made by the scorer that `fit` returns."""
        raise Misuse(f"{self!r}: this description of a network cannot predict. Call predict on what fit returned.")


def neural(
    layers: Sequence[int] | Callable[[int, int], Any] = (32, 16),
    *,
    epochs: int = 20,
    batch_rows: int = 256,
    learning_rate: float = 1e-3,
    seed: int | None = None,
) -> TorchEstimator:
    """Declare a neural network of PyTorch, which runs on the CPU (extra `torch`).

    Args:
        layers: The widths of the hidden layers, or a function that builds the network. It gets the number of inputs and
            the number of outputs, and returns a `torch.nn.Module`, whose result must have the shape (rows, outputs):
            logits of the classes, or the predicted number. The function must be at the top level of a file. A stored
            model has the function's name, a hash of the function's code, and the weights as numbers.
        epochs: How often all rows are used.
        batch_rows: How many rows each step uses.
        learning_rate: The learning rate of Adam.
        seed: The seed; by default that of the project.

    Raises:
        Misuse: A width, `epochs` or `batch_rows` is below 1, or the learning rate is invalid.

    >>> neural([16])
    neural([16])
    """
    build = layers if callable(layers) else None
    widths = () if callable(layers) else tuple(layers) if isinstance(layers, Sequence) else (None,)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (*widths, epochs, batch_rows)):
        raise Misuse(f"neural: {layers=}, {epochs=}, {batch_rows=}. Give whole numbers above 0, and layers as a list.")
    if not isinstance(learning_rate, float | int) or not 0.0 < learning_rate < float("inf"):
        raise Misuse(f"neural: learning_rate={learning_rate!r}. Give a number above 0, e.g. 0.001.")
    return TorchEstimator(widths, build, epochs=epochs, batch_rows=batch_rows, learning_rate=learning_rate, seed=seed)
