"""LightGBM: saved as booster text, scored by the library itself, one row through its C interface."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt
from trimtab.training.runtimes.lightgbm_row import RowCalls, fast_rows


class LightgbmRuntime:
    """Fits with a fixed seed and no race between threads, so that equal data give equal text."""

    name = "lightgbm"
    row_exact = True
    parity = 1e-9

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, lightgbm.LGBMModel)

    def accepts_null(self, estimator: Any) -> bool:
        return True

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        given = estimator.get_params()
        chosen: dict[str, Any] = {"n_jobs": threads, "deterministic": True}
        if not given.get("force_col_wise"):
            chosen["force_row_wise"] = True
        if given.get("random_state") is None:
            chosen["random_state"] = seed
        if "verbose" not in given and "verbosity" not in given:
            chosen["verbosity"] = -1
        estimator.set_params(**chosen)

    def fit(self, estimator: Any, inputs: NDArray[Any], target: NDArray[Any], names: tuple[str, ...]) -> Any:
        estimator.fit(inputs, target)
        return estimator

    def save(self, fitted: Any) -> bytes:
        return str(fitted.booster_.model_to_string()).encode()

    def load(self, data: bytes) -> BoosterScorer:
        return BoosterScorer(data.decode())

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        return np.asarray(fitted.booster_.feature_importance("gain"), np.float64)


class BoosterScorer:
    """A booster read from its text."""

    def __init__(self, text: str) -> None:
        try:
            self._booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise Corrupt(f"lightgbm: these {len(text)} letters are no booster: {error}") from error
        self._rows: RowCalls | None = fast_rows(self._booster)

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            return np.empty(0)
        return np.asarray(self._booster.predict(matrix, num_threads=1), np.float64)

    def predict_row(self, row: list[float]) -> float:
        if self._rows is not None:
            return self._rows(row)
        return float(self.predict(np.array([row]))[0])


RUNTIME = LightgbmRuntime()
