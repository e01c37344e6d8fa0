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
        """Return the estimator's own predictions; probabilities come from `predict_proba`."""
        return self.estimator.predict(inputs)

    def __getattr__(self, name: str) -> Any:
        if name == "predict_proba":  # only if the wrapped estimator has the method
            return getattr(self.estimator, name)
        raise AttributeError(name)


def onnx(estimator: Any) -> OnnxEstimator:
    """Score an estimator with ONNX Runtime. It is converted when it is stored, and compared with the original.

    The scores of the two may differ by 1e-5, because some of ONNX's kernels have single precision.

    Args:
        estimator: A scikit-learn estimator or pipeline.

    >>> from sklearn.linear_model import Ridge
    >>> onnx(Ridge())
    onnx(Ridge())
    """
    return OnnxEstimator(estimator)


class TorchEstimator:
    """The description of a PyTorch module and of its fit. Make one with `neural()`."""

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
        """Raises an error, because the scorer that `fit` returns predicts."""
        raise Misuse(f"{self!r}: it does not predict. Call predict of what fit returned.")


def neural(
    layers: Sequence[int] | Callable[[int, int], Any] = (32, 16),
    *,
    epochs: int = 20,
    batch_rows: int = 256,
    learning_rate: float = 1e-3,
    seed: int | None = None,
) -> TorchEstimator:
    """Declare a neural network of PyTorch, which runs on the processor (extra `torch`).

    Args:
        layers: The widths of the hidden layers. Or a function of the numbers of inputs and outputs that returns a
            `torch.nn.Module`, whose result has shape (rows, outputs): logits of classes, or a number. The function must
            be at the top level of a file. Its name and the hash of its code are stored; of the module only the weights
            are stored, as numbers.
        epochs: The number of times that all rows are seen.
        batch_rows: The number of rows per step.
        learning_rate: The learning rate of Adam.
        seed: The seed; by default that of the project.

    Raises:
        Misuse: A width, an epoch or a batch is below 1, or the learning rate is invalid.

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
