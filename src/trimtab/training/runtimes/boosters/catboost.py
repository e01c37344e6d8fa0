"""CatBoost: saved in its own binary format, without the moment and the name that it gives every model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import catboost
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt
from trimtab.training.runtimes.boosters.catboost_code import compiled_row
from trimtab.training.runtimes.choosing import RowCall, Ways
from trimtab.training.runtimes.ports import Score, check_columns, row_score
from trimtab.training.runtimes.watched import watched
from trimtab.training.runtimes.weighted import FitsInPlace

_TOLD_APART = {"model_guid": "", "train_finish_time": ""}  # what differs between models that are equal
_PROBABILITY = "probability"


class CatboostRuntime(FitsInPlace):
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

    def ranks(self, estimator: Any) -> bool:
        return isinstance(estimator, catboost.CatBoostRanker)

    def fit_lists(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        relevance: NDArray[Any],
        sizes: NDArray[Any],
        weights: NDArray[Any] | None = None,
    ) -> Any:
        with watched(estimator) as how:
            of_rows = {} if weights is None else {"group_weight": np.repeat(weights, sizes)}
            lists = np.repeat(np.arange(sizes.size), sizes)
            return estimator.fit(inputs, relevance, group_id=lists, **of_rows, **how)

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
        kind = "PredictionValuesChange"  # a ranker's own default looks at the training rows again
        return np.asarray(fitted.get_feature_importance(type=kind), np.float64)


class CatboostScorer(Ways):
    """A model read from its bytes."""

    def __init__(self, data: bytes) -> None:
        own = self._own = _Own(data)
        compiled = compiled_row(own.model, probability=own.probability)
        ways: dict[str, RowCall] = {} if compiled is None or not own.agrees(compiled) else {"compiled": compiled}
        super().__init__({**ways, "library": own.alone})

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        return self._own.predict(matrix)


class _Own:
    """The library's own model, and its own way."""

    def __init__(self, data: bytes) -> None:
        self.model = catboost.CatBoost()
        try:
            self.model.load_model(blob=data, format="cbm")
        except catboost.CatBoostError as error:
            raise Corrupt(f"catboost: these {len(data)} bytes are no model: {str(error)[:200]}") from error
        self._inputs = len(self.model.feature_names_)
        self.probability = self.model.get_metadata()["trimtab"] == _PROBABILITY

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            classes = len(self.model.classes_) if self.probability else 0
            return np.empty((0, classes) if classes > 2 else 0)
        check_columns("catboost", matrix, self._inputs)  # the library leaves columns that it does not know aside
        kind = "Probability" if self.probability else "RawFormulaVal"
        scores = np.asarray(self.model.predict(matrix, prediction_type=kind, thread_count=1), np.float64)
        return np.ascontiguousarray(scores[:, 1]) if scores.ndim == 2 and scores.shape[1] == 2 else scores

    def alone(self, row: list[float]) -> Score:
        return row_score(self.predict(np.array([row], np.float64)))

    def agrees(self, call: RowCall) -> bool:
        """Whether a call gives the bits of a batch, on rows drawn at random and on odd ones."""
        rows = np.random.default_rng(0).normal(scale=30.0, size=(64, self._inputs))
        rows[1], rows[2, ::2], rows[3, ::3], rows[4, ::2], rows[5] = np.nan, np.nan, 5e-324, -0.0, 3e38
        rows[6:32] /= 100.0
        return np.array([call(row) for row in rows.tolist()]).tobytes() == self.predict(rows).tobytes()


RUNTIME = CatboostRuntime()
