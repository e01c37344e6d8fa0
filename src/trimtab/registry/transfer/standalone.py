"""Scores rows with an exported model. It needs Python, NumPy and the model's own library; trimtab it does not need.

    python predict.py --check        repeat the golden predictions
    python predict.py rows.csv       a score for each row, in their order; .ndjson works too

In Python, `load(folder).predict(rows)` takes a list of dicts, a dict of columns, or a data frame.
"""

# An export copies this very file into its folder, as predict.py or code/trimtab_model.py. So nothing of trimtab is
# imported here, and what the runtimes of `training` do is said once more; tests hold the two against each other.

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
EDGE, STEEPEST = 1e-15, 35.0  # of calibration maps: scores, and log odds, are taken for no more extreme
SKLEARN_TYPES = (  # what skops may restore besides what it trusts by itself: containers of fitted numbers
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
RIVER_TYPES = (  # beginnings of their names
    "river.",
    "builtins.frozenset",
    "collections.Counter",
    "collections.deque",
    "collections.defaultdict",
    "random.Random",
)
_NEEDED = {
    "float": "a number",
    "int": "an integer",
    "bool": "true or false",
    "time": "microseconds since 1970 (UTC)",
    "category": "a text",
}


class ModelError(ValueError):
    """A row, a file or a library is not what the model needs; the message says what was found and what is needed."""


class Inputs:
    """What a model reads, in order: its inputs by name and type, categories by their vocabulary."""

    def __init__(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        self.names = [str(one["name"]) for one in inputs]
        self._types = {one["name"]: one["type"] for one in inputs}
        self._places = {
            one["name"]: {text: float(place) for place, text in enumerate(one["values"])}
            for one in inputs
            if one["type"] == "category"
        }

    def matrix(self, rows: Any) -> Any:
        """The rows as numbers, float64, shape (rows, inputs): null and unseen categories are NaN.

        Raises:
            ModelError: An input is missing, unknown or of another type.
        """
        columns = _columns(rows, self.names)
        unknown = [name for name in columns if name not in self._types]
        missing = [name for name in self.names if name not in columns]
        if missing:
            name = missing[0]
            raise ModelError(
                f"input {name!r} is missing: needed is {_NEEDED[self._types[name]]} in each row, found are the columns "
                f"{', '.join(columns) or 'none'}."
            )
        if unknown:
            raise ModelError(f"column {unknown[0]!r} is no input of this model; its inputs: {', '.join(self.names)}.")
        out = np.empty((len(columns[self.names[0]]), len(self.names)), np.float64)
        for place, name in enumerate(self.names):
            out[:, place] = [self._number(name, value, row) for row, value in enumerate(columns[name])]
        return out

    def _number(self, name: str, value: Any, row: int) -> float:
        if hasattr(value, "item"):  # a number of NumPy's
            value = value.item()
        if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' nulls
            return math.nan
        if isinstance(value, float) and value != value:
            return math.nan
        kind = self._types[name]
        if kind == "category" and isinstance(value, str):
            return self._places[name].get(value, math.nan)
        if kind == "bool" and value in (True, False):
            return float(value)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and (kind == "float" or (kind in ("int", "time") and float(value).is_integer())):
            return float(value)
        raise ModelError(f"input {name!r} in row {row}: {value!r} is {type(value).__name__}; needed: {_NEEDED[kind]}.")


class Model:
    """An exported model, read from its folder once its bytes were compared with their hash.

    Raises:
        ModelError: The folder is none, was written by a newer trimtab, or a file in it was changed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about = read_document(self.folder / "model.json")
        if self.about.get("format") != FORMAT:
            raise ModelError(f"{self.folder}: model.json has format {self.about.get('format')}; needed is {FORMAT}.")
        file = self.folder / self.about["file"]
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.about["sha256"]:
            raise ModelError(f"{file}: it is not what was exported (another SHA-256). Export it again.")
        self._inputs = Inputs(self.about["inputs"])
        self._score = _SCORERS[self.about["runtime"]](data, self._inputs.names)

    def predict(self, rows: Any) -> Any:
        """The score of each row: float64, shape (rows,), of several classes (rows, classes).

        Args:
            rows: Dicts, a dict of columns, or a data frame, with the model's inputs; null is None or NaN.

        Raises:
            ModelError: An input is missing, unknown or of another type.
        """
        matrix = self.matrix(rows)
        step, calibration = self.about["step"], self.about["calibration"]
        if not len(matrix):
            return np.empty(0 if self.about["classes"] is None else (0, len(self.about["classes"]["names"])))
        if step is not None:
            matrix = (matrix - np.array(step["means"])) / np.array(step["scales"])
            matrix[np.isnan(matrix)] = 0.0
        scores = self._score(matrix)
        if self.about["classes"] is not None:
            scores = _chances(self.about["classes"], scores)
        return scores if calibration is None else _calibrated(calibration, scores)

    def matrix(self, rows: Any) -> Any:
        """The rows as numbers; see `Inputs`."""
        return self._inputs.matrix(rows)

    def check(self) -> tuple[int, float, float]:
        """Repeat the golden predictions: how many, the largest difference, and how much is allowed."""
        golden = read_document(self.folder / "golden.json")
        rows, expected = golden["rows"], np.array(golden["scores"], np.float64)
        together = self.predict(rows)
        alone = np.array([self.predict([row])[0] for row in rows])
        scale = np.maximum(1.0, np.abs(expected))
        away = max(float((np.abs(found - expected) / scale).max()) for found in (together, alone))
        return len(rows), math.inf if math.isnan(away) else away, float(golden["tolerance"])


def load(folder: str | Path = ".") -> Model:
    """The model of an exported folder."""
    return Model(folder)


def _load_pyfunc(path: str) -> _Pyfunc:
    """What MLflow calls to load the folder."""
    return _Pyfunc(Model(path))


class _Pyfunc:
    """The model as MLflow wants it."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, model_input: Any, params: object = None) -> Any:
        return self.model.predict(model_input)


def read_document(file: Path) -> dict[str, Any]:
    """The JSON document of a file."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: it cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file}: it holds no document.")
    return found


def _columns(rows: Any, inputs: list[str]) -> dict[str, list[Any]]:
    """Rows of any shape as columns."""
    if isinstance(rows, Mapping):
        found = {str(name): list(values) for name, values in rows.items()}
    elif hasattr(rows, "columns") and hasattr(rows, "__getitem__"):  # a data frame
        found = {str(name): list(rows[name]) for name in rows.columns}
    else:
        return _columns_of_rows(rows, inputs)
    if len({len(values) for values in found.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in found.items())
        raise ModelError(f"columns of different lengths: {lengths}.")
    return found


def _columns_of_rows(rows: Any, inputs: list[str]) -> dict[str, list[Any]]:
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence):
        raise ModelError(f"rows: a {type(rows).__name__}. Give a list of dicts, a dict of columns, or a data frame.")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ModelError(f"row {number}: {row!r} is a {type(row).__name__}. Give dicts of the model's inputs.")
        if row.keys() != rows[0].keys():
            other = sorted(row.keys() ^ rows[0].keys())[0]
            raise ModelError(f"row {number}: {other!r} is in this row or in row 0, and not in both. Null is None.")
    names = [str(name) for name in rows[0]] if len(rows) else inputs
    return {name: [row[name] for row in rows] for name in names}


def _calibrated(calibration: dict[str, Any], scores: Any) -> Any:
    if calibration["type"] == "steps":
        return np.interp(scores, np.array(calibration["scores"]), np.array(calibration["chances"]))
    if calibration["type"] == "class_odds":
        logs = calibration["rise"] * np.log(np.clip(scores, EDGE, 1.0)) + np.array(calibration["offsets"])
        powers = np.exp(np.maximum(logs - logs.max(axis=1, keepdims=True), -STEEPEST))
        return powers / powers.sum(axis=1, keepdims=True)
    p = np.clip(scores, EDGE, 1.0 - EDGE)
    odds = calibration["rise"] * np.log(p) - calibration["fall"] * np.log1p(-p) + calibration["offset"]
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -STEEPEST, STEEPEST)))


def _chances(classes: dict[str, Any], scores: Any) -> Any:
    """A chance of each declared class from those of the classes that the estimator has seen."""
    width, fitted = len(classes["names"]), classes["fitted"]
    if scores.ndim == 1:
        scores = np.stack([1.0 - scores, scores], axis=1)
    if len(fitted) == width:
        return scores
    unseen = 1.0 / (classes["rows"] + width)
    spread = np.full((len(scores), width), unseen)
    spread[:, fitted] = scores * (1.0 - unseen * (width - len(fitted)))
    return spread


def _positive(scores: Any) -> Any:
    """Of two classes the chance of the second; else the scores as they are."""
    found = np.asarray(scores, np.float64)
    return np.ascontiguousarray(found[:, -1]) if found.ndim == 2 and found.shape[1] <= 2 else found


def _lightgbm(data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    import lightgbm

    booster = lightgbm.Booster(model_str=data.decode())
    return lambda matrix: np.asarray(booster.predict(matrix, num_threads=1), np.float64)


def _xgboost(data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(data))
    booster.set_param({"nthread": 1})
    best = booster.attr("best_iteration")
    rounds = (0, 0) if best is None else (0, int(best) + 1)  # as the estimator does after early stopping
    return lambda matrix: np.asarray(
        booster.inplace_predict(matrix, iteration_range=rounds, missing=np.nan), np.float64
    )


def _catboost(data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    import catboost

    model = catboost.CatBoost()
    model.load_model(blob=data, format="cbm")
    kind = "Probability" if model.get_metadata()["trimtab"] == "probability" else "RawFormulaVal"
    return lambda matrix: _positive(model.predict(matrix, prediction_type=kind, thread_count=1))


def _onnx(data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    taken, given = session.get_inputs()[0], session.get_outputs()[-1].name
    kind = np.float32 if taken.type == "tensor(float)" else np.float64
    return lambda matrix: _positive(session.run([given], {taken.name: matrix.astype(kind)})[0])


def _sklearn(data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    import skops.io

    return _of_estimator(skops.io.loads(data, trusted=list(SKLEARN_TYPES)))


def _pickle(data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    import pickle  # exported only where somebody said trust="pickle": loading it runs code from the file

    return _of_estimator(pickle.loads(data))


def _of_estimator(estimator: Any) -> Callable[[Any], Any]:
    if hasattr(estimator, "predict_proba"):
        return lambda matrix: _positive(estimator.predict_proba(matrix))
    return lambda matrix: np.asarray(estimator.predict(matrix), np.float64)


def _river(data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    import river.base
    import skops.io

    asked = skops.io.get_untrusted_types(data=data)
    trusted = [name for name in asked if name.startswith(RIVER_TYPES)]
    model: Any = skops.io.loads(data, trusted=[*SKLEARN_TYPES, *trusted])
    last = list(model.steps.values())[-1] if hasattr(model, "steps") else model
    if not isinstance(last, river.base.Classifier):
        return lambda matrix: np.array(
            [model.predict_one(dict(zip(inputs, row, strict=True))) for row in matrix.tolist()], np.float64
        )

    def chance(row: list[float]) -> float:
        found = model.predict_proba_one(dict(zip(inputs, row, strict=True)))
        return float(found.get(True, math.nan if not found else 0.0))

    return lambda matrix: np.array([chance(row) for row in matrix.tolist()])


_SCORERS: dict[str, Callable[[bytes, list[str]], Callable[[Any], Any]]] = {
    "catboost": _catboost,
    "lightgbm": _lightgbm,
    "onnx": _onnx,
    "pickle": _pickle,
    "river": _river,
    "sklearn": _sklearn,
    "xgboost": _xgboost,
}


def _rows_of(file: Path, model: Model) -> list[dict[str, Any]]:
    """The rows of a CSV file (an empty field is null) or of a file with a JSON document on each line."""
    text = file.read_text("utf-8-sig")
    if file.suffix in (".ndjson", ".jsonl"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    kinds = {one["name"]: one["type"] for one in model.about["inputs"]}
    return [
        {name: _read(name, kinds.get(name, "category"), value, number) for name, value in row.items()}
        for number, row in enumerate(csv.DictReader(io.StringIO(text)))
    ]


def _read(name: str, kind: str, text: Any, row: int) -> Any:
    if kind == "category" or not text:
        return text or None
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return int(text) if kind in ("int", "time") else float(text)
    except (ValueError, KeyError):
        raise ModelError(f"input {name!r} in row {row}: {text!r} is none; needed: {_NEEDED[kind]}.") from None


def main(arguments: list[str]) -> int:
    """The command line; its exit status."""
    here = Path(__file__).resolve().parent
    folder = here if (here / "model.json").exists() else here.parent
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        model = Model(folder)
        if arguments[0] != "--check":
            return _print_scores(model, model.predict(_rows_of(Path(arguments[0]), model)))
        rows, away, allowed = model.check()
    except ImportError as error:
        print(f"error: {error}. pip install -r {folder / 'requirements.txt'}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made = ", ".join(f"{name} {number}" for name, number in model.about["made_with"].items())
    verdict = "repeated" if away <= allowed else "NOT repeated"
    print(f"{model.about['version']}: {rows} golden predictions {verdict}, largest difference {away:.3g}, allowed "
          f"{allowed:.3g}; made with {made}")  # fmt: skip
    return 0 if away <= allowed else 1


def _print_scores(model: Model, scores: Any) -> int:
    classes = model.about["classes"]
    out = csv.writer(sys.stdout)
    out.writerow(["score"] if classes is None else classes["names"])
    out.writerows([[score] for score in scores.tolist()] if classes is None else scores.tolist())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
