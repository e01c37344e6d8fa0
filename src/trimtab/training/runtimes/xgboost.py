"""XGBoost: saved as UBJSON, scored by the library itself without the detour over its own matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse


class XgboostRuntime:
    """Fits with a fixed seed; equal data give equal bytes."""

    name = "xgboost"
    row_exact = True
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, xgboost.XGBModel)

    def accepts_null(self, estimator: Any) -> bool:
        return getattr(estimator, "booster", None) != "gblinear"

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        chosen: dict[str, Any] = {"n_jobs": threads}
        if estimator.get_params().get("random_state") is None:
            chosen["random_state"] = seed
        if estimator.get_params().get("verbosity") is None:
            chosen["verbosity"] = 0
        estimator.set_params(**chosen)

    def fit(self, estimator: Any, inputs: NDArray[Any], target: NDArray[Any], names: tuple[str, ...]) -> Any:
        return estimator.fit(inputs, target)

    def save(self, fitted: Any) -> bytes:
        booster = fitted.get_booster()
        if callable(fitted.objective):
            raise Misuse("xgboost: an objective that is a function is not stored with the model. Use one by name.")
        return bytes(booster.save_raw("ubj"))

    def load(self, data: bytes) -> TreesScorer:
        return TreesScorer(data)

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        return np.asarray(fitted.feature_importances_, np.float64)


class TreesScorer:
    """A booster read from its bytes."""

    def __init__(self, data: bytes) -> None:
        if data[:1] != b"{":  # its parser ends the process at some bytes that are none of its own
            raise Corrupt(f"xgboost: these {len(data)} bytes are no booster in UBJSON.")
        booster = xgboost.Booster({"nthread": 1})
        try:
            booster.load_model(bytearray(data))
        except xgboost.core.XGBoostError as error:
            raise Corrupt(f"xgboost: these {len(data)} bytes are no booster: {str(error)[:200]}") from error
        booster.set_param({"nthread": 1})
        best = booster.attr("best_iteration")
        self._rounds = (0, 0) if best is None else (0, int(best) + 1)  # as the estimator does after early stopping
        self._booster = booster

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            return np.empty(0)
        scores = self._booster.inplace_predict(matrix, iteration_range=self._rounds, missing=np.nan)
        return np.asarray(scores, np.float64)

    def predict_row(self, row: list[float]) -> float:
        return float(self.predict(np.array([row], np.float64))[0])


RUNTIME = XgboostRuntime()
