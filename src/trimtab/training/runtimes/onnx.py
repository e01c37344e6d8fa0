"""ONNX: scikit-learn estimators converted when they are saved, scored by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.choosing import RowCall, Ways, per_thread
from trimtab.training.runtimes.estimators import OnnxEstimator
from trimtab.training.runtimes.ports import Score, check_columns, row_score, wrong_row
from trimtab.training.runtimes.sklearn import RUNTIME as SKLEARN
from trimtab.training.runtimes.weighted import fit_weighted

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

    def fit(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        target: NDArray[Any],
        names: tuple[str, ...],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        fit_weighted(estimator.estimator, inputs, target, weights)
        return estimator

    def save(self, fitted: Any) -> bytes:
        return _converted(fitted.estimator)

    def load(self, data: bytes) -> OnnxScorer:
        return OnnxScorer(data)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        return SKLEARN.importance(fitted.estimator)


class OnnxScorer(Ways):
    """A session over one graph with one input of shape (rows, inputs)."""

    def __init__(self, data: bytes) -> None:
        graph = self._graph = _Session(data)
        can_bind = graph.columns and _can_bind(graph)
        bound: dict[str, RowCall] = {"bound": per_thread(lambda: _BoundCall(graph).score)} if can_bind else {}
        super().__init__({**bound, "library": graph.alone})

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self._graph.predict(matrix)


class _Session:
    """The library's own session, and its own way."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen kinds of its own, all of them for bytes it cannot read
            raise Corrupt(f"onnx: these {len(data)} bytes are no model: {str(error)[:200]}") from error
        taken = self.session.get_inputs()[0]
        self.input = taken.name
        self.kind = np.float32 if taken.type == "tensor(float)" else np.float64
        answers = self.session.get_outputs()[-1]  # of a classifier: after the classes the probabilities
        self.output = answers.name
        width = answers.shape[1] if len(answers.shape) == 2 else 1
        self._classes = width if isinstance(width, int) else 1
        columns = taken.shape[1] if len(taken.shape) == 2 else None
        self.columns = columns if isinstance(columns, int) else 0

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            return np.empty((0, self._classes) if self._classes > 2 else 0)
        if self.columns:
            check_columns("onnx", matrix, self.columns)
        found = self.session.run([self.output], {self.input: matrix.astype(self.kind, copy=False)})[0]
        scores = np.asarray(found, np.float64)
        if scores.ndim == 2 and scores.shape[1] <= 2:
            return np.ascontiguousarray(scores[:, -1])
        return scores

    def alone(self, row: list[float]) -> Score:
        return row_score(self.predict(np.array([row], np.float64)))


def _can_bind(graph: _Session) -> bool:
    """Whether tensors that stay give the bits of those made for a call."""
    rows = np.random.default_rng(0).normal(size=(4, graph.columns)).tolist()
    try:
        call = _BoundCall(graph)
        return [call.score(row) for row in rows] == [graph.alone(row) for row in rows]
    except Exception:  # ONNX Runtime's own kinds: a graph with another shape of answers stays with the plain call
        return False


class _BoundCall:
    """Tensors of one thread that are bound to the session once, for the input of a row and its answer."""

    def __init__(self, graph: _Session) -> None:
        self._run = graph.session.run_with_iobinding
        self._columns = graph.columns
        self._row = np.zeros((1, graph.columns), graph.kind)
        found = graph.session.run([graph.output], {graph.input: self._row})[0]
        self._scores = np.zeros_like(found)
        self._binding = graph.session.io_binding()
        for bind, name, array in (
            (self._binding.bind_input, graph.input, self._row),
            (self._binding.bind_output, graph.output, self._scores),
        ):
            bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._several = found.ndim == 2 and found.shape[1] > 2

    def score(self, row: list[float]) -> Score:
        if len(row) != self._columns:
            raise wrong_row("onnx", len(row), self._columns)
        self._row[0] = row
        self._run(self._binding)
        scores: list[float] = self._scores.reshape(-1).tolist()
        return scores if self._several else scores[-1]


def _converted(estimator: BaseEstimator) -> bytes:
    """The graph in double precision, or in single where ONNX Runtime has no kernels of double for a part of it."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    if _asks_for_null(estimator):
        raise Misuse(
            f"onnx: {type(estimator).__name__} cannot be converted: its trees ask whether a value is missing, and "
            "skl2onnx comes to no end with that. Use it without onnx(...), as scikit-learn's own."
        )
    try:
        data = _graph(estimator, DoubleTensorType)
        OnnxScorer(data)
    except (Misuse, Corrupt):
        data = _graph(estimator, FloatTensorType)
        try:
            OnnxScorer(data)
        except Corrupt as error:
            raise _unfit(estimator, error) from error
    return data


def _graph(estimator: BaseEstimator, kind: Any) -> bytes:
    import skl2onnx

    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    shape = [("inputs", kind([None, estimator.n_features_in_]))]
    try:
        model = skl2onnx.convert_sklearn(
            estimator, name="model", initial_types=shape, options=options, target_opset=_OPSET
        )
    except Exception as error:  # a converter may raise anything for a part that it does not know
        raise _unfit(estimator, error) from error
    return bytes(model.SerializeToString(deterministic=True))


def _asks_for_null(estimator: BaseEstimator) -> bool:
    """Whether a tree in it has a split that only parts null from all else: its threshold is infinite."""
    waiting: list[Any] = [estimator]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseEstimator) and id(one) not in seen:
            seen.add(id(one))
            tree = getattr(one, "tree_", None)
            if tree is not None and np.isinf(tree.threshold).any():
                return True
            waiting += vars(one).values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, np.ndarray) and one.dtype == object:
            waiting += one.ravel().tolist()
    return False


def _unfit(estimator: BaseEstimator, error: Exception) -> Misuse:
    return Misuse(
        f"onnx: {type(estimator).__name__} cannot be converted: {type(error).__name__}: {str(error)[:200]}. "
        "Use it without onnx(...), as scikit-learn's own."
    )


RUNTIME = OnnxRuntime()
