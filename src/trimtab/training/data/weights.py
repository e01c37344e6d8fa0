"""Weights of rows in a fit, samples of rows, and the balance of classes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.core.expressions.nodes import Expression
from trimtab.core.expressions.primitives import hash_bucket
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

_BUCKETS = 2**53  # a float can count exactly up to this number

Floats = NDArray[np.float64]


class Weighed(msgspec.Struct, frozen=True, eq=False):
    """The rows to fit on, with their weights."""

    kept: NDArray[np.int64]  # the indices of these rows in the training set
    target: NDArray[Any]
    weights: Floats | None  # None: all have the same weight


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """How often one class occurs in the training rows and in the holdout."""

    label: float
    rows: int  # the number of usable training rows of this class
    kept: int  # how many of them the sample keeps
    weight: float  # the share of this class in the sum of all weights
    holdout: int  # the number of rows of this class in the holdout
    name: str = ""  # the name of the class, if several are declared


def weigh(model: Model, training_set: TrainingSet, chosen: NDArray[np.int64], target: NDArray[Any]) -> Weighed:
    """Return which of the rows `chosen` to fit on, with their weights.

    A weight is the product of 1 / the share of the sample, the declared (or balanced) weight, and the weight by age.

    Raises:
        Misuse: A weight is missing, negative or infinite, all weights are 0, rows of one list have different weights,
            or the sample leaves too few rows.
    """
    kept, weights = _sampled(model, training_set, chosen, target)
    if model.sample is not None:
        _check_left(model, target, kept)
    if isinstance(model.weights, Expression):
        own = _declared(model, model.weights, training_set, chosen[kept])
        _check_of_lists(model, training_set, chosen[kept], own)
        weights = own if weights is None else weights * own
    elif model.weights == "balanced":
        weights = _balanced(target[kept], np.ones(kept.size) if weights is None else weights)
    if training_set.half_life_us is not None:
        aged = age_weights(training_set.begun_us[chosen[kept]], training_set.half_life_us)
        weights = aged if weights is None else weights * aged
    return Weighed(chosen[kept], target[kept], weights)


def age_weights(begun_us: NDArray[np.int64], half_life_us: int) -> Floats:
    """Return weights by age, shape (rows,): 1 for the newest row, 1/2 for a row older by one half-life, 1/4 by two.

    >>> age_weights(np.array([0, 10, 20]), 10).tolist()
    [0.25, 0.5, 1.0]
    """
    weights: Floats = np.exp2((begun_us - begun_us.max(initial=np.iinfo(np.int64).min)) / half_life_us)
    return weights


def balance_of(
    model: Model, training_set: TrainingSet, train: NDArray[np.bool_], holdout: Floats
) -> tuple[Balance, ...]:
    """Return the balance of each class; empty for a model of numbers."""
    if model.task not in ("binary", "multiclass"):
        return ()
    labels = [0.0, 1.0] if model.task == "binary" else [float(place) for place in range(len(model.label.classes))]
    chosen = np.flatnonzero(training_set.usable & train & np.isin(training_set.target, labels))
    target = training_set.target[chosen]
    try:
        weighed = weigh(model, training_set, chosen, target)
    except Misuse:  # a fit would be refused, because of its sample or weights; count the rows that the sample keeps
        kept, own = _sampled(model, training_set, chosen, target)
        weighed = Weighed(chosen[kept], target[kept], own)
    weights = np.ones(weighed.kept.size) if weighed.weights is None else weighed.weights
    total = float(weights.sum()) or 1.0
    return tuple(
        Balance(
            label=label,
            rows=int((target == label).sum()),
            kept=int((weighed.target == label).sum()),
            weight=float(weights[weighed.target == label].sum()) / total,
            holdout=int((holdout == label).sum()),
            name=model.label.class_names[int(label)] if model.label.classes else "",
        )
        for label in labels
    )


def _sampled(
    model: Model, training_set: TrainingSet, chosen: NDArray[np.int64], target: NDArray[Any]
) -> tuple[NDArray[np.int64], Floats | None]:
    """Return which of the rows `chosen` the sample keeps, and their weights; all rows if there is no sample."""
    rule = model.sample
    if rule is None:
        return np.arange(chosen.size), None
    shares = np.full(chosen.size, rule.rows)
    if rule.classes is not msgspec.UNSET:
        by_place = np.array([rule.classes.get(name, 1.0) for name in model.label.class_names])
        shares *= by_place[target.astype(np.int64)]
    elif model.task == "binary":
        shares *= np.where(target == 1, rule.positives, rule.negatives)
    ranks = training_set.lists is not None  # a list is kept or left out as a whole
    names = (training_set.requests[str(model.group)] if ranks else training_set.keys).take(chosen).to_list()
    places = np.array([hash_bucket(f"{rule.seed}|{name}", _BUCKETS) for name in names]) / _BUCKETS
    kept = np.flatnonzero(places < shares)
    return kept, 1.0 / shares[kept]


def _check_left(model: Model, target: NDArray[Any], kept: NDArray[np.int64]) -> None:
    needed = len(model.features.names)
    left = target[kept]
    if left.size < max(needed, 1):
        raise Misuse(
            f"model {model.name!r}: sample={model.sample!r} keeps {left.size} of {target.size} rows, too few for "
            f"{needed} features. Keep a larger share."
        )
    if model.task in ("binary", "multiclass") and np.unique(left).size < 2:
        said = model.label.class_names[int(left[0])] if model.label.classes else f"{left[0]:g}"
        raise Misuse(
            f"model {model.name!r}: sample={model.sample!r} keeps {left.size} of {target.size} rows, all of them "
            f"labelled {said}. Keep a larger share of the other classes."
        )


def _declared(model: Model, expression: Expression, training_set: TrainingSet, rows: NDArray[np.int64]) -> Floats:
    requests, values = training_set.requests.take(rows), training_set.features.values.take(rows)
    found = evaluate_columns(
        expression, Columns({**requests.by_name, **values.by_name}), f"weights of model {model.name!r}"
    )
    weights = np.where(found.present(), found.values.astype(np.float64), np.nan)
    bad = np.flatnonzero(~(weights >= 0.0) | np.isinf(weights))
    if bad.size:
        key = training_set.keys.to_list()[rows[bad[0]]]
        raise Misuse(
            f"model {model.name!r}: {bad.size} of {rows.size} weights are missing, negative or infinite (the first: "
            f"request {key!r}, {weights[bad[0]]:g}). Fill nulls and clip: tt.col(...).fill_null(1.0).clip(0.0, 100.0)."
        )
    if not weights.any():
        raise Misuse(
            f"model {model.name!r}: the weights of all {rows.size} rows are 0. Give some rows a weight above 0."
        )
    return weights


def _check_of_lists(model: Model, training_set: TrainingSet, rows: NDArray[np.int64], weights: Floats) -> None:
    """Refuse different weights within a list, because lists are learnt as a whole. # D86"""
    lists = training_set.lists_of(rows)
    if lists is None:
        return
    order = np.lexsort((weights, lists))
    lists, weights = lists[order], weights[order]
    apart = np.flatnonzero((lists[1:] == lists[:-1]) & (weights[1:] != weights[:-1]))
    if apart.size:
        first = apart[0]
        name = training_set.requests[str(model.group)].to_list()[rows[order[first]]]
        raise Misuse(
            f"model {model.name!r}: rows of one list have different weights (the first: {model.group} {name!r}, "
            f"{weights[first]:g} and {weights[first + 1]:g}), and a list counts as a whole. Let the weight read "
            "columns that all rows of a list share, or express the value of a row by its relevance."
        )


def _balanced(target: NDArray[Any], weights: Floats) -> Floats:
    """Return weights with which all classes that occur have the same sum. The sum of all weights does not change."""
    there, place = np.unique(target, return_inverse=True)
    sums = np.bincount(place, weights=weights)
    return weights * (float(weights.sum()) / (there.size * sums))[place]
