"""Score single rows with scikit-learn's models, but without its code, because its checks take longer than the model.

Trees are followed in plain Python with the library's arithmetic (inputs in float32, sums in the order of the trees). A
pipeline of scalers and a linear model becomes one dot product. The caller must compare the scores with those of the
library before it uses such a function.  # D99
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from operator import mul
from typing import Any, TypeAlias

import numpy as np

from trimtab.core.errors import Misuse
from trimtab.training.runtimes.ports import Score, wrong_row
from trimtab.training.runtimes.scoring_paths import RowCall

_MOST_NODES = 400_000  # more nodes would need much memory as Python objects, and would take long to convert
# a leaf is (-1, value); a node is (input, threshold, node for small values, node for large values, node for null)
_Node: TypeAlias = "tuple[Any, ...]"


def quick_row(fitted: Any) -> tuple[str, RowCall] | None:
    """Return the name and the function of a path that scores one row; None: there is none for this estimator."""
    kind = type(fitted).__name__
    module = type(fitted).__module__
    if kind == "Pipeline" and module.startswith("sklearn."):
        folded = _folded(fitted)
        return None if folded is None else ("folded", folded)
    if not module.startswith(("sklearn.ensemble.", "sklearn.tree.")) or kind not in _FORESTS:
        return None
    walk = _forest(fitted)
    return None if walk is None else ("trees", walk)


def is_softmax(fitted: Any) -> bool:
    """Return whether the model is a logistic regression of several classes, which applies softmax to dot products."""
    kind = type(fitted)
    if not kind.__module__.startswith("sklearn.linear_model.") or kind.__name__ != "LogisticRegression":
        return False
    return len(fitted.classes_) > 2 and fitted.solver != "liblinear" and np.isfinite(fitted.coef_).all()


def is_linear(fitted: Any) -> bool:
    """Return whether the model scores by one dot product (for probabilities, with the logistic function after it).

    If this is wrongly True, the fit fails, because each fit compares the scores of `LinearScorer` with the library's.
    """
    kind = type(fitted)
    if not kind.__module__.startswith("sklearn.linear_model.") or not hasattr(fitted, "coef_"):
        return False
    if kind.__name__ == "LogisticRegression" or (kind.__name__ == "SGDClassifier" and fitted.loss == "log_loss"):
        return len(fitted.classes_) == 2
    return kind.__name__ in ("LinearRegression", "Ridge", "Lasso", "ElasticNet", "SGDRegressor", "HuberRegressor")


# -- trees ------------------------------------------------------------------------------------------------------------


def _forest(fitted: Any) -> RowCall | None:
    """Return a function that scores one row with a forest or a tree: the mean of the trees' values.

    The result is None if there are several outputs, very many nodes, or only one class.
    """
    if getattr(fitted, "n_outputs_", 1) != 1:
        return None
    trees = [tree.tree_ for tree in getattr(fitted, "estimators_", [fitted])]
    if sum(tree.node_count for tree in trees) > _MOST_NODES:
        return None
    classes = len(fitted.classes_) if hasattr(fitted, "classes_") else 0
    if classes == 1:
        return None
    # for two classes, the score is the probability of the second one
    place = slice(1, 2) if classes == 2 else slice(None)
    roots = [_nodes(tree, place) for tree in trees]
    inputs, count = int(fitted.n_features_in_), len(roots)

    if classes > 2:

        def probabilities(row: list[float]) -> Score:
            values = _singles(row, inputs)
            leaves = [_leaf(root, values) for root in roots]
            return [sum(column) / count for column in zip(*leaves, strict=True)]

        return probabilities

    def mean(row: list[float]) -> Score:
        values, total = _singles(row, inputs), 0.0
        for root in roots:
            total += _leaf(root, values)[0]
        return total / count

    return mean


_FORESTS = (
    *("RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"),
    *("DecisionTreeClassifier", "DecisionTreeRegressor"),
)


def _leaf(node: _Node, values: Sequence[float]) -> Any:
    """Return the value of the leaf that a row falls in."""
    while len(node) == 5:
        place, threshold, below, above, null = node
        value = values[place]
        if value <= threshold:
            node = below
        elif value == value:
            node = above
        else:  # the value is NaN
            node = null
    return node[1]


def _nodes(tree: Any, place: slice) -> _Node:
    """Return a tree of the library as nested tuples. In the library's arrays, children come after their parents."""
    state = tree.__getstate__()["nodes"]
    null_left = state["missing_go_to_left"].astype(bool).tolist() if "missing_go_to_left" in state.dtype.names else []
    left, right = tree.children_left.tolist(), tree.children_right.tolist()
    inputs, thresholds = tree.feature.tolist(), tree.threshold.tolist()
    values = tree.value[:, 0, place].tolist()
    made: list[_Node] = [()] * len(left)
    for at in range(len(left) - 1, -1, -1):
        if left[at] < 0:
            made[at] = (-1, values[at])
        else:
            below, above = made[left[at]], made[right[at]]
            null = below if null_left and null_left[at] else above
            made[at] = (inputs[at], thresholds[at], below, above, null)
    return made[0]


