"""From a pinned training set to a fitted model whose answers have been checked."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Columns
from trimtab.core.errors import Misuse
from trimtab.core.hashing import bytes_hash
from trimtab.features.encoding import Encoding
from trimtab.features.encoding import fit as fit_encoding
from trimtab.features.stored import encode_features
from trimtab.stats.recalibration import Recalibration
from trimtab.training.artifact import Artifact, Golden, encode_artifact, make_golden, uncalibrated_scorer
from trimtab.training.calibrated import CalibratedScorer
from trimtab.training.definitions import Model, Task
from trimtab.training.fitted import Fitted
from trimtab.training.recalibrating import recalibrate
from trimtab.training.runtimes.choose import missing_library, runtime_for
from trimtab.training.runtimes.ports import Runtime, Scorer, Trust
from trimtab.training.sets import TrainingSet
from trimtab.training.standardize import Standardize, fit_standardize

_CHECKED = 4_096  # rows whose answers are checked after a fit
_ALONE = 200  # rows that are also scored one by one


class Prepared(msgspec.Struct, frozen=True, eq=False):
    """What an estimator is fitted on, and how feature values become it."""

    encoding: Encoding
    step: Standardize | None
    matrix: NDArray[Any]  # encoded, before the step
    inputs: NDArray[Any]  # what the estimator sees
    target: NDArray[Any]  # int64 classes, or float64 numbers


def fit(
    model: Model,
    training_set: TrainingSet,
    *,
    rows: NDArray[np.bool_] | None = None,
    seed: int = 0,
    threads: int = 1,
    trust: Trust | None = None,
) -> Fitted:
    """Fit a model on the usable rows of a training set.

    Args:
        model: The recipe.
        training_set: Rows with features and labels as of their time.
        rows: Which of them to use (a mask over all); left out, all that are usable.
        seed: Given to the estimator where it takes one and the user chose none.
        threads: One is the default: beside other processes, more wait for each other.
        trust: "pickle" allows an estimator that no safe format can hold.

    Raises:
        Misuse: Too few or unfit labels, or an estimator that fails or answers nonsense; the message names both the
            model and the cause.
        Unavailable: A system library is missing.
    """
    target = training_target(model, training_set, rows)
    recalibration = None
    if model.calibration is not None:
        plain = msgspec.structs.replace(model, calibration=None)
        recalibration = recalibrate(
            model.name,
            model.calibration,
            training_set,
            training_set.usable if rows is None else rows,
            lambda past: fit(plain, training_set, rows=past, seed=seed, threads=threads, trust=trust),
            fitted_values,
        )
    estimator, runtime = new_estimator(model, trust, seed=seed, threads=threads)
    prepared = prepare(model, training_set, target, needs_step=not runtime.accepts_null(estimator))
    try:
        fitted = runtime.fit(estimator, prepared.inputs, prepared.target, model.features.names)
    except Exception as error:  # whatever an estimator of the user's raises
        raise Misuse(
            f"model {model.name!r}: {type(estimator).__name__}.fit raised {type(error).__name__}: {error} "
            f"(on {prepared.inputs.shape[0]} rows x {prepared.inputs.shape[1]} features)"
        ) from error
    return finish(model, training_set, prepared, fitted, runtime, trust=trust, seed=seed, recalibration=recalibration)


def training_target(
    model: Model, training_set: TrainingSet, rows: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The numbers of the rows to fit on, and their labels, once they can be learnt from."""
    what = f"model {model.name!r}"
    mask = training_set.usable if rows is None else training_set.usable & rows
    chosen = np.flatnonzero(mask)
    if not chosen.size:
        raise Misuse(
            f"{what}: no labels to learn from: of {training_set.rows} rows "
            f"{', '.join(f'{n} are {state}' for state, n in training_set.manifest.by_state.items())}. "
            "Widen the window, or wait for labels."
        )
    target = training_set.target[chosen]
    bad = np.flatnonzero(~np.isfinite(target))
    if bad.size:
        row = training_set.keys.to_list()[chosen[bad[0]]]
        raise Misuse(
            f"{what}: {bad.size} of {chosen.size} labels are no number (the first: request {row!r}, {target[bad[0]]}). "
            "Let the label's expression give a number for every event, or leave those events out."
        )
    features = len(model.features.names)
    if chosen.size < features:
        raise Misuse(
            f"{what}: {chosen.size} labelled rows for {features} features. Widen the window, or drop features."
        )
    if model.task == "binary":
        values = np.unique(target)
        if not np.isin(values, (0.0, 1.0)).all():
            raise Misuse(f"{what}: metric {model.metric!r} needs labels 0 and 1, found {values[:5].tolist()}.")
        if values.size < 2:
            raise Misuse(f"{what}: all {chosen.size} labels are {values[0]:g}. Widen the window until both occur.")
        target = target.astype(np.int64)
    elif model.task == "count" and target.min() < 0.0:
        raise Misuse(f"{what}: metric {model.metric!r} needs counts of at least 0, found a label of {target.min():g}.")
    return chosen, target


