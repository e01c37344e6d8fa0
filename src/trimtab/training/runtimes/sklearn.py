"""scikit-learn: saved with skops; linear models are scored by a dot product of their own."""

from __future__ import annotations

import math
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import get_tags
from threadpoolctl import ThreadpoolController

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.choosing import RowCall, Ways
from trimtab.training.runtimes.ports import Score, Scorer, check_columns, row_score, wrong_row
from trimtab.training.runtimes.sklearn_rows import quick_row
from trimtab.training.runtimes.skops_bytes import dumps, loads
from trimtab.training.runtimes.weighted import FitsInPlace

_LARGE = 3.0e38  # what is still a float32


class SklearnRuntime(FitsInPlace):
    """Any estimator made of scikit-learn's own parts."""

    name = "sklearn"
    row_exact = False  # a batch goes through other BLAS kernels than one row
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, BaseEstimator) and type(estimator).__module__.partition(".")[0] == "sklearn"

    def accepts_null(self, estimator: Any) -> bool:
        for _, part in getattr(estimator, "steps", [("", estimator)]):
            if not get_tags(part).input_tags.allow_nan:
                return False
            if type(part).__name__.endswith("Imputer"):
                return True
        return True

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
        return scorer_of(loads(data))

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        if hasattr(fitted, "feature_importances_"):
            return np.asarray(fitted.feature_importances_, np.float64)
        weights = getattr(fitted, "coef_", None)
        if weights is None:
            return None
        sizes = np.abs(np.asarray(weights, np.float64))
        return sizes.mean(axis=0) if sizes.ndim == 2 and len(sizes) > 1 else sizes.reshape(-1)  # over classes


def scorer_of(fitted: Any) -> Scorer:
    """What scores with a fitted estimator."""
    if is_classifier(fitted) and not hasattr(fitted, "predict_proba"):
        raise Misuse(
            f"estimator {type(fitted).__name__}: it gives classes and no probabilities. "
            'Choose one with predict_proba (SGDClassifier: loss="log_loss").'
        )
    if is_softmax(fitted):
        return SoftmaxScorer(fitted)
    return LinearScorer(fitted) if is_linear(fitted) else EstimatorScorer(fitted)


class EstimatorScorer(Ways):
    """Scores through `predict_proba`, or `predict` where that is missing; one row by a quicker way, if one is known."""

    def __init__(self, estimator: Any) -> None:
        own = self._own = _Own(estimator)
        quick = quick_row(estimator)
        ways = {} if quick is None or not own.agrees(quick[1]) else {quick[0]: own.where_finite(quick[1])}
        super().__init__({**ways, "library": own.alone})

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self._own.predict(matrix)


class _Own:
    """A fitted estimator, and its own way."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator
        self._inputs = getattr(estimator, "n_features_in_", None)  # None: a class of one's own that does not say
        self._probability = hasattr(estimator, "predict_proba")
        self._threads = ThreadpoolController()

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            classes = len(self.estimator.classes_) if hasattr(self.estimator, "classes_") else 0
            return np.empty((0, classes) if self._probability and classes > 2 else 0)
        if self._inputs is not None:
            check_columns(type(self.estimator).__name__, matrix, self._inputs)
        with self._threads.limit(limits=1):  # beside other processes, more threads wait for each other
            return self._scores(matrix)

    def _scores(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not self._probability:
            return np.asarray(self.estimator.predict(matrix), np.float64)
        scores = np.asarray(self.estimator.predict_proba(matrix), np.float64)
        return np.ascontiguousarray(scores[:, 1]) if scores.ndim == 2 and scores.shape[1] == 2 else scores

    def alone(self, row: list[float]) -> Score:
        return row_score(self.predict(np.array([row], np.float64)))

    def where_finite(self, call: RowCall) -> RowCall:
        """The call for rows of ordinary size: others are the library's to refuse, in its own words."""
        alone = self.alone

        def finite(row: list[float]) -> Score:
            there = row if row and row[0] == row[0] else [value for value in row if value == value] or [0.0]
            return call(row) if max(there) < _LARGE and min(there) > -_LARGE else alone(row)

        return finite

    def agrees(self, call: RowCall) -> bool:
        """Whether a call gives what the library does, but for the last bits, on rows at random, of counts and of 0."""
        draw, width = np.random.default_rng(0), self.estimator.n_features_in_
        rows = np.vstack([draw.normal(size=(24, width)), draw.integers(-1, 4, size=(24, width)).astype(np.float64)])
        rows[:12] *= 100.0
        rows[14], rows[15, ::2], rows[16, 1::2] = 0.0, 0.0, 0.0
        if RUNTIME.accepts_null(self.estimator):
            rows[0], rows[1, ::2], rows[13, ::3] = np.nan, np.nan, np.nan
        own = self.predict(rows)
        found = np.array([call(row) for row in rows.tolist()])
        return found.shape == own.shape and np.allclose(found, own, rtol=1e-12, atol=1e-12)


class LinearScorer:
    """Scores a linear model without its library: a dot product, and for a class the logistic function."""

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


class SoftmaxScorer:
    """Scores a logistic regression of several classes without its library: a dot product for each, and the softmax."""

    def __init__(self, estimator: Any) -> None:
        self._weights = np.ascontiguousarray(estimator.coef_, np.float64).T
        self._offsets = np.asarray(estimator.intercept_, np.float64) + np.zeros(len(estimator.classes_))
        self._rows: list[tuple[list[float], float]] = list(
            zip(self._weights.T.tolist(), self._offsets.tolist(), strict=True)
        )

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        check_columns("scikit-learn", matrix, len(self._weights))
        return np.asarray(softmax(matrix @ self._weights + self._offsets, axis=1), np.float64)

    def predict_row(self, row: list[float]) -> list[float]:
        if len(row) != len(self._weights):
            raise wrong_row("scikit-learn", len(row), len(self._weights))
        raw = [sum(map(mul, row, weights)) + offset for weights, offset in self._rows]
        most = max(raw)
        powers = [math.exp(one - most) for one in raw]
        total = sum(powers)
        return [power / total for power in powers]


def is_softmax(fitted: Any) -> bool:
    """A logistic regression of several classes whose answers are known to be this formula."""
    kind = type(fitted)
    if not kind.__module__.startswith("sklearn.linear_model.") or kind.__name__ != "LogisticRegression":
        return False
    return len(fitted.classes_) > 2 and fitted.solver != "liblinear" and np.isfinite(fitted.coef_).all()


def is_linear(fitted: Any) -> bool:
    """Models whose answer is known to be this formula; each is compared with its own answers when it is fitted."""
    kind = type(fitted)
    if not kind.__module__.startswith("sklearn.linear_model.") or not hasattr(fitted, "coef_"):
        return False
    if kind.__name__ == "LogisticRegression" or (kind.__name__ == "SGDClassifier" and fitted.loss == "log_loss"):
        return len(fitted.classes_) == 2
    return kind.__name__ in ("LinearRegression", "Ridge", "Lasso", "ElasticNet", "SGDRegressor", "HuberRegressor")


RUNTIME = SklearnRuntime()
