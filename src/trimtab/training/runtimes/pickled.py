"""Pickle: any Python class with `fit` and `predict`. It is only allowed with `trust="pickle"`."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.formats import ExportedCode, Format, Inspected, ModelFile
from trimtab.training.runtimes.library import LibraryRuntime
from trimtab.training.runtimes.ports import second_of_two
from trimtab.training.runtimes.scoring_paths import ScoringPaths, with_paths
from trimtab.training.runtimes.sklearn import RUNTIME as SKLEARN
from trimtab.training.runtimes.sklearn import EstimatorModel, estimator_scores, inputs_of


def score_exported(data: bytes, inputs: list[str]) -> Any:
    """Return the scorer of an exported model file."""
    import pickle  # such a model is only exported with trust="pickle", because loading it runs code

    estimator = pickle.loads(data)
    return lambda matrix: estimator_scores(estimator, matrix)


def _inspect(file: ModelFile) -> Inspected:
    estimator = _loads(file.data)
    if not RUNTIME.handles(estimator):
        raise Misuse(f"pickle: the file holds a {type(estimator).__name__}, which lacks fit or predict.")
    return Inspected(runtime="pickle", data=file.data, kind=type(estimator).__name__, **inputs_of(estimator))


def _loads(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except (Exception, SystemExit) as error:  # a pickle may run any code, and raise any exception
        raise Corrupt(
            f"pickle: these {len(data)} bytes cannot be loaded as an estimator: {type(error).__name__}: {error}."
        ) from error


class PickleRuntime(LibraryRuntime):
    """Fits and stores any estimator. An estimator with `accepts_null = True` gets NaN for null.

    For all others, nulls are replaced and columns scaled first.
    """

    name = "pickle"
    row_exact = False
    format = Format(
        export_file="model.pkl",
        exported=ExportedCode(score_exported, needs=(second_of_two, estimator_scores)),
        inspect=_inspect,
    )

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
                f"estimator {type(fitted).__qualname__}: pickle cannot store it: {error}. Let the estimator hold only "
                "data (no lock, open file or lambda), and define its class at the top level of a module that can be "
                "imported."
            ) from error

    def load(self, data: bytes) -> ScoringPaths:
        model = EstimatorModel(_loads(data))
        return with_paths(model, SKLEARN.scoring_paths(model))

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        weights = getattr(fitted, "feature_importances_", None)
        return None if weights is None else np.asarray(weights, np.float64)


RUNTIME = PickleRuntime()
