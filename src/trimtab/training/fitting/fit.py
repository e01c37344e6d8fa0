"""Fit a model on a training set, and check the fitted model's scores."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse, TrimtabError
from trimtab.core.hashing import bytes_hash
from trimtab.features.encoding import Encoding
from trimtab.features.encoding import fit as fit_encoding
from trimtab.features.stored import encode_features
from trimtab.run.progress import listening
from trimtab.stats.recalibration import Recalibration
from trimtab.training.data.leakage import find_leaks, refuse_leaks
from trimtab.training.data.sets import TrainingSet
from trimtab.training.data.weights import Weighed, weigh
from trimtab.training.definitions import Model
from trimtab.training.fitting.artifact import (
    Artifact,
    CalibratedScorer,
    Golden,
    encode_artifact,
    golden_difference,
    make_golden,
    uncalibrated_scorer,
)
from trimtab.training.fitting.classes import Classes
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.path_choice import refuse_unlike
from trimtab.training.fitting.recalibrating import recalibrate
from trimtab.training.fitting.score_checks import (
    answering,
    check_parity,
    check_repeats,
    checked_scores,
    fitted_values,
    place_raised,
)
from trimtab.training.fitting.standardize import Standardize, fit_standardize
from trimtab.training.runtimes.ports import ListRuntime, Runtime, Scorer, Trust
from trimtab.training.runtimes.table import missing_library, runtime_for, runtime_named, runtime_row

_CHECKED = 4_096  # how many rows are scored as a check after a fit
_ALONE = 200  # how many of these rows are also scored one by one


class Prepared(msgspec.Struct, frozen=True, eq=False):
    """The inputs of a fit, and the encoding that turns feature values into them."""

    encoding: Encoding
    step: Standardize | None
    matrix: NDArray[Any]  # encoded, but not standardized
    inputs: NDArray[Any]  # what the estimator gets
    target: NDArray[Any]  # int64 positions of the declared classes, or float64 numbers
    weights: NDArray[Any] | None  # the weight of each row; None: all are equal
    classes: Classes | None  # for the task "multiclass": the declared classes, and which of them occur
    # for a ranking: the number of rows of each list; rows of one list are next to each other
    sizes: NDArray[np.int64] | None = None


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
        model: The definition of the model.
        training_set: The rows, with features as they were at the time of each request, and with labels.
        rows: Which rows to use, as a boolean array; by default all usable rows.
        seed: The seed for estimators that accept a seed and have not set one.
        threads: The number of threads. If other processes run as well, more than one thread can make the fit slower.
        trust: "pickle" allows estimators that no safe format can store.

    Raises:
        Misuse: There are too few labels, a label is invalid, there is a leak that the model does not allow, or the
            estimator fails or gives invalid scores. The message names the model and the cause.
        Unavailable: A system library is missing.
    """
    chosen, _ = training_target(model, training_set, rows)
    refuse_leaks(model, find_leaks(model, training_set, chosen))
    return fit_unchecked(model, training_set, rows=rows, seed=seed, threads=threads, trust=trust)


