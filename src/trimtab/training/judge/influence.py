"""SHAP values on the holdout: a summary for each feature, and points for a plot."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.contributions import contributions
from trimtab.training.fitting.fitted import Fitted

_ROWS = 2_000  # the number of rows to explain
_POINTS = 120  # how many of these rows are kept for the plot
_FEATURES = 15  # how many features have points for the plot


class ClassInfluence(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature contributes to the raw scores of one class."""

    name: str  # the name of the class
    mean: float  # the mean of the absolute contributions
    direction: float | None  # as in `Influence`


class Influence(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature contributes to the raw scores (log odds, a number, or the logarithm of a count)."""

    name: str
    mean: float  # the mean of the absolute contributions; for several classes, also over the classes
    # rank correlation of value and contribution, -1 to 1; None: values have no order, or all values (or all
    # contributions) are equal
    direction: float | None
    # pairs: a contribution, and the rank of the feature's value from 0 to 1 (None: the value is null or has no order)
    points: tuple[tuple[float, float | None], ...] = ()
    # only for several classes: `direction` is then None, and `points` is empty
    classes: tuple[ClassInfluence, ...] = ()


def influences(
    fitted: Fitted, training_set: TrainingSet, chosen: NDArray[Any], *, seed: int
) -> tuple[tuple[Influence, ...], str]:
    """Return what each feature contributes, largest first, and why this cannot be computed ("" if it can be).

    Args:
        chosen: The indices of the rows of the holdout.
    """
    order = np.random.default_rng(seed).permutation(chosen.size)[:_ROWS]
    values = training_set.features.values.take(chosen[np.sort(order)])
    matrix = fitted.matrix(values)
    try:
        found = contributions(fitted.artifact, matrix)
    except Misuse as error:
        return (), str(error)
    unordered = set(fitted.artifact.encoding.vocabularies)
    means = np.abs(found.values).reshape(len(matrix), len(found.names), -1).mean(axis=(0, 2))
    kept = np.unique(np.linspace(0, len(matrix) - 1, _POINTS).astype(np.int64))
    out: list[Influence] = []
    for place in np.argsort(-means, kind="stable").tolist():
        name, given, added = found.names[place], matrix[:, place], found.values[:, place]
        ranks = _ranks(given)
        if found.classes:
            by_class = tuple(
                ClassInfluence(
                    name=one,
                    mean=float(np.abs(added[:, number]).mean()),
                    direction=None if name in unordered else _correlation(ranks, added[:, number]),
                )
                for number, one in enumerate(found.classes)
            )
            out.append(Influence(name=name, mean=float(means[place]), direction=None, classes=by_class))
            continue
        points = tuple(
            (
                float(f"{added[row]:.4g}"),
                None if np.isnan(ranks[row]) or name in unordered else round(float(ranks[row]), 3),
            )
            for row in kept.tolist()
        )
        out.append(
            Influence(
                name=name,
                mean=float(means[place]),
                direction=None if name in unordered else _correlation(ranks, added),
                points=points if len(out) < _FEATURES else (),
            )
        )
    return tuple(out), ""


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return mean ranks, scaled from 0 to 1. Equal values have equal ranks, and the rank of null is NaN."""
    ranks = np.full(values.size, np.nan)
    there = ~np.isnan(values)
    _, inverse, counts = np.unique(values[there], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks[there] = ((last - counts + last - 1) / 2 / max(int(there.sum()) - 1, 1))[inverse]
    return ranks


def _correlation(ranks: NDArray[np.float64], added: NDArray[Any]) -> float | None:
    there = ~np.isnan(ranks)
    x, y = ranks[there], _ranks(added[there])
    if x.size < 2 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
