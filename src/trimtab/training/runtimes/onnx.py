"""ONNX: scikit-learn estimators converted when they are saved, scored by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.estimators import OnnxEstimator
from trimtab.training.runtimes.sklearn import RUNTIME as SKLEARN

_OPSET = {"": 18, "ai.onnx.ml": 3}  # fixed, so that equal estimators give equal bytes


class OnnxRuntime:
    """What scikit-learn fits, another engine scores."""

    name = "onnx"
    row_exact = False  # kernels for one row and for many differ in the last bits
    parity = 1e-5  # converters compute in single precision where ONNX has no other kernel

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, OnnxEstimator)

    def accepts_null(self, estimator: Any) -> bool:
        return SKLEARN.accepts_null(estimator.estimator)

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        SKLEARN.configure(estimator.estimator, seed=seed, threads=threads)

    def fit(self, estimator: Any, inputs: NDArray[Any], target: NDArray[Any], names: tuple[str, ...]) -> Any:
        return estimator.fit(inputs, target)

    def save(self, fitted: Any) -> bytes:
        return _converted(fitted.estimator)

    def load(self, data: bytes) -> OnnxScorer:
        return OnnxScorer(data)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        return SKLEARN.importance(fitted.estimator)


class OnnxScorer:
    """A session over one graph with one input of shape (rows, inputs)."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen kinds of its own, all of them for bytes it cannot read
            raise Corrupt(f"onnx: these {len(data)} bytes are no model: {str(error)[:200]}") from error
        taken = self._session.get_inputs()[0]
        self._input = taken.name
        self._kind = np.float32 if taken.type == "tensor(float)" else np.float64
        self._output = self._session.get_outputs()[-1].name  # of a classifier: after the classes the probabilities

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            return np.empty(0)
        found = self._session.run([self._output], {self._input: matrix.astype(self._kind, copy=False)})[0]
        scores = np.asarray(found, np.float64)
        if scores.ndim == 2 and scores.shape[1] <= 2:
            return np.ascontiguousarray(scores[:, -1])
        return scores

    def predict_row(self, row: list[float]) -> float:
        return float(self.predict(np.array([row], np.float64))[0])


def _converted(estimator: BaseEstimator) -> bytes:
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType

    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    shape = [("inputs", DoubleTensorType([None, estimator.n_features_in_]))]
    try:
        model = skl2onnx.convert_sklearn(
            estimator, name="model", initial_types=shape, options=options, target_opset=_OPSET
        )
    except Exception as error:  # a converter may raise anything for a part that it does not know
        raise Misuse(
            f"onnx: {type(estimator).__name__} cannot be converted: {type(error).__name__}: {str(error)[:200]}. "
            "Use it without onnx(...), as scikit-learn's own."
        ) from error
    return bytes(model.SerializeToString(deterministic=True))


RUNTIME = OnnxRuntime()