def fit_unchecked(
    model: Model,
    training_set: TrainingSet,
    *,
    rows: NDArray[np.bool_] | None = None,
    seed: int = 0,
    threads: int = 1,
    trust: Trust | None = None,
) -> Fitted:
    """Fit a model like `fit`, but without a search for leaks, because the training set was already searched."""
    trust = trust or model.trust
    chosen = training_target(model, training_set, rows)
    recalibration = None
    if model.calibration is not None:
        plain = msgspec.structs.replace(model, calibration=None)
        recalibration = recalibrate(
            model.name,
            model.calibration,
            training_set,
            training_set.usable if rows is None else rows,
            lambda past: _fold(plain, training_set, rows=past, seed=seed, threads=threads, trust=trust),
            fitted_values,
        )
    estimator, runtime = new_estimator(model, trust, seed=seed, threads=threads)
    prepared = prepare(model, training_set, chosen, needs_step=not runtime.accepts_null(estimator))
    target = prepared.target if prepared.classes is None else np.searchsorted(prepared.classes.fitted, prepared.target)
    try:
        if isinstance(runtime, ListRuntime) and runtime.ranks(estimator):
            sizes, weights = _sizes(estimator, prepared), prepared.weights
            of_lists = None if weights is None else weights[np.cumsum(sizes) - sizes]
            fitted = runtime.fit_lists(estimator, prepared.inputs, target, sizes, of_lists)
        else:
            fitted = runtime.fit(estimator, prepared.inputs, target, model.features.names, prepared.weights)
    except TrimtabError as error:
        raise type(error)(f"model {model.name!r}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's estimator may raise any exception
        raise Misuse(
            f"model {model.name!r}: {type(estimator).__name__}.fit raised {type(error).__name__}: {error} "
            f"(on {prepared.inputs.shape[0]} rows x {prepared.inputs.shape[1]} features){place_raised(error)}"
        ) from error
    return finish(model, training_set, prepared, fitted, runtime, trust=trust, seed=seed, recalibration=recalibration)


def _fold(model: Model, training_set: TrainingSet, **how: Any) -> Fitted:
    """Fit a model as part of another fit. It does not report progress of its own."""
    with listening(None):
        return fit_unchecked(model, training_set, **how)


def training_target(
    model: Model, training_set: TrainingSet, rows: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the indices of the rows to fit on, and their labels. Refuse labels that cannot be learnt from."""
    what = f"model {model.name!r}"
    mask = training_set.usable if rows is None else training_set.usable & rows
    chosen = np.flatnonzero(mask)
    if not chosen.size:
        counts = training_set.manifest.lists
        raise Misuse(
            f"{what}: no labels to learn from: no row to fit on has a usable label. In the whole training set, "
            f"{', '.join(f'{n} rows are {state}' for state, n in training_set.manifest.by_state.items())}"
            f"{'' if counts is msgspec.UNSET else f'; {counts.text}'}. Widen the window, or wait for labels."
        )
    target = training_set.target[chosen]
    bad = np.flatnonzero(~np.isfinite(target))
    if bad.size:
        row = training_set.keys.to_list()[chosen[bad[0]]]
        raise Misuse(
            f"{what}: {bad.size} of {chosen.size} labels are not numbers (the first: request {row!r}, "
            f"{target[bad[0]]}). Let the label's expression give a number for every event, or leave those events out."
        )
    features = len(model.features.names)
    if chosen.size < features:
        raise Misuse(
            f"{what}: only {chosen.size} labelled rows for {features} features. Widen the window, or drop features."
        )
    if model.task == "binary":
        values = np.unique(target)
        if not np.isin(values, (0.0, 1.0)).all():
            raise Misuse(f"{what}: metric {model.metric!r} needs labels 0 and 1, found {values[:5].tolist()}.")
        if values.size < 2:
            raise Misuse(
                f"{what}: all {chosen.size} labels are {values[0]:g}. Widen the window until both classes occur."
            )
        target = target.astype(np.int64)
    elif model.task == "multiclass":
        target = target.astype(np.int64)
        if target.min() == target.max():
            name = model.label.class_names[target[0]]
            raise Misuse(f"{what}: all {chosen.size} labels are {name!r}. Widen the window until other classes occur.")
    elif model.task == "ranking":
        _check_lists(model, training_set, chosen)
    elif model.task == "count" and target.min() < 0.0:
        raise Misuse(f"{what}: metric {model.metric!r} needs counts of at least 0, found a label of {target.min():g}.")
    return chosen, target


def _check_lists(model: Model, training_set: TrainingSet, chosen: NDArray[np.int64]) -> None:
    """Refuse relevances below 0. Also refuse the rows if in every list all rows have the same relevance."""
    relevance = training_set.target[chosen]
    bad = np.flatnonzero(relevance < 0.0)
    if bad.size:
        row = training_set.keys.to_list()[chosen[bad[0]]]
        raise Misuse(
            f"model {model.name!r}: {bad.size} of {chosen.size} labels are below 0 (the first: request {row!r}, "
            f"{relevance[bad[0]]:g}), and a relevance is at least 0. Change the label's expression."
        )
    if not training_set.informative[chosen].any():
        raise Misuse(
            f"model {model.name!r}: in each training list all rows have the same relevance ({chosen.size} rows), so "
            "no order is better than another. Widen the window until relevances differ, or check whether "
            f"{model.group!r} names the lists."
        )


def _sizes(estimator: Any, prepared: Prepared) -> NDArray[np.int64]:
    if prepared.sizes is None:
        kind = type(estimator).__name__
        raise Misuse(
            f'{kind} learns from lists, but the model has none. Declare metric=tt.ndcg_loss(10) and group="...", or '
            f"choose another estimator than {kind}."
        )
    return prepared.sizes


def new_estimator(model: Model, trust: Trust | None, *, seed: int, threads: int) -> tuple[Any, Runtime]:
    """Return a new estimator of the model, with seed and threads set, and its runtime (the library that fits it)."""
    try:
        estimator = model.new_estimator()
    except ModuleNotFoundError as error:
        raise missing_library(error.name or "estimator", error) from error
    except TrimtabError:  # the message already says what the model lacks
        raise
    except (Exception, SystemExit) as error:  # the user's function may raise any exception
        misspelt = isinstance(error, ImportError) and str(error).startswith("cannot import name")
        if isinstance(error, ImportError) and not misspelt:
            raise missing_library(error.name or "estimator", error) from error
        # an error without a number is one of the linker, which could not load a library
        if isinstance(error, OSError) and error.errno is None:
            raise missing_library("estimator", error) from error
        why = f"its estimator function raised {type(error).__name__}: {error}{place_raised(error)}"
        raise Misuse(f"model {model.name!r}: {why}") from error
    if not callable(getattr(estimator, "learn_one", None)):  # estimators of River have learn_one instead of fit
        probabilities = model.task in ("binary", "multiclass") and callable(getattr(estimator, "predict_proba", None))
        for needed in ("fit",) if probabilities else ("fit", "predict"):
            if not callable(getattr(estimator, needed, None)):
                kind = type(estimator).__name__
                raise Misuse(f"model {model.name!r}: its estimator {kind} has no {needed} method.")
    try:
        runtime = runtime_for(estimator, trust=trust)
    except Misuse as error:
        raise Misuse(f"model {model.name!r}: {error}") from error
    runtime.configure(estimator, seed=seed, threads=threads)
    return estimator, runtime


def prepare(
    model: Model, training_set: TrainingSet, target: tuple[NDArray[np.int64], NDArray[Any]], *, needs_step: bool
) -> Prepared:
    """Fit the encoding and (with `needs_step`) the scaling on the rows to fit on, and apply them to these rows."""
    weighed = weigh(model, training_set, *target)
    sizes = None
    lists = training_set.lists_of(weighed.kept) if model.task == "ranking" else None
    if lists is not None:
        order = np.argsort(lists, kind="stable")  # sort by list; within a list, keep the order of requests
        weights = None if weighed.weights is None else weighed.weights[order]
        weighed = Weighed(weighed.kept[order], weighed.target[order], weights)
        sizes = np.unique(lists, return_counts=True)[1]
    values = training_set.features.values.take(weighed.kept)
    encoding = fit_encoding(model.features, values)
    matrix = encoding.matrix(values)
    step = fit_standardize(matrix, weighed.weights) if needs_step else None
    inputs = matrix if step is None else step.apply(matrix)
    classes = None
    if model.task == "multiclass":
        there = tuple(np.unique(weighed.target).tolist())
        classes = Classes(names=model.label.class_names, fitted=there, rows=len(weighed.target))
    return Prepared(encoding, step, matrix, inputs, weighed.target, weighed.weights, classes, sizes)


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
    """Store a fitted estimator as bytes, load it again, check that both give the same scores, and return the loaded
    one.

    Also find out how far the scores of a row alone and in a batch differ, and score the golden rows (see `Golden`).
    """
    classes = prepared.classes
    runtime, stored = _stored(model.name, estimator, runtime, trust)
    draft = Artifact(
        format=1 if classes is None else 2,
        model=model.name,
        task=model.task,
        metric=model.metric,
        runtime=runtime.name,
        trust=trust if runtime.name == "pickle" else None,
        kind=type(estimator).__name__,
        inputs=model.features.names,
        encoding=prepared.encoding,
        step=prepared.step,
        estimator=stored,
        row_exact=runtime.row_exact,
        row_tolerance=0.0,
        golden=Golden(b"", b""),
        definitions=encode_features(model.features),
        recalibration=recalibration,
        classes=msgspec.UNSET if classes is None else classes,
    )
    try:
        plain = uncalibrated_scorer(draft)
    except TrimtabError as error:
        raise type(error)(f"model {model.name!r}: {error}") from error
    scorer = plain if recalibration is None else CalibratedScorer(recalibration, plain)
    sample = np.unique(np.linspace(0, len(prepared.matrix) - 1, _CHECKED).astype(np.int64))
    width = len(draft.class_names)
    own = checked_scores(model.name, model.task, plain, prepared.matrix[sample], classes=width)
    if runtime_row(runtime.name).user_code:
        check_repeats(model.name, estimator, prepared.inputs[sample], runtime.parity, classes)
    check_parity(model.name, own, estimator, prepared.inputs[sample], runtime.parity, classes)
    scores = checked_scores(model.name, model.task, scorer, prepared.matrix[sample], classes=width)
    with answering(model.name):
        golden = make_golden(scorer, prepared.matrix)
        golden = _settle_row_call(plain, scorer, prepared.matrix, sample, golden, runtime)
        tolerance = _row_tolerance(scorer, prepared.matrix[sample[:_ALONE]], scores[:_ALONE])
    if runtime.row_exact and tolerance:
        raise Misuse(
            f"model {model.name!r}: on this machine {runtime.name} scores a row alone and in a batch differently, by "
            f"{tolerance:.3g}."
        )
    artifact = msgspec.structs.replace(draft, row_tolerance=tolerance, golden=golden)
    # each load compares the golden rows (see `Golden`), also one by one, so their differences must be allowed, too
    if not runtime.row_exact:
        with answering(model.name):
            worst = max(tolerance, golden_difference(artifact, scorer))
        artifact = msgspec.structs.replace(artifact, row_tolerance=worst)
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
        chosen=model.chosen,
        half_life_us=training_set.half_life_us,
    )


def _stored(name: str, estimator: Any, runtime: Runtime, trust: Trust | None) -> tuple[Runtime, bytes]:
    """Return an estimator as bytes, and the runtime that can read them.

    An estimator with parts from other libraries, which its own runtime cannot store, is pickled if `trust` allows that.
    """
    try:
        return runtime, runtime.save(estimator)
    except Misuse as error:
        if trust != "pickle" or not runtime_row(runtime.name).pickles_parts:
            raise Misuse(f"model {name!r}: {error}") from error
    pickled = runtime_named("pickle")
    try:
        return pickled, pickled.save(estimator)
    except Misuse as error:
        raise Misuse(f"model {name!r}: {error}") from error


def _settle_row_call(
    plain: Scorer, scorer: Scorer, matrix: NDArray[Any], sample: NDArray[np.int64], golden: Golden, runtime: Runtime
) -> Golden:
    """Refuse a scoring path (fast code for single rows) whose scores differ from those of the library.

    Returns:
        The golden predictions. If the path is refused, the row of its largest error replaces their last row (the row of
        nulls), so that each load of the model refuses the path, too.
    """
    spread = np.linspace(0, len(matrix) - 1, _ALONE).astype(np.int64)
    there = np.frombuffer(golden.rows, "<f8").reshape(-1, matrix.shape[1])
    tested = np.vstack([there, matrix[np.union1d(sample[:_ALONE], spread)]])
    unlike = refuse_unlike(plain, tested.tolist(), parity=0.0 if runtime.row_exact else runtime.parity)
    return golden if unlike is None else make_golden(scorer, tested[[*range(len(there) - 1), unlike]])


def _row_tolerance(scorer: Scorer, matrix: NDArray[Any], together: NDArray[np.float64]) -> float:
    alone = np.array([scorer.predict_row(row) for row in matrix.tolist()])
    return float(np.max(np.abs(alone - together), initial=0.0))
