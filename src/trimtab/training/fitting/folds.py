"""Walk forward in time: fit on what was known before a part of the rows, then predict this part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.time import format_time
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted

Mask = NDArray[np.bool_]


class OutOfFold(msgspec.Struct, frozen=True, eq=False):
    """Predictions for rows by models that were not fitted on these rows."""

    scores: NDArray[np.float64]  # NaN for rows that were not predicted
    fold: NDArray[np.int64]  # the index of each row's part; -1: the row was not predicted
    starts_us: tuple[int, ...]  # the time at which each part begins


class Part(msgspec.Struct, frozen=True, eq=False):
    """One part: the rows of a time interval, with predictions of a model fitted on labels that were known before it."""

    number: int
    start_us: int
    rows: NDArray[np.int64]  # the indices of the rows; empty if the next part begins at the same time
    scores: NDArray[np.float64]  # the prediction for each row


def walk(
    fit_on: Callable[[Mask], Fitted],
    score: Callable[[Fitted, Any], NDArray[np.float64]],
    training_set: TrainingSet,
    among: Mask,
    *,
    folds: int,
    first: float,
    what: str,
) -> Iterator[Part]:
    """For each of `folds` equally large parts: fit on rows whose labels were known before the part, then predict it.

    Args:
        fit_on: Fits on the rows in a boolean array.
        score: Scores feature values with a fitted model.
        among: The rows to use, as a boolean array.
        folds: How many parts to predict.
        first: The share of rows before the first part.
        what: The beginning of error messages.

    Raises:
        Misuse: There are too few rows, or a fit fails. The message says which.
    """
    among = training_set.usable & among
    count = int(among.sum())
    if folds < 1 or count < folds + 1:
        raise Misuse(f"{what}: {count} usable rows are too few for {folds} folds. Take fewer folds, or more rows.")
    for number, (start_us, part) in enumerate(time_parts(training_set, among, folds=folds, first=first)):
        here = np.flatnonzero(part)
        try:
            fitted = fit_on(among & known_before(training_set, start_us))
        except Misuse as error:
            raise Misuse(f"{what}, fold {number + 1} from {format_time(start_us)}: {error}") from error
        scores = score(fitted, training_set.features.values.take(here)) if here.size else np.empty(0)
        yield Part(number, start_us, here, scores)


def time_parts(training_set: TrainingSet, among: Mask, *, folds: int, first: float) -> Iterator[tuple[int, Mask]]:
    """Skip the oldest rows (the share `first`), and divide the others into `folds` parts with equally many rows.

    Yield the time at which each part begins, and its rows as a boolean array.
    """
    begun_us = training_set.begun_us
    times = np.sort(begun_us[among])
    step = (1.0 - first) / folds
    edges = [int(times[int(times.size * (first + k * step) + 1e-9)]) for k in range(folds)]
    for start_us, end_us in zip(edges, [*edges[1:], int(times[-1]) + 1], strict=True):
        yield start_us, among & (begun_us >= start_us) & (begun_us < end_us)


def predict_forward(
    fit_on: Callable[[Mask], Fitted],
    score: Callable[[Fitted, Any], NDArray[np.float64]],
    training_set: TrainingSet,
    among: Mask,
    *,
    folds: int,
    first: float,
    what: str,
) -> OutOfFold:
    """Return the predictions of all parts of `walk`, joined."""
    parts = list(walk(fit_on, score, training_set, among, folds=folds, first=first, what=what))
    fold = np.full(training_set.rows, -1, np.int64)
    # for a model of several classes, scores have a second axis
    width = next((part.scores.shape[1:] for part in parts if part.rows.size), ())
    scores: NDArray[np.float64] = np.full((training_set.rows, *width), np.nan)
    for part in parts:
        fold[part.rows] = part.number
        if part.rows.size:
            scores[part.rows] = part.scores
    return OutOfFold(scores, fold, tuple(part.start_us for part in parts))


def known_before(training_set: TrainingSet, start_us: int) -> Mask:
    """Return the usable rows whose label was final and known at `start_us`.

    In a ranking, a row is only returned if this holds for all rows of its list.
    """
    final = training_set.manifest.final_at(training_set.at_us) <= start_us
    known = training_set.label_known_at_us <= start_us
    return training_set.whole(training_set.usable & final & known)
