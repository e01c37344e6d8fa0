"""Contributions of features to a score (SHAP values): by the library for trees, by a formula for linear models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.runtimes.table import runtime_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

# allowed difference between the sum and the raw score, relative to scores above 1; XGBoost has single precision
_OFF = 1e-4


class Contributions(msgspec.Struct, frozen=True, eq=False):
    """Contributions to the estimator's raw score: log odds of a class, a number, or the log of a Poisson count.

    `base` plus the sum of a row of `values` is that row of `raw`. Calibration is applied after the raw score. With
    several classes each class has its own raw score. All arrays then have one more axis, the last one, in the order of
    `classes`.
    """

    names: tuple[str, ...]
    values: NDArray[Any]  # float64, shape (rows, features)
    base: NDArray[Any]  # shape (rows,): the score of an average row
    raw: NDArray[Any]  # shape (rows,)
    classes: tuple[
        str, ...
    ] = ()  # with several classes those that have a raw score; for two fitted classes only the second


def contributions(artifact: Artifact, matrix: NDArray[Any]) -> Contributions:
    """Return the SHAP values of rows of an encoded matrix, after a check that they add up to the raw scores.

    Raises:
        Misuse: The runtime computes no SHAP values, or they do not add up to the raw scores.

    Source: Lundberg, Erion & Lee (2018), "Consistent individualized feature attribution for tree ensembles"; of linear
    models with features taken as independent, Lundberg & Lee (2017), corollary 1.
    """
    import numpy as np

    compute = runtime_named(artifact.runtime).format.contributions
    if compute is None:
        raise _none(artifact)
    inputs = matrix if artifact.step is None else artifact.step.apply(matrix)
    classes = _scored_classes(artifact)
    if not len(inputs):
        more = (len(classes),) if classes else ()
        empty = np.empty((0, *more))
        return Contributions(artifact.inputs, np.empty((0, len(artifact.inputs), *more)), empty, empty, classes)
    computed = compute(artifact.estimator, inputs, artifact.step is not None)  # standardized inputs have mean 0
    if computed is None:
        raise _none(artifact)
    found, raw = (np.asarray(one, np.float64) for one in computed)
    wanted = (len(inputs), max(len(classes), 1), len(artifact.inputs) + 1)
    if found.size != np.prod(wanted) or raw.size != np.prod(wanted[:2]):
        raise Misuse(f"contributions of {artifact.model!r}: {found.shape} values for {inputs.shape} inputs.")
    # every runtime gives one row of values per class
    found, raw = np.moveaxis(found.reshape(wanted), 1, 2), raw.reshape(wanted[:2])
    if not classes:
        found, raw = found[..., 0], raw[..., 0]
    off = np.abs(found.sum(axis=1) - raw) / np.maximum(1.0, np.abs(raw))
    if not off.max() <= _OFF:
        raise Misuse(
            f"contributions of {artifact.model!r}: they add up to {off.max():.3g} away from the raw score. Its "
            f"{artifact.runtime} computes them approximately: use another booster."
        )
    return Contributions(artifact.inputs, found[:, :-1], found[:, -1], raw, classes)


def _scored_classes(artifact: Artifact) -> tuple[str, ...]:
    """The classes that have a raw score: the fitted classes, or of two only the second. Empty without classes."""
    if artifact.classes is msgspec.UNSET:
        return ()
    known = tuple(artifact.classes.names[place] for place in artifact.classes.fitted)
    return known[1:] if len(known) == 2 else known


def _none(artifact: Artifact) -> Misuse:
    return Misuse(
        f"contributions of {artifact.model!r}: {artifact.kind} ({artifact.runtime}) computes none. LightGBM, XGBoost, "
        "CatBoost and scikit-learn's plain linear models do; evaluations have permutation importance for every model."
    )
