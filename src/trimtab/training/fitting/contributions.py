"""SHAP values: how much each feature adds to a score. They come from the library, or from a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.runtimes.table import runtime_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

# how far the sum of the contributions may differ from the raw score (for raw scores above 1: relative to them), because
# XGBoost computes in single precision
_OFF = 1e-4


class Contributions(msgspec.Struct, frozen=True, eq=False):
    """How much each feature adds to the estimator's raw score (log odds, a number, or the logarithm of a count).

    In each row, `base` plus the sum of `values` is `raw`, the score before calibration. For several classes, each class
    has a raw score. All arrays then have one more axis: the last, in the order of `classes`.
    """

    names: tuple[str, ...]
    values: NDArray[Any]  # float64, shape (rows, features)
    base: NDArray[Any]  # shape (rows,): the raw score of an average row
    raw: NDArray[Any]  # shape (rows,)
    classes: tuple[str, ...] = ()  # for several classes: those that have a raw score (of only two, just the second)


def contributions(artifact: Artifact, matrix: NDArray[Any]) -> Contributions:
    """Return the SHAP values of rows of the matrix, after a check that they add up to the raw scores.

    Raises:
        Misuse: There are no SHAP values for models of this library, or they do not add up to the raw scores.

    Source: Lundberg, Erion & Lee (2018), "Consistent individualized feature attribution for tree ensembles". For linear
    models, features are taken as independent: Lundberg & Lee (2017), corollary 1.
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
    computed = compute(artifact.estimator, inputs, artifact.step is not None)  # standardized inputs have the mean 0
    if computed is None:
        raise _none(artifact)
    found, raw = (np.asarray(one, np.float64) for one in computed)
    wanted = (len(inputs), max(len(classes), 1), len(artifact.inputs) + 1)
    if found.size != np.prod(wanted) or raw.size != np.prod(wanted[:2]):
        raise Misuse(
            f"contributions of {artifact.model!r}: the library gave values of shape {found.shape} for inputs of shape "
            f"{inputs.shape}."
        )
    # runtimes return shape (rows, classes, features + 1); the last value of each row is the base
    found, raw = np.moveaxis(found.reshape(wanted), 1, 2), raw.reshape(wanted[:2])
    if not classes:
        found, raw = found[..., 0], raw[..., 0]
    off = np.abs(found.sum(axis=1) - raw) / np.maximum(1.0, np.abs(raw))
    if not off.max() <= _OFF:
        raise Misuse(
            f"contributions of {artifact.model!r}: their sum differs by {off.max():.3g} from the raw score, "
            f"because {artifact.runtime} only computes them approximately for this booster. Use another booster."
        )
    return Contributions(artifact.inputs, found[:, :-1], found[:, -1], raw, classes)


def _scored_classes(artifact: Artifact) -> tuple[str, ...]:
    """Return the classes that have a raw score: the fitted ones, or of two the second. Empty: a row has one score."""
    if artifact.classes is msgspec.UNSET:
        return ()
    known = tuple(artifact.classes.names[place] for place in artifact.classes.fitted)
    return known[1:] if len(known) == 2 else known


def _none(artifact: Artifact) -> Misuse:
    return Misuse(
        f"contributions of {artifact.model!r}: {artifact.kind} ({artifact.runtime}) cannot compute them. LightGBM, "
        "XGBoost, CatBoost and scikit-learn's plain linear models do; evaluations have permutation importance for "
        "every model."
    )
