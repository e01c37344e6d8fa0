"""scikit-learn: models are stored with skops. Linear models are scored here, without the library."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import lru_cache
from operator import mul
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import get_tags
from threadpoolctl import ThreadpoolController

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.formats import ExportedCode, Format, Inspected, ModelFile
from trimtab.training.runtimes.library import LibraryRuntime
from trimtab.training.runtimes.ports import Score, Scorer, check_columns, row_score, second_of_two, wrong_row
from trimtab.training.runtimes.scoring_paths import RowCall, with_paths
from trimtab.training.runtimes.sklearn_rows import is_linear, is_softmax, quick_row
from trimtab.training.runtimes.skops_bytes import ALLOWED, dumps, loads

_LARGE = 3.0e38  # larger numbers do not fit in float32
# finding the thread pools takes 4 ms; it is repeated when `modules`, the number of loaded modules, has changed
_thread_pools = lru_cache(maxsize=1)(lambda modules: ThreadpoolController())


def estimator_scores(estimator: Any, matrix: Any) -> Any:
    """Return the scores of `predict_proba`, or of `predict` if the estimator has no `predict_proba`."""
    import numpy as np

    if hasattr(estimator, "predict_proba"):
        return second_of_two(estimator.predict_proba(matrix))
    return np.asarray(estimator.predict(matrix), np.float64)


def score_exported(data: bytes, inputs: list[str]) -> Any:
    """Return the scorer of an exported model file."""
    import skops.io

    estimator = skops.io.loads(data, trusted=list(ALLOWED))
    return lambda matrix: estimator_scores(estimator, matrix)


def inputs_of(estimator: Any) -> dict[str, Any]:
    """Return the names and the number of an estimator's inputs, as far as it knows them."""
    names = getattr(estimator, "feature_names_in_", None)
    return {
        "inputs": () if names is None else tuple(map(str, names)),
        "count": getattr(estimator, "n_features_in_", None),
    }


def _flavor(file: str, kind: str, made_with: Mapping[str, str]) -> dict[str, Any]:
    about = {"sklearn_version": made_with.get("scikit-learn"), "serialization_format": "skops"}
    return {"pickled_model": file, "code": None, "skops_trusted_types": list(ALLOWED), **about}


def _parameters(data: bytes) -> dict[str, str]:
    given = loads(data).get_params(deep=True)
    return {name: repr(value) for name, value in given.items() if not hasattr(value, "get_params")}


def _contributions(data: bytes, inputs: NDArray[Any], centred: bool) -> tuple[Any, Any] | None:
    """Return the SHAP values of each row followed by the offset, and the raw scores.

    They are only known for a linear model whose inputs have the mean 0 (`centred`). Otherwise, the result is None.
    """
    if not centred:
        return None
    fitted = loads(data)
    if not (is_linear(fitted) or is_softmax(fitted)):
        return None
    weights = np.atleast_2d(np.asarray(fitted.coef_, np.float64))  # shape (scores, inputs)
    offsets = np.asarray(fitted.intercept_, np.float64).reshape(-1) + np.zeros(len(weights))
    last = np.broadcast_to(offsets[None, :, None], (len(inputs), len(offsets), 1))
    return np.concatenate([inputs[:, None, :] * weights, last], axis=2), inputs @ weights.T + offsets


def _inspect(file: ModelFile) -> Inspected:
    estimator = loads(file.data)
    if not RUNTIME.handles(estimator):
        raise Misuse(f"skops: the file holds a {type(estimator).__name__}, which is not an estimator of scikit-learn.")
    return Inspected(
        runtime="sklearn",
        data=RUNTIME.save(estimator),
        kind=type(estimator).__name__,
        accepts_null=RUNTIME.accepts_null(estimator),
        **inputs_of(estimator),
    )


class SklearnRuntime(LibraryRuntime):
    """Fits and stores estimators that consist of scikit-learn's own parts."""

    name = "sklearn"
    row_exact = False  # BLAS computes one row and many rows differently
    format = Format(
        export_file="model.skops",
        exported=ExportedCode(score_exported, needs=(second_of_two, estimator_scores), constants={"ALLOWED": ALLOWED}),
        flavor=_flavor,
        parameters=_parameters,
        contributions=_contributions,
        inspect=_inspect,
    )

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, BaseEstimator) and type(estimator).__module__.partition(".")[0] == "sklearn"

    def accepts_null(self, estimator: Any) -> bool:
        return _nulls(estimator) != "refused"

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        given = estimator.get_params(deep=True)
        chosen: dict[str, Any] = {}
        for name, value in given.items():
            if name.rpartition("__")[2] == "random_state" and value is None:
                chosen[name] = seed
            elif name.rpartition("__")[2] == "n_jobs" and value != threads and (value is not None or threads != 1):
                chosen[name] = threads
        estimator.set_params(**chosen)

    def save(self, fitted: Any) -> bytes:
        return dumps(fitted)

    def load(self, data: bytes) -> Scorer:
        return self.scorer(loads(data))

    def scorer(self, fitted: Any) -> Scorer:
        """Return a scorer of a fitted estimator."""
        if is_classifier(fitted) and not hasattr(fitted, "predict_proba"):
            raise Misuse(
                f"estimator {type(fitted).__name__}: it predicts classes, not probabilities. Choose one with "
                'predict_proba (SGDClassifier: loss="log_loss").'
            )
        if is_linear(fitted):
            return LinearScorer(fitted)
        model = EstimatorModel(fitted)
        return with_paths(model, self.scoring_paths(model))

    def scoring_paths(self, model: EstimatorModel) -> Mapping[str, RowCall]:
        quick = quick_row(model.estimator)
        return {} if quick is None or not model.agrees(quick[1]) else {quick[0]: model.where_finite(quick[1])}

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        if hasattr(fitted, "feature_importances_"):
            return np.asarray(fitted.feature_importances_, np.float64)
        weights = getattr(fitted, "coef_", None)
        if weights is None:
            return None
        sizes = np.abs(np.asarray(weights, np.float64))
        # for several classes, the mean over them
        return sizes.mean(axis=0) if sizes.ndim == 2 and len(sizes) > 1 else sizes.reshape(-1)