def _checked(row: list[float], inputs: int) -> None:
    if len(row) != inputs:
        raise wrong_row("scikit-learn", len(row), inputs)


def _singles(row: list[float], inputs: int) -> Sequence[float]:
    """Return a row rounded to float32, as the library rounds it."""
    _checked(row, inputs)
    return array("f", row)


def _itself(score: float) -> float:
    return score


def _logistic(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-score)) if score >= 0 else (e := math.exp(score)) / (1.0 + e)


# -- linear pipelines -------------------------------------------------------------------------------------------------


def _folded(pipeline: Any) -> RowCall | None:
    """Combine imputers, scalers and a linear model into one dot product, with replacements for nulls.

    The result is None if the pipeline has other parts, or if a weight is not finite.
    """
    *steps, last = [part for _, part in pipeline.steps]
    if not is_linear(last):
        return None
    width = getattr(pipeline, "n_features_in_", None)
    if width is None:  # the first step is the user's own class, which may not say how many inputs it has
        return None
    # After each step, an input x has become x * factor + shift. `instead` has a number for each input of the pipeline,
    # which replaces null before the first step; NaN: none does.
    factor, shift, instead = np.ones(width), np.zeros(width), np.full(width, np.nan)
    for part in steps:
        if isinstance(part, str):  # the step is "passthrough"
            continue
        known = _affine(part, width)
        if known is None:
            return None
        times, plus, null = known
        if null is not None:
            instead = np.where(np.isnan(instead), (null - shift) / factor, instead)
        factor, shift = factor * times, shift * times + plus
    weights = np.asarray(last.coef_, np.float64).reshape(-1)
    offset = float(np.asarray(last.intercept_).reshape(-1)[0]) + float(shift @ weights)
    by_input: list[float] = (weights * factor).tolist()
    nulls: list[float] = instead.tolist()
    if not all(map(math.isfinite, by_input)) or not math.isfinite(offset):
        return None
    link = _logistic if hasattr(last, "predict_proba") else _itself

    def dot(row: list[float]) -> Score:
        _checked(row, width)
        total: float = sum(map(mul, row, by_input)) + offset
        if total != total:  # some input is null (NaN)
            total = sum(map(mul, [v if v == v else n for v, n in zip(row, nulls, strict=True)], by_input)) + offset
            if total != total:
                raise Misuse("scikit-learn: a value is null, and no part of the pipeline imputes it.")
        return link(total)

    return dot


def _affine(part: Any, width: int) -> tuple[Any, Any, Any] | None:
    """Return what a step of a pipeline does to each input: a factor, a summand, and a replacement for null.

    The result is None if the step does anything else.
    """
    kind = type(part).__name__
    if not type(part).__module__.startswith(("sklearn.preprocessing.", "sklearn.impute.")):
        return None
    ones, zeros = np.ones(width), np.zeros(width)
    if kind == "SimpleImputer":
        numbers = np.asarray(part.statistics_)
        # missing_values may also be a number such as 0.0
        of_null = isinstance(part.missing_values, float) and math.isnan(part.missing_values)
        plain = of_null and not part.add_indicator and numbers.dtype.kind == "f"
        return (ones, zeros, numbers) if plain and numbers.shape == (width,) and np.isfinite(numbers).all() else None
    if kind == "StandardScaler":
        scale = ones if part.scale_ is None else part.scale_
        mean = part.mean_ if part.with_mean else zeros
    elif kind == "RobustScaler":
        scale = ones if part.scale_ is None else part.scale_
        mean = part.center_ if part.with_centering else zeros
    elif kind == "MaxAbsScaler" and not getattr(part, "clip", False):
        scale, mean = part.scale_, zeros
    elif kind == "MinMaxScaler" and not part.clip:
        return part.scale_, part.min_, None
    else:
        return None
    return 1.0 / np.asarray(scale), -np.asarray(mean) / np.asarray(scale), None
