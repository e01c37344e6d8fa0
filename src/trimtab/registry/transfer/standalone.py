"""Score rows with an exported model. This needs Python, NumPy and the model's own library, but not trimtab.

    python predict.py --check        repeat the golden predictions
    python predict.py rows.csv       print a score for each row, in the order of the rows; .ndjson works, too

In Python, `load(folder).predict(rows)` takes a list of dicts, a dict of columns, or a data frame.
"""

# An export writes this file into its folder as predict.py or code/trimtab_model.py, with the imports from trimtab
# replaced by the text of the imported functions, which compute scores and call the model's library. D60

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# <copied>
from trimtab.registry.transfer.copied import exported_scorer
from trimtab.stats.recalibration import map_class_odds, map_log_odds, map_steps
from trimtab.training.fitting.classes import all_classes
from trimtab.training.fitting.standardize import standardized

# </copied>
FORMAT = 1
_NEEDED = {
    "float": "a number",
    "int": "an integer",
    "bool": "true or false",
    "time": "microseconds since 1970 (UTC)",
    "category": "a text",
}


class ModelError(ValueError):
    """Raised if a row, a file or a library does not fit. The message says what was found and what is needed."""


class Inputs:
    """The inputs of a model in order: their names, their types, and the known texts of each category."""

    def __init__(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        self.names = [str(one["name"]) for one in inputs]
        self._types = {one["name"]: one["type"] for one in inputs}
        self._places = {
            one["name"]: {text: float(place) for place, text in enumerate(one["values"])}
            for one in inputs
            if one["type"] == "category"
        }

    def matrix(self, rows: Any) -> Any:
        """Return rows as numbers, float64, shape (rows, inputs). Null and unknown texts of a category become NaN.

        Raises:
            ModelError: An input is missing, unknown or of another type.
        """
        columns = _columns(rows, self.names)
        unknown = [name for name in columns if name not in self._types]
        missing = [name for name in self.names if name not in columns]
        if missing:
            name = missing[0]
            raise ModelError(
                f"input {name!r} is missing: needed {_NEEDED[self._types[name]]} in each row, found the columns "
                f"{', '.join(columns) or 'none'}."
            )
        if unknown:
            raise ModelError(
                f"column {unknown[0]!r} is not an input of this model; its inputs: {', '.join(self.names)}."
            )
        out = np.empty((len(columns[self.names[0]]), len(self.names)), np.float64)
        for place, name in enumerate(self.names):
            out[:, place] = [self._number(name, value, row) for row, value in enumerate(columns[name])]
        return out

    def _number(self, name: str, value: Any, row: int) -> float:
        if hasattr(value, "item"):  # a NumPy number becomes a Python number
            value = value.item()
        if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' own null values
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
    """An exported model, read from its folder after its bytes were compared with their hash.

    Raises:
        ModelError: The folder is no export, was written by a newer trimtab, or contains a changed file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about = read_document(self.folder / "model.json")
        if self.about.get("format") != FORMAT:
            raise ModelError(f"{self.folder}: model.json has format {self.about.get('format')}; needed {FORMAT}.")
        file = self.folder / self.about["file"]
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.about["sha256"]:
            raise ModelError(f"{file}: it is not what was exported (its SHA-256 differs). Export it again.")
        self._inputs = Inputs(self.about["inputs"])
        self._score = exported_scorer(self.about["runtime"], data, self._inputs.names)

    def predict(self, rows: Any) -> Any:
        """Return the scores of rows: float64, shape (rows,), or (rows, classes) for a model of several classes.

        Args:
            rows: A list of dicts, a dict of columns, or a data frame, with the model's inputs. Null is None or NaN.

        Raises:
            ModelError: An input is missing, unknown or of another type.
        """
        matrix = self.matrix(rows)
        step, classes, calibration = self.about["step"], self.about["classes"], self.about["calibration"]
        if not len(matrix):
            return np.empty(0 if classes is None else (0, len(classes["names"])))
        if step is not None:
            matrix = standardized(matrix, step["means"], step["scales"])
        scores = self._score(matrix)
        if classes is not None:
            scores = all_classes(scores, classes["fitted"], len(classes["names"]), classes["rows"])
        return scores if calibration is None else _calibrated(calibration, scores)

    def matrix(self, rows: Any) -> Any:
        """Return the rows as numbers; see `Inputs`."""
        return self._inputs.matrix(rows)

    def check(self) -> tuple[int, float, float]:
        """Repeat the golden predictions. Return their number, the largest difference, and the allowed one."""
        golden = read_document(self.folder / "golden.json")
        rows, expected = golden["rows"], np.array(golden["scores"], np.float64)
        together = self.predict(rows)
        alone = np.array([self.predict([row])[0] for row in rows])
        scale = np.maximum(1.0, np.abs(expected))
        away = max(float((np.abs(found - expected) / scale).max()) for found in (together, alone))
        return len(rows), math.inf if math.isnan(away) else away, float(golden["tolerance"])


def load(folder: str | Path = ".") -> Model:
    """Load the model of an exported folder."""
    return Model(folder)


def _load_pyfunc(path: str) -> _Pyfunc:
    """Load the folder for MLflow, which calls this function by its name."""
    return _Pyfunc(Model(path))


class _Pyfunc:
    """The model, with the methods that MLflow calls."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, model_input: Any, params: object = None) -> Any:
        return self.model.predict(model_input)


def read_document(file: Path) -> dict[str, Any]:
    """Read the JSON document in a file."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: it cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file}: it does not hold a JSON document.")
    return found


def _columns(rows: Any, inputs: list[str]) -> dict[str, list[Any]]:
    """Return rows in any accepted form as a dict of columns."""
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
            raise ModelError(
                f"row {number}: either this row or row 0 lacks {other!r}. Give all rows the same inputs (None for "
                "null)."
            )
    names = [str(name) for name in rows[0]] if len(rows) else inputs
    return {name: [row[name] for row in rows] for name in names}


def _calibrated(calibration: dict[str, Any], scores: Any) -> Any:
    if calibration["type"] == "steps":
        return map_steps(scores, np.array(calibration["scores"]), np.array(calibration["chances"]))
    if calibration["type"] == "class_odds":
        return map_class_odds(scores, calibration["rise"], np.array(calibration["offsets"]))
    return map_log_odds(scores, calibration["rise"], calibration["fall"], calibration["offset"])


def _rows_of(file: Path, model: Model) -> list[dict[str, Any]]:
    """Read rows from a CSV file, in which empty fields are null, or from a file with one JSON document per line."""
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
        raise ModelError(f"input {name!r} in row {row}: {text!r} is not {_NEEDED[kind]}.") from None


def main(arguments: list[str]) -> int:
    """Run the command line, and return its exit status."""
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
