"""CatBoost: saved in its own binary format, without the moment and the name that it gives every model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import catboost
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt

_TOLD_APART = {"model_guid": "", "train_finish_time": ""}  # what differs between models that are equal
_PROBABILITY = "probability"


class CatboostRuntime:
    """Fits with a fixed seed; equal data and threads give equal bytes."""

    name = "catboost"
    row_exact = True
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, catboost.CatBoost)

    def accepts_null(self, estimator: Any) -> bool:
        return True

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        given = estimator.get_params()
        chosen: dict[str, Any] = {"thread_count": threads, "allow_writing_files": False}
        if not {"random_seed", "random_state"} & given.keys():
            chosen["random_seed"] = seed
        if not {"verbose", "verbose_eval", "silent", "logging_level"} & given.keys():
            chosen["verbose"] = False
        for other in ("n_jobs", "thread_count"):
            if other in given:
                chosen.pop("thread_count", None)
                chosen[other] = threads
        estimator.set_params(**chosen)

    def fit(self, estimator: Any, inputs: NDArray[Any], target: NDArray[Any], names: tuple[str, ...]) -> Any:
        return estimator.fit(inputs, target)

    def save(self, fitted: Any) -> bytes:
        metadata = fitted.get_metadata()
        for name, value in _TOLD_APART.items():
            metadata[name] = value
        metadata["trimtab"] = _PROBABILITY if hasattr(fitted, "predict_proba") else "number"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.cbm"
            fitted.save_model(str(file), format="cbm")
            return file.read_bytes()

    def load(self, data: bytes) -> CatboostScorer:
        return CatboostScorer(data)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        return np.asarray(fitted.get_feature_importance(), np.float64)


class CatboostScorer:
    """A model read from its bytes."""

    def __init__(self, data: bytes) -> None:
        self._model = catboost.CatBoost()
        try:
            self._model.load_model(blob=data, format="cbm")
        except catboost.CatBoostError as error:
            raise Corrupt(f"catboost: these {len(data)} bytes are no model: {str(error)[:200]}") from error
        self._probability = self._model.get_metadata()["trimtab"] == _PROBABILITY

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            return np.empty(0)
        kind = "Probability" if self._probability else "RawFormulaVal"
        scores = np.asarray(self._model.predict(matrix, prediction_type=kind, thread_count=1), np.float64)
        return np.ascontiguousarray(scores[:, 1]) if scores.ndim == 2 and scores.shape[1] == 2 else scores

    def predict_row(self, row: list[float]) -> float:
        return float(self.predict(np.array([row], np.float64))[0])


RUNTIME = CatboostRuntime()
