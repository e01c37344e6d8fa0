"""scikit-learn: saved with skops; linear models are scored by a dot product of their own."""

from __future__ import annotations

import math
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import get_tags
from threadpoolctl import ThreadpoolController

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.ports import Scorer
from trimtab.training.runtimes.skops_bytes import dumps, loads


class SklearnRuntime:
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

    def fit(self, estimator: Any, inputs: NDArray[Any], target: NDArray[Any], names: tuple[str, ...]) -> Any:
        estimator.fit(inputs, target)
        return estimator

    def save(self, fitted: Any) -> bytes:
        return dumps(fitted)

    def load(self, data: bytes) -> Scorer:
        return scorer_of(loads(data))

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        if hasattr(fitted, "feature_importances_"):
            return np.asarray(fitted.feature_importances_, np.float64)
        weights = getattr(fitted, "coef_", None)
        return None if weights is None else np.abs(np.asarray(weights, np.float64)).reshape(-1)


def scorer_of(fitted: Any) -> Scorer:
    """What scores with a fitted estimator."""
    if is_classifier(fitted) and not hasattr(fitted, "predict_proba"):
        raise Misuse(
            f"estimator {type(fitted).__name__}: it gives classes and no probabilities. "
            'Choose one with predict_proba (SGDClassifier: loss="log_loss").'
        )
    return LinearScorer(fitted) if _is_linear(fitted) else EstimatorScorer(fitted)


class EstimatorScorer:
    """Scores through `predict_proba`, or `predict` where that is missing."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator
        self._probability = hasattr(estimator, "predict_proba")
        self._threads = ThreadpoolController()

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            return np.empty(0)
        with self._threads.limit(limits=1):  # beside other processes, more threads wait for each other
            return self._scores(matrix)

    def _scores(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not self._probability:
            return np.asarray(self._estimator.predict(matrix), np.float64)
        scores = np.asarray(self._estimator.predict_proba(matrix), np.float64)
        return np.ascontiguousarray(scores[:, 1]) if scores.ndim == 2 and scores.shape[1] == 2 else scores

    def predict_row(self, row: list[float]) -> float:
        return float(self.predict(np.array([row], np.float64))[0])


class LinearScorer:
    """Scores a linear model without its library: a dot product, and for a class the logistic function."""

    def __init__(self, estimator: Any) -> None:
        self._weights = np.ascontiguousarray(estimator.coef_, np.float64).reshape(-1)
        self._row_weights: list[float] = self._weights.tolist()
        self._offset = float(np.asarray(estimator.intercept_).reshape(-1)[0])
        self._logistic = hasattr(estimator, "predict_proba")

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        scores = matrix @ self._weights + self._offset
        return np.asarray(expit(scores) if self._logistic else scores, np.float64)

    def predict_row(self, row: list[float]) -> float:
        score: float = sum(map(mul, row, self._row_weights)) + self._offset
        if not self._logistic:
            return score
        return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else (e := math.exp(score)) / (1.0 + e)


def _is_linear(fitted: Any) -> bool:
    """Models whose answer is known to be this formula; each is compared with its own answers when it is fitted."""
    kind = type(fitted)
    if not kind.__module__.startswith("sklearn.linear_model.") or not hasattr(fitted, "coef_"):
        return False
    if kind.__name__ == "LogisticRegression" or (kind.__name__ == "SGDClassifier" and fitted.loss == "log_loss"):
        return len(fitted.classes_) == 2
    return kind.__name__ in ("LinearRegression", "Ridge", "Lasso", "ElasticNet", "SGDRegressor", "HuberRegressor")


RUNTIME = SklearnRuntime()
