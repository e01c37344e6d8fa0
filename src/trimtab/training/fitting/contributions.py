"""Contributions of features to a score: SHAP values of trees by their library, of linear models by their formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.runtimes.table import runtime_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OFF = 1e-4  # allowed difference of the sum and the raw score, relative to scores above 1; XGBoost has single precision


class Contributions(msgspec.Struct, frozen=True, eq=False):
    """Contributions to the estimator's raw score: log odds of a class, the number, the log of a Poisson count.

    `base` plus the sum of a row of `values` is that row of `raw`. Calibration is applied after the raw score.

    With several classes each has a raw score of its own: there is one more axis, the last, in the order of `classes`.
    """

    names: tuple[str, ...]
    values: NDArray[Any]  # float64, shape (rows, features)
    base: NDArray[Any]  # shape (rows,): the score of an average row
    raw: NDArray[Any]  # shape (rows,)
    classes: tuple[
        str, ...
    ] = ()  # those with a raw score, where there are several; of two fitted classes the second alone


def contributions(artifact: Artifact, matrix: NDArray[Any]) -> Contributions:
    """The SHAP values of rows of an encoded matrix, checked against the raw scores that they must add up to.

    Raises:
        Misuse: The runtime has none, or they do not add up.

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
    computed = compute(artifact.estimator, inputs, artifact.step is not None)  # after the step each mean is 0
    if computed is None:
        raise _none(artifact)
    found, raw = (np.asarray(one, np.float64) for one in computed)
    wanted = (len(inputs), max(len(classes), 1), len(artifact.inputs) + 1)
    if found.size != np.prod(wanted) or raw.size != np.prod(wanted[:2]):
        raise Misuse(f"contributions of {artifact.model!r}: {found.shape} values for {inputs.shape} inputs.")
    found, raw = np.moveaxis(found.reshape(wanted), 1, 2), raw.reshape(wanted[:2])  # all give class by class
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
    """The classes with a raw score: the fitted ones, of two the second; empty without classes."""
    if artifact.classes is msgspec.UNSET:
        return ()
    known = tuple(artifact.classes.names[place] for place in artifact.classes.fitted)
    return known[1:] if len(known) == 2 else known


def _none(artifact: Artifact) -> Misuse:
    return Misuse(
        f"contributions of {artifact.model!r}: {artifact.kind} ({artifact.runtime}) computes none. LightGBM, XGBoost, "
        "CatBoost and scikit-learn's plain linear models do; evaluations have permutation importance for every model."
    )
