"""CatBoost's symmetric trees as generated Python code. It scores a row in a tenth of the library's time.

The library builds an object (a pool) from each row before it scores the row. The score is the sum of leaf values in the
order of the trees, in float64; inputs are in float32. The generated code computes this sum, and is only used if it
gives the same bits as the library. # D99
"""

from __future__ import annotations

import math
import tempfile
from array import array
from pathlib import Path
from typing import Any

import msgspec

from trimtab.core.codegen import define
from trimtab.training.runtimes.ports import wrong_row
from trimtab.training.runtimes.scoring_paths import RowCall

_MOST_SPLITS = 30_000  # a larger model would take long to compile


class _Split(msgspec.Struct):
    border: float
    float_feature_index: int  # other kinds of splits lack this field: decoding fails, and the model is not compiled


class _Tree(msgspec.Struct):
    splits: list[_Split] | None
    leaf_values: list[float]


class _Feature(msgspec.Struct):
    flat_feature_index: int
    feature_index: int
    nan_value_treatment: str


class _Features(msgspec.Struct):
    float_features: list[_Feature]


class _Model(msgspec.Struct):
    features_info: _Features
    oblivious_trees: list[_Tree]
    scale_and_bias: tuple[float, list[float]]


def compiled_row(model: Any, *, probability: bool) -> RowCall | None:
    """Return a function that scores one row; None for a very large model, several classes, or other kinds of trees."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.json"
        try:
            model.save_model(str(file), format="json")
            read = msgspec.json.decode(file.read_bytes(), type=_Model)
        except (msgspec.DecodeError, model_error()):
            return None
    places = {one.feature_index: one.flat_feature_index for one in read.features_info.float_features}
    scale, biases = read.scale_and_bias
    splits = sum(len(tree.splits or ()) for tree in read.oblivious_trees)
    if len(biases) != 1 or splits > _MOST_SPLITS or not _is_plain(read, places):
        return None
    # "AsTrue": null counts as larger than all borders, so it is replaced by inf. Otherwise it counts as smaller, and
    # needs no replacement, because `NaN > border` is False
    high = [places[f.feature_index] for f in read.features_info.float_features if f.nan_value_treatment == "AsTrue"]
    inputs, bias = len(places), biases[0]
    total = _sum_of_leaves(read.oblivious_trees, places, inputs)

    def raw(row: list[float]) -> float:
        if len(row) != inputs:
            raise wrong_row("catboost", len(row), inputs)
        values = array("f", row)
        for place in high:
            if values[place] != values[place]:
                values[place] = math.inf
        found: float = scale * total(values) + bias
        return found

    def probability_of(row: list[float]) -> float:
        try:
            return 1.0 / (1.0 + math.exp(-raw(row)))
        except OverflowError:
            return 0.0

    return probability_of if probability else raw


def model_error() -> type[Exception]:
    """Return the class of the library's exceptions."""
    import catboost

    error: type[Exception] = catboost.CatBoostError
    return error


def _is_plain(model: _Model, places: dict[int, int]) -> bool:
    """Return whether all inputs are numbers, and all splits compare one input with a finite number."""
    return sorted(places.values()) == list(range(len(places))) and all(
        len(tree.leaf_values) == 1 << len(tree.splits or ())
        and all(split.float_feature_index in places and math.isfinite(split.border) for split in tree.splits or ())
        for tree in model.oblivious_trees
    )


def _sum_of_leaves(trees: list[_Tree], places: dict[int, int], inputs: int) -> Any:
    """Return a function that adds up the values of the leaves in which a row of inputs (as float32) falls."""
    lines = ["def total(row):", f"    {' '.join(f'x{place},' for place in range(inputs))} = row", "    s = 0.0"]
    for number, tree in enumerate(trees):
        bits = [
            f"{1 << bit}*(x{places[split.float_feature_index]:d}>{split.border!r})"
            for bit, split in enumerate(tree.splits or ())
        ]
        lines.append(f"    s += leaves{number}[{'+'.join(bits) or '0'}]")
    names = {f"leaves{number}": tree.leaf_values for number, tree in enumerate(trees)}
    return define("total", [*lines, "    return s"], names, about="CatBoost trees")
