"""ONNX: scikit-learn estimators are converted when they are stored, and scored by ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.expressions.code import distribution_version
from trimtab.training.runtimes.estimators import OnnxEstimator
from trimtab.training.runtimes.formats import ExportedCode, Format, Inspected, ModelFile
from trimtab.training.runtimes.library import LibraryRuntime
from trimtab.training.runtimes.ports import Array, Score, check_columns, row_score
from trimtab.training.runtimes.sklearn import RUNTIME as SKLEARN

_OPSET = {"": 18, "ai.onnx.ml": 3}  # fixed, so that equal estimators give equal bytes
_NUMBERS = re.compile(r"tensor\((bool|float|float16|double|u?int\d+)\)")


def open_session(data: bytes) -> Any:
    """Return a session of ONNX Runtime that uses one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, matrix: Any) -> Any:
    """Return the scores: the last output of a model that takes one matrix. (A classifier's first output is the
    classes.)

    If there are one or two columns of scores, only the last is returned.
    """
    import numpy as np

    taken = session.get_inputs()[0]
    kind = np.float32 if taken.type == "tensor(float)" else np.float64
    output = session.get_outputs()[-1].name
    scores = np.asarray(session.run([output], {taken.name: matrix.astype(kind, copy=False)})[0], np.float64)
    return np.ascontiguousarray(scores[:, -1]) if scores.ndim == 2 and scores.shape[1] <= 2 else scores


def score_exported(data: bytes, inputs: list[str]) -> Any:
    """Return the scorer of an exported model file."""
    session = open_session(data)
    return lambda matrix: run_session(session, matrix)


def _flavor(file: str, kind: str, made_with: Mapping[str, str]) -> dict[str, Any]:
    about = {"onnx_version": distribution_version("onnx"), "onnx_session_options": None}
    return {"data": file, "code": None, "providers": ["CPUExecutionProvider"], **about}


def _inspect(file: ModelFile) -> Inspected:
    try:
        session = open_session(file.data)
    except Exception as error:  # ONNX Runtime has a dozen types of errors, and here all of them mean unreadable bytes
        if "external data" in str(error).lower():
            raise Misuse(
                "onnx: its weights are in another file. Save all in one file (torch.onnx.export: external_data=False)."
            ) from error
        raise Corrupt(f"onnx: these bytes are not a model: {str(error)[:200]}") from error
    taken, given = session.get_inputs(), session.get_outputs()[-1]
    if len(taken) != 1 or len(taken[0].shape) != 2 or taken[0].type not in ("tensor(float)", "tensor(double)"):
        found = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in taken)
        raise Misuse(f"onnx: needed one input of floats, of shape (rows, inputs); found {found}.")
    if not given.type.startswith("tensor("):
        raise Misuse(f"onnx: its output {given.name!r} is {given.type}. Convert the model again with zipmap=False.")
    if not _NUMBERS.fullmatch(given.type):
        raise Misuse(
            f"onnx: its output {given.name!r} is {given.type}, needed numbers. Let its last output be the predictions."
        )
    rows, count = taken[0].shape
    if isinstance(rows, int):
        raise Misuse(
            f"onnx: it takes {rows} rows at a time, but must take any number. Convert the model again with its first "
            "dimension left open (torch.onnx.export: dynamic_shapes)."
        )
    return Inspected(
        runtime="onnx",
        data=file.data,
        kind="graph",
        count=count if isinstance(count, int) else None,
        accepts_null=count != len(file.names) or _scores_nulls(session, count),
    )


def _scores_nulls(session: Any, inputs: int) -> bool:
    """Return whether a row of nulls gets finite scores."""
    try:
        return bool(np.isfinite(run_session(session, np.full((1, inputs), np.nan))).all())
    except Exception:  # for example, NaN may become an index that the model refuses
        return False


class OnnxRuntime(LibraryRuntime):
    """Fits with scikit-learn, and scores with ONNX Runtime."""

    name = "onnx"
    row_exact = False  # the scores of a row alone and in a batch differ in the last bits
    parity = 1e-5  # some operations of ONNX only have single precision
    format = Format(
        export_file="model.onnx",
        exported=ExportedCode(score_exported, needs=(open_session, run_session)),
        flavor=_flavor,
        inspect=_inspect,
    )

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, OnnxEstimator)

    def accepts_null(self, estimator: Any) -> bool:
        return SKLEARN.accepts_null(estimator.estimator)

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        SKLEARN.configure(estimator.estimator, seed=seed, threads=threads)

    def fit(
        self, estimator: Any, inputs: Array, target: Array, names: tuple[str, ...], weights: Array | None = None
    ) -> Any:
        SKLEARN.fit(estimator.estimator, inputs, target, names, weights)
        return estimator

    def save(self, fitted: Any) -> bytes:
        return _converted(fitted.estimator)

    def load(self, data: bytes) -> OnnxModel:
        return OnnxModel(data)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        return SKLEARN.importance(fitted.estimator)


class OnnxModel:
    """A loaded model that takes one matrix of shape (rows, inputs)."""

    def __init__(self, data: bytes) -> None:
        try:
            self.session = open_session(data)
        # ONNX Runtime has a dozen types of errors, and here all of them mean unreadable bytes
        except Exception as error:
            raise Corrupt(f"onnx: these {len(data)} bytes are not a model: {str(error)[:200]}") from error
        taken, given = self.session.get_inputs()[0].shape, self.session.get_outputs()[-1].shape
        # 0: any number of columns is accepted
        self._columns = taken[1] if len(taken) == 2 and isinstance(taken[1], int) else 0
        self._classes = given[1] if len(given) == 2 and isinstance(given[1], int) else 1

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            return np.empty((0, self._classes) if self._classes > 2 else 0)
        if self._columns:
            check_columns("onnx", matrix, self._columns)
        return np.asarray(run_session(self.session, matrix))

    def predict_row(self, row: list[float]) -> Score:
        return row_score(self.predict(np.array([row], np.float64)))


def _converted(estimator: BaseEstimator) -> bytes:
    """Return the ONNX model in double precision, or in single precision if ONNX Runtime refuses that."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    if _splits_on_null(estimator):
        raise Misuse(
            f"onnx: {type(estimator).__name__} cannot be converted: its trees test for missing values, and skl2onnx "
            "never finishes with such trees. Declare the estimator itself, without onnx(...)."
        )
    try:
        data = _graph(estimator, DoubleTensorType)
        OnnxModel(data)
    except (Misuse, Corrupt):
        data = _graph(estimator, FloatTensorType)
        try:
            OnnxModel(data)
        except Corrupt as error:
            raise _unconverted(estimator, error) from error
    return data


def _graph(estimator: BaseEstimator, kind: Any) -> bytes:
    import skl2onnx

    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    shape = [("inputs", kind([None, estimator.n_features_in_]))]
    try:
        model = skl2onnx.convert_sklearn(
            estimator, name="model", initial_types=shape, options=options, target_opset=_OPSET
        )
    except Exception as error:  # a converter may raise any exception for a part that it does not know
        raise _unconverted(estimator, error) from error
    return bytes(model.SerializeToString(deterministic=True))


def _splits_on_null(estimator: BaseEstimator) -> bool:
    """Return whether a tree has a split with an infinite threshold, which separates null from all numbers."""
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


def _unconverted(estimator: BaseEstimator, error: Exception) -> Misuse:
    return Misuse(
        f"onnx: {type(estimator).__name__} cannot be converted: {type(error).__name__}: {str(error)[:200]}. "
        "Declare the estimator itself, without onnx(...)."
    )


RUNTIME = OnnxRuntime()
