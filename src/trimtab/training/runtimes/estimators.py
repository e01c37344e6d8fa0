"""Wrappers that choose how an estimator is stored and scored; loading this module loads no library."""

from __future__ import annotations

from typing import Any


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
        """What the estimator itself says: probabilities of a class come from `predict_proba`."""
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
