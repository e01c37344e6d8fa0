"""CatBoost: models are stored in its binary format. Their random id and time are removed, so equal models have equal
bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import catboost
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.run.progress import is_listening, report
from trimtab.training.runtimes.boosters.catboost_code import compiled_row
from trimtab.training.runtimes.formats import ExportedCode, Format, Inspected, ModelFile
from trimtab.training.runtimes.library import LibraryRuntime, tree_count
from trimtab.training.runtimes.ports import Array, Score, check_columns, row_score, second_of_two
from trimtab.training.runtimes.scoring_paths import RowCall, ScoringPaths, with_paths

_PER_FIT = {"model_guid": "", "train_finish_time": ""}  # metadata that differ between equal models


def read_model(data: bytes) -> Any:
    """Load the library's model from its bytes."""
    import catboost

    model = catboost.CatBoost()
    model.load_model(blob=data, format="cbm")
    return model


def predict_model(model: Any, matrix: Any) -> Any:
    """Return the library's scores: probabilities for a model saved as a classifier, otherwise numbers."""
    probability = model.get_metadata()["trimtab"] == "probability"
    kind = "Probability" if probability else "RawFormulaVal"
    return second_of_two(model.predict(matrix, prediction_type=kind, thread_count=1))


def score_exported(data: bytes, inputs: list[str]) -> Any:
    """Return the scorer of an exported model file."""
    model = read_model(data)
    return lambda matrix: predict_model(model, matrix)


def _flavor(file: str, kind: str, made_with: Mapping[str, str]) -> dict[str, Any]:
    known = kind if kind in ("CatBoostClassifier", "CatBoostRegressor") else "CatBoost"
    about = {"catboost_version": made_with.get("catboost"), "model_type": known, "save_format": "cbm"}
    return {"data": file, "code": None, **about}


def _parameters(data: bytes) -> dict[str, str]:
    model = read_model(data)
    return {name: str(value) for name, value in model.get_all_params().items()} | {"tree_count": str(model.tree_count_)}


def _contributions(data: bytes, inputs: NDArray[Any], centred: bool) -> tuple[Any, Any]:
    model = read_model(data)
    return (
        model.get_feature_importance(catboost.Pool(inputs), type="ShapValues", thread_count=1),
        model.predict(inputs, prediction_type="RawFormulaVal", thread_count=1),
    )


def _inspect(file: ModelFile) -> Inspected:
    if not file.data.startswith(b"CBM1"):
        raise Corrupt("catboost: these bytes are not a model in CatBoost's binary format (cbm).")
    model: Any = catboost.CatBoostClassifier() if file.probability else catboost.CatBoostRegressor()
    try:
        model.load_model(blob=file.data, format="cbm")
    except catboost.CatBoostError as error:
        raise Corrupt(f"catboost: these bytes are not a model: {str(error)[:200]}") from error
    if model.get_cat_feature_indices():
        raise Misuse(
            "catboost: the model expects categories (cat_features), but trimtab encodes them as numbers before a model "
            "gets them. Train the model on such numbers."
        )
    names = tuple(model.feature_names_ or ())
    return Inspected(
        runtime="catboost", data=RUNTIME.save(model), kind=type(model).__name__, inputs=names, count=len(names) or None
    )


class CatboostRuntime(LibraryRuntime):
    """Fits and stores CatBoost's estimators. Equal data, seeds and threads give equal bytes."""

    name = "catboost"
    row_exact = True
    format = Format(
        export_file="model.cbm",
        exported=ExportedCode(score_exported, needs=(second_of_two, read_model, predict_model)),
        flavor=_flavor,
        parameters=_parameters,
        contributions=_contributions,
        inspect=_inspect,
    )

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, catboost.CatBoost)

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

    @contextmanager
    def progress(self, estimator: Any) -> Iterator[dict[str, Any]]:
        # CatBoost only calls callbacks when it trains on the CPU
        on_cpu = str(estimator.get_params().get("task_type", "CPU")).upper() == "CPU"
        yield {"callbacks": [_Reporter(tree_count(estimator, 1_000))]} if on_cpu and is_listening() else {}

    def ranks(self, estimator: Any) -> bool:
        return isinstance(estimator, catboost.CatBoostRanker)

    def fit_lists(
        self, estimator: Any, inputs: Array, relevance: Array, sizes: Array, weights: Array | None = None
    ) -> Any:
        with self.progress(estimator) as options:
            row_weights = {} if weights is None else {"group_weight": np.repeat(weights, sizes)}
            lists = np.repeat(np.arange(sizes.size), sizes)
            return estimator.fit(inputs, relevance, group_id=lists, **row_weights, **options)

    def save(self, fitted: Any) -> bytes:
        metadata = fitted.get_metadata()
        for name, value in _PER_FIT.items():
            metadata[name] = value
        metadata["trimtab"] = "probability" if hasattr(fitted, "predict_proba") else "number"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.cbm"
            fitted.save_model(str(file), format="cbm")
            return file.read_bytes()

    def load(self, data: bytes) -> ScoringPaths:
        model = CatboostModel(data)
        return with_paths(model, self.scoring_paths(model))

    def scoring_paths(self, model: CatboostModel) -> Mapping[str, RowCall]:
        compiled = compiled_row(model.model, probability=model.probability)
        return {} if compiled is None or not model.agrees(compiled) else {"compiled": compiled}

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        kind = "PredictionValuesChange"  # for rankers, the library's default kind needs the training rows
        return np.asarray(fitted.get_feature_importance(type=kind), np.float64)


class CatboostModel:
    """A loaded model of the library."""

    def __init__(self, data: bytes) -> None:
        try:
            self.model = read_model(data)
        except catboost.CatBoostError as error:
            raise Corrupt(f"catboost: these {len(data)} bytes are not a model: {str(error)[:200]}") from error
        self._inputs = len(self.model.feature_names_)
        self.probability = self.model.get_metadata()["trimtab"] == "probability"

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if not len(matrix):
            classes = len(self.model.classes_) if self.probability else 0
            return np.empty((0, classes) if classes > 2 else 0)
        check_columns("catboost", matrix, self._inputs)  # the library would ignore further columns
        return np.asarray(predict_model(self.model, matrix))

    def predict_row(self, row: list[float]) -> Score:
        return row_score(self.predict(np.array([row], np.float64)))

    def agrees(self, call: RowCall) -> bool:
        """Return whether a function for single rows gives the same bits as a batch, on random and unusual rows."""
        rows = np.random.default_rng(0).normal(scale=30.0, size=(64, self._inputs))
        rows[1], rows[2, ::2], rows[3, ::3], rows[4, ::2], rows[5] = np.nan, np.nan, 5e-324, -0.0, 3e38
        rows[6:32] /= 100.0
        return np.array([call(row) for row in rows.tolist()]).tobytes() == self.predict(rows).tobytes()


class _Reporter:
    def __init__(self, trees: int) -> None:
        self._trees = trees

    def after_iteration(self, info: Any) -> bool:
        report(info.iteration, self._trees)
        return True


RUNTIME = CatboostRuntime()
