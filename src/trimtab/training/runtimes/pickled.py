"""Any Python class with `fit` and `predict`, saved with pickle: only where `trust="pickle"` was given."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.ports import Scorer
from trimtab.training.runtimes.weighted import FitsInPlace


class PickleRuntime(FitsInPlace):
    """An estimator that says `accepts_null = True` gets NaN for null; any other gets imputed, scaled columns."""

    name = "pickle"
    row_exact = False
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        return hasattr(estimator, "fit") and (hasattr(estimator, "predict") or hasattr(estimator, "predict_proba"))

    def accepts_null(self, estimator: Any) -> bool:
        return bool(getattr(estimator, "accepts_null", False))

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        if getattr(estimator, "random_state", seed) is None:
            estimator.random_state = seed
        if hasattr(estimator, "n_jobs"):
            estimator.n_jobs = threads

    def save(self, fitted: Any) -> bytes:
        try:
            return pickle.dumps(fitted, protocol=5)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise Misuse(
                f"estimator {type(fitted).__qualname__}: pickle cannot store it: {error}. "
                "Let it hold nothing but data (no lock, open file or lambda), and define its class at the top of a "
                "module that can be imported."
            ) from error

    def load(self, data: bytes) -> Scorer:
        from trimtab.training.runtimes.sklearn import EstimatorScorer

        try:
            return EstimatorScorer(pickle.loads(data))
        except (Exception, SystemExit) as error:  # it may run any code, and raise anything
            said = f"{type(error).__name__}: {error}"
            raise Corrupt(f"pickle: these {len(data)} bytes are no estimator of this project: {said}.") from error

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        weights = getattr(fitted, "feature_importances_", None)
        return None if weights is None else np.asarray(weights, np.float64)
