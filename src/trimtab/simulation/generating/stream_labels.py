"""Labels of generated data: outcomes drawn at random for each kind of model, and the best possible predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, column
from trimtab.core.errors import Misuse
from trimtab.stats import quantile_of
from trimtab.stats.metrics.loss_names import LossKind
from trimtab.training.definitions import Model

Floats = NDArray[np.float64]
_SIGNS = {">=": 1.0, ">": 1.0, "<=": -1.0, "<": -1.0}  # the side of a limit on which a label is "yes"


class Outcomes(msgspec.Struct, frozen=True, eq=False):
    """The outcomes of requests, as a column of the label's source, and the best possible predictions."""

    column: str  # the name of the source's column that holds the outcomes
    values: Column
    # the best predictions if the score is known and the effects are taken as 0 (nearly the best possible ones if the
    # effects are small). Shape (rows,); for several classes (rows, classes).
    best: Floats


def outcomes(rng: np.random.Generator, model: Model, score: Floats, effects: Floats) -> Outcomes:
    """Draw the outcomes of requests at random.

    Args:
        score: The predictable part of each outcome, shape (rows,). Each kind of model turns it into a distribution; see
            `_binary`, `_classes`, `_number`, `_count`, `_quantile` and `_ranking`.
        effects: What no model can know, shape (rows,). It is added to the score, except for rankings.

    Raises:
        Misuse: The label's value is neither a column of bools, integers, floats or declared classes, nor a comparison
            of a column of floats with a number.
    """
    name, raw = _label_column(model)
    drawn, best = _BY_KIND[model.task](rng, model, score, effects)
    return Outcomes(name, raw(rng, drawn), best)


def _label_column(model: Model) -> tuple[str, Callable[[np.random.Generator, NDArray[Any]], Column]]:
    """Return the column from which the label is computed, and a function that makes its values from drawn labels."""
    label, value = model.label, model.label.value
    if value.op == "col":
        name = str(value.params[0])
        dtype = label.source.columns[name]
        if label.classes:
            return name, lambda rng, drawn: column(dtype, [label.classes[int(n)] for n in drawn])
        kinds: dict[str, Any] = {"bool": np.bool_, "int": np.int64, "float": np.float64}
        if dtype in kinds:
            return name, lambda rng, drawn: Column(dtype, np.asarray(drawn).astype(kinds[dtype]))
    if value.op in _SIGNS and value.args[0].op == "col" and value.args[1].op == "lit":
        name, limit = str(value.args[0].params[0]), value.args[1].params[-1]
        sign = _SIGNS[value.op]
        if label.source.columns[name] == "float" and isinstance(limit, int | float):

            def compared(rng: np.random.Generator, drawn: NDArray[Any]) -> Column:
                away = 0.5 + rng.exponential(5.0, len(drawn))
                return Column("float", float(limit) + np.where(drawn > 0, sign, -sign) * away)

            return name, compared
    raise Misuse(
        f"stream of {model.name!r}: its label is {value!r}. Needed: a column of bools, integers, floats or declared "
        "classes, or a column of floats compared with a number (>=, >, <=, <). Other labels cannot be generated."
    )


_Drawn = tuple[NDArray[Any], Floats]


def _binary(rng: np.random.Generator, model: Model, score: Floats, effects: Floats) -> _Drawn:
    return (rng.random(len(score)) < _sigmoid(score + effects)).astype(np.float64), _sigmoid(score)


def _classes(rng: np.random.Generator, model: Model, score: Floats, effects: Floats) -> _Drawn:
    """Draw classes. Each class is likely in its own range of the score."""
    pulls = np.linspace(-1.5, 1.5, len(model.label.classes))

    def chances(of: Floats) -> Floats:
        odds = np.exp(of[:, None] * pulls - 0.5 * np.abs(pulls))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    drawn = (rng.random(len(score))[:, None] > chances(score + effects).cumsum(axis=1)).sum(axis=1)
    return np.minimum(drawn, len(pulls) - 1), chances(score)


def _number(rng: np.random.Generator, model: Model, score: Floats, effects: Floats) -> _Drawn:
    return score + effects + rng.normal(size=len(score)), score


def _count(rng: np.random.Generator, model: Model, score: Floats, effects: Floats) -> _Drawn:
    rate = np.exp(np.clip(0.5 + 0.4 * score, -4.0, 4.0))
    return rng.poisson(rate * np.exp(0.4 * effects)).astype(np.float64), rate


def _quantile(rng: np.random.Generator, model: Model, score: Floats, effects: Floats) -> _Drawn:
    from statistics import NormalDist

    quantile = quantile_of(model.metric)
    assert quantile is not None  # such a model has a quantile
    drawn, best = _number(rng, model, score, effects)
    return drawn, best + NormalDist().inv_cdf(quantile)


def _ranking(rng: np.random.Generator, model: Model, score: Floats, effects: Floats) -> _Drawn:
    return np.clip(np.round(1.0 + score + 0.5 * rng.normal(size=len(score))), 0.0, 3.0), score


_BY_KIND: dict[LossKind, Callable[[np.random.Generator, Model, Floats, Floats], _Drawn]] = {
    "binary": _binary,
    "multiclass": _classes,
    "regression": _number,
    "count": _count,
    "quantile": _quantile,
    "ranking": _ranking,
}


def _sigmoid(score: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-score)))
