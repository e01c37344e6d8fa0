"""What each feature adds to one answer: SHAP values of trees by their library, of linear models by their formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.fitting.artifact import Artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OFF = 1e-4  # how far the sum may be from the raw score, relative to scores above 1; XGBoost has single precision


class Contributions(msgspec.Struct, frozen=True, eq=False):
    """Shares of the estimator's raw score: log odds of a class, the number, the log of a Poisson count.

    `base` plus the sum of a row of `values` is that row of `raw`. A calibration comes after the raw score.

    Of several classes each has a raw score of its own: there is one axis more, the last, in the order of `classes`.
    """

    names: tuple[str, ...]
    values: NDArray[Any]  # float64, shape (rows, features)
    base: NDArray[Any]  # shape (rows,): what an average row scores
    raw: NDArray[Any]  # shape (rows,)
    classes: tuple[str, ...] = ()  # of several: those with a raw score; of two that were fitted on the second alone


def contributions(artifact: Artifact, matrix: NDArray[Any]) -> Contributions:
    """The SHAP values of rows of an encoded matrix, checked against the raw scores that they must add up to.

    Raises:
        Misuse: The runtime has none, or they do not add up.

    Source: Lundberg, Erion & Lee (2018), "Consistent individualized feature attribution for tree ensembles"; of linear
    models with features taken as independent, Lundberg & Lee (2017), corollary 1.
    """
    import numpy as np

    compute = {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost}.get(artifact.runtime)
    if artifact.runtime == "sklearn" and artifact.step is not None:  # inputs whose mean over the training rows is 0
        compute = _linear
    if compute is None:
        raise _none(artifact)
    inputs = matrix if artifact.step is None else artifact.step.apply(matrix)
    classes = _scored_classes(artifact)
    if not len(inputs):
        more = (len(classes),) if classes else ()
        empty = np.empty((0, *more))
        return Contributions(artifact.inputs, np.empty((0, len(artifact.inputs), *more)), empty, empty, classes)
    try:
        found, raw = compute(artifact.estimator, inputs)
    except _NotLinear:
        raise _none(artifact) from None
    found, raw = np.asarray(found, np.float64), np.asarray(raw, np.float64)
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
    """The classes of several that have a raw score: those that were fitted on, of two the second."""
    if artifact.classes is msgspec.UNSET:
        return ()
    known = tuple(artifact.classes.names[place] for place in artifact.classes.fitted)
    return known[1:] if len(known) == 2 else known


class _NotLinear(Exception):
    """An estimator whose raw score is no sum."""


def _none(artifact: Artifact) -> Misuse:
    return Misuse(
        f"contributions of {artifact.model!r}: {artifact.kind} ({artifact.runtime}) computes none. LightGBM, XGBoost, "
        "CatBoost and scikit-learn's plain linear models do; evaluations have permutation importance for every model."
    )


def _linear(data: bytes, inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    from trimtab.training.runtimes.sklearn import is_linear, is_softmax
    from trimtab.training.runtimes.skops_bytes import loads

    fitted = loads(data)
    if not (is_linear(fitted) or is_softmax(fitted)):
        raise _NotLinear
    weights = np.atleast_2d(np.asarray(fitted.coef_, np.float64))  # (scores, inputs)
    offsets = np.asarray(fitted.intercept_, np.float64).reshape(-1) + np.zeros(len(weights))
    last = np.broadcast_to(offsets[None, :, None], (len(inputs), len(offsets), 1))
    return np.concatenate([inputs[:, None, :] * weights, last], axis=2), inputs @ weights.T + offsets


def _lightgbm(data: bytes, inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    import lightgbm
    import numpy as np

    booster = lightgbm.Booster(model_str=data.decode())
    found = booster.predict(inputs, pred_contrib=True, num_threads=1)
    return np.asarray(found), np.asarray(booster.predict(inputs, raw_score=True, num_threads=1))


def _xgboost(data: bytes, inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(data))
    best = booster.attr("best_iteration")
    rounds = (0, 0) if best is None else (0, int(best) + 1)
    table = xgboost.DMatrix(inputs, missing=np.nan, nthread=1)
    plain: Any = {"iteration_range": rounds, "validate_features": False}  # it may name inputs, which a matrix does not
    return booster.predict(table, pred_contribs=True, **plain), booster.predict(table, output_margin=True, **plain)


def _catboost(data: bytes, inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    import catboost

    model = catboost.CatBoost()
    model.load_model(blob=data, format="cbm")
    return (
        model.get_feature_importance(catboost.Pool(inputs), type="ShapValues", thread_count=1),
        model.predict(inputs, prediction_type="RawFormulaVal", thread_count=1),
    )
