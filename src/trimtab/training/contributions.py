"""What each feature adds to one answer: exact SHAP values of trees, where their library computes them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Misuse
from trimtab.training.artifact import Artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OFF = 1e-4  # how far the sum may be from the raw score, relative to scores above 1; XGBoost has single precision


class Contributions(msgspec.Struct, frozen=True, eq=False):
    """Shares of the estimator's raw score: log odds of a class, the number, the log of a Poisson count.

    `base` plus the sum of a row of `values` is that row of `raw`. A calibration comes after the raw score.
    """

    names: tuple[str, ...]
    values: NDArray[Any]  # float64, shape (rows, features)
    base: NDArray[Any]  # shape (rows,): what an average row scores
    raw: NDArray[Any]  # shape (rows,)


def contributions(artifact: Artifact, matrix: NDArray[Any]) -> Contributions:
    """The SHAP values of rows of an encoded matrix, checked against the raw scores that they must add up to.

    Raises:
        Misuse: The runtime has none, or they do not add up.

    Source: Lundberg, Erion & Lee (2018), "Consistent individualized feature attribution for tree ensembles".
    """
    import numpy as np

    compute = {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost}.get(artifact.runtime)
    if compute is None:
        raise Misuse(
            f"contributions of {artifact.model!r}: {artifact.kind} ({artifact.runtime}) computes none. LightGBM, "
            "XGBoost and CatBoost do; evaluations have permutation importance for every model."
        )
    inputs = matrix if artifact.step is None else artifact.step.apply(matrix)
    if not len(inputs):
        empty = np.empty(0)
        return Contributions(artifact.inputs, np.empty((0, len(artifact.inputs))), empty, empty)
    found, raw = compute(artifact.estimator, inputs)
    found, raw = np.asarray(found, np.float64), np.asarray(raw, np.float64).reshape(-1)
    if found.shape != (len(inputs), len(artifact.inputs) + 1):
        raise Misuse(f"contributions of {artifact.model!r}: {found.shape} values for {inputs.shape} inputs.")
    off = np.abs(found.sum(axis=1) - raw) / np.maximum(1.0, np.abs(raw))
    if not off.max() <= _OFF:
        raise Misuse(
            f"contributions of {artifact.model!r}: they add up to {off.max():.3g} away from the raw score. Its "
            f"{artifact.runtime} computes them approximately: use another booster."
        )
    return Contributions(artifact.inputs, found[:, :-1], found[:, -1], raw)


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
    return (
        booster.predict(table, pred_contribs=True, iteration_range=rounds),
        booster.predict(table, output_margin=True, iteration_range=rounds),
    )


def _catboost(data: bytes, inputs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    import catboost

    model = catboost.CatBoost()
    model.load_model(blob=data, format="cbm")
    return (
        model.get_feature_importance(catboost.Pool(inputs), type="ShapValues", thread_count=1),
        model.predict(inputs, prediction_type="RawFormulaVal", thread_count=1),
    )