def new_estimator(model: Model, trust: Trust | None, *, seed: int, threads: int) -> tuple[Any, Runtime]:
    """A new estimator of the model's with seed and threads set, and its runtime."""
    try:
        estimator = model.estimator()
    except (ImportError, OSError) as error:
        raise missing_library(getattr(error, "name", None) or "estimator", error) from error
    except Exception as error:  # whatever a function of the user's raises
        raise Misuse(f"model {model.name!r}: its estimator function raised {type(error).__name__}: {error}") from error
    if not callable(getattr(estimator, "learn_one", None)):  # as River's have it
        for needed in ("fit", "predict"):
            if not callable(getattr(estimator, needed, None)):
                raise Misuse(f"model {model.name!r}: its estimator {estimator!r} has no {needed} method.")
    runtime = runtime_for(estimator, trust=trust)
    runtime.configure(estimator, seed=seed, threads=threads)
    return estimator, runtime


def prepare(
    model: Model, training_set: TrainingSet, target: tuple[NDArray[np.int64], NDArray[Any]], *, needs_step: bool
) -> Prepared:
    """Encoding and step, fitted on the rows to fit on, and the matrix that they give."""
    chosen, labels = target
    values = training_set.features.values.take(chosen)
    encoding = fit_encoding(model.features, values)
    matrix = encoding.matrix(values)
    step = fit_standardize(matrix) if needs_step else None
    return Prepared(encoding, step, matrix, matrix if step is None else step.apply(matrix), labels)


def finish(
    model: Model,
    training_set: TrainingSet,
    prepared: Prepared,
    estimator: Any,
    runtime: Runtime,
    *,
    trust: Trust | None,
    seed: int,
    recalibration: Recalibration | None = None,
) -> Fitted:
    """The fitted model as it will be stored: saved, read back, and compared with the one in memory."""
    draft = Artifact(
        model=model.name,
        task=model.task,
        metric=model.metric,
        runtime=runtime.name,
        trust=trust if runtime.name == "pickle" else None,
        kind=type(estimator).__name__,
        inputs=model.features.names,
        encoding=prepared.encoding,
        step=prepared.step,
        estimator=runtime.save(estimator),
        row_exact=runtime.row_exact,
        row_tolerance=0.0,
        golden=Golden(b"", b""),
        definitions=encode_features(model.features),
        recalibration=recalibration,
    )
    plain = uncalibrated_scorer(draft)
    scorer = plain if recalibration is None else CalibratedScorer(recalibration, plain)
    sample = np.unique(np.linspace(0, len(prepared.matrix) - 1, _CHECKED).astype(np.int64))
    own = checked_scores(model.name, model.task, plain, prepared.matrix[sample])
    _check_parity(model.name, own, estimator, prepared.inputs[sample], runtime.parity)
    scores = checked_scores(model.name, model.task, scorer, prepared.matrix[sample])
    tolerance = _row_tolerance(scorer, prepared.matrix[sample[:_ALONE]], scores[:_ALONE])
    if runtime.row_exact and tolerance:
        raise Misuse(f"model {model.name!r}: {runtime.name} scores one row and a batch {tolerance:.3g} apart here.")
    artifact = msgspec.structs.replace(draft, row_tolerance=tolerance, golden=make_golden(scorer, prepared.matrix))
    data = encode_artifact(artifact)
    weights = runtime.importance(estimator)
    named = weights is not None and weights.shape == (len(artifact.inputs),)
    return Fitted(
        model=model.name,
        recipe=model.hash,
        features=model.features.hash,
        artifact=artifact,
        data=data,
        digest=bytes_hash(data),
        scorer=scorer,
        importance=dict(zip(artifact.inputs, weights.tolist(), strict=True)) if weights is not None and named else None,
        cut_us=training_set.manifest.cut_us,
        positions=dict(training_set.manifest.positions),
        rows=len(prepared.target),
        seed=seed,
    )