class EstimatorModel:
    """A fitted estimator that is scored by its own methods."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        # the number of inputs; None: not known, because the class is the user's own
        self._inputs = getattr(estimator, "n_features_in_", None)
        self._threads = _thread_pools(len(sys.modules))

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            probability = hasattr(self.estimator, "predict_proba") and hasattr(self.estimator, "classes_")
            classes = len(self.estimator.classes_) if probability else 0
            return np.empty((0, classes) if classes > 2 else 0)
        if self._inputs is not None:
            check_columns(type(self.estimator).__name__, matrix, self._inputs)
        with self._threads.limit(limits=1):  # more threads would wait for each other if other processes run
            return np.asarray(estimator_scores(self.estimator, matrix))

    def predict_row(self, row: list[float]) -> Score:
        return row_score(self.predict(np.array([row], np.float64)))

    def where_finite(self, call: RowCall) -> RowCall:
        """Return a function that scores rows with `call` if all their values fit in float32.

        The library scores, or refuses, other rows.
        """
        alone = self.predict_row

        def finite(row: list[float]) -> Score:
            there = row if row and row[0] == row[0] else [value for value in row if value == value] or [0.0]
            return call(row) if max(there) < _LARGE and min(there) > -_LARGE else alone(row)

        return finite

    def agrees(self, call: RowCall) -> bool:
        """Return whether a function for single rows gives the library's scores, except for rounding.

        This is tried with random rows, rows of small whole numbers, rows with zeros, and rows with nulls if allowed.
        """
        draw, width = np.random.default_rng(0), self.estimator.n_features_in_
        rows = np.vstack([draw.normal(size=(24, width)), draw.integers(-1, 4, size=(24, width)).astype(np.float64)])
        rows[:12] *= 100.0
        rows[14], rows[15, ::2], rows[16, 1::2] = 0.0, 0.0, 0.0
        if RUNTIME.accepts_null(self.estimator):
            rows[0], rows[1, ::2], rows[13, ::3] = np.nan, np.nan, np.nan
        own = self.predict(rows)
        found = np.array([call(row) for row in rows.tolist()])
        return found.shape == own.shape and np.allclose(found, own, rtol=1e-12, atol=1e-12)


def _nulls(part: Any) -> Literal["refused", "passed", "replaced"]:
    """Return what an estimator, or a step of one, does with nulls."""
    if part in ("drop", "passthrough", None):
        return "replaced" if part == "drop" else "passed"
    if (steps := getattr(part, "steps", None)) is not None:
        found = (_nulls(step) for _, step in steps)
        return next((one for one in found if one != "passed"), "passed")
    sides = getattr(part, "transformers", getattr(part, "transformer_list", None))  # each gets some of the columns
    if sides is not None:
        of_sides = {_nulls(one) for one in (*(side[1] for side in sides), getattr(part, "remainder", "drop"))}
        return "refused" if "refused" in of_sides else "passed" if "passed" in of_sides else "replaced"
    if not get_tags(part).input_tags.allow_nan:
        return "refused"
    replaced = type(part).__name__.endswith(("Imputer", "MissingIndicator", "OneHotEncoder"))
    return "replaced" if replaced else "passed"


class LinearScorer:
    """Scores a linear model without the library: a dot product; for a class, the logistic function of it."""

    def __init__(self, estimator: Any) -> None:
        self._weights = np.ascontiguousarray(estimator.coef_, np.float64).reshape(-1)
        self._row_weights: list[float] = self._weights.tolist()
        self._offset = float(np.asarray(estimator.intercept_).reshape(-1)[0])
        self._logistic = hasattr(estimator, "predict_proba")

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        check_columns("scikit-learn", matrix, len(self._row_weights))
        scores = matrix @ self._weights + self._offset
        return np.asarray(expit(scores) if self._logistic else scores, np.float64)

    def predict_row(self, row: list[float]) -> float:
        if len(row) != len(self._row_weights):
            raise wrong_row("scikit-learn", len(row), len(self._row_weights))
        score: float = sum(map(mul, row, self._row_weights)) + self._offset
        if not self._logistic:
            return score
        return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else (e := math.exp(score)) / (1.0 + e)


RUNTIME = SklearnRuntime()