def checked_scores(name: str, task: Task, scorer: Scorer, matrix: NDArray[Any]) -> NDArray[np.float64]:
    """A scorer's answers, once they are one number a row and, for a class, probabilities.

    Raises:
        Misuse: They are not, or there are none.
    """
    try:
        scores = np.asarray(scorer.predict(matrix), np.float64)
    except Exception as error:  # whatever an estimator of the user's raises
        raise Misuse(f"model {name!r}: its prediction raised {type(error).__name__}: {error}") from error
    if scores.shape != (len(matrix),):
        raise Misuse(
            f"model {name!r}: predictions of shape {scores.shape} for {len(matrix)} rows. One a row is needed."
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise Misuse(f"model {name!r}: {bad.size} of {len(matrix)} predictions are no number, e.g. {scores[bad[0]]}.")
    bad = np.flatnonzero((scores < 0.0) | (scores > 1.0)) if task == "binary" else bad
    if bad.size:
        raise Misuse(
            f"model {name!r}: {bad.size} of {len(matrix)} predictions lie outside [0, 1], e.g. {scores[bad[0]]:.4g}. "
            "A probability is needed: give the estimator predict_proba, or choose a metric for numbers."
        )
    if task == "count" and scores.min(initial=0.0) < 0.0:
        raise Misuse(
            f"model {name!r}: {int((scores < 0.0).sum())} of {len(matrix)} predictions are below 0, e.g. "
            f'{scores.min():.4g}. A count is needed: give the estimator a Poisson objective (objective="poisson").'
        )
    return scores


def _check_parity(name: str, scores: NDArray[np.float64], estimator: Any, inputs: NDArray[Any], allowed: float) -> None:
    if hasattr(estimator, "predict_proba"):
        own = np.asarray(estimator.predict_proba(inputs), np.float64)
        own = own[:, 1] if own.ndim == 2 else own
    else:
        own = np.asarray(estimator.predict(inputs), np.float64).reshape(-1)
    worst = float(np.max(np.abs(own - scores) / np.maximum(1.0, np.abs(own))))
    if not worst <= allowed:
        raise Misuse(
            f"model {name!r}: {type(estimator).__name__} in memory and as stored differ by {worst:.3g}. "
            "A custom objective or a wrapper is lost on the way: use a built-in objective."
        )


def _row_tolerance(scorer: Scorer, matrix: NDArray[Any], together: NDArray[np.float64]) -> float:
    alone = np.array([scorer.predict_row(row) for row in matrix.tolist()])
    return float(np.max(np.abs(alone - together), initial=0.0))


def fitted_values(fitted: Fitted, values: Columns) -> NDArray[np.float64]:
    """Checked scores of feature values."""
    return checked_scores(fitted.model, fitted.artifact.task, fitted.scorer, fitted.matrix(values))
