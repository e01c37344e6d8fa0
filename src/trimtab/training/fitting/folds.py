"""Walk forward in time: fit on what was known before the next part of the rows, and predict that part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.time import format_time
from trimtab.training.data.sets import TrainingSet

if TYPE_CHECKING:
    from trimtab.training.fitting.fitted import Fitted

Mask = NDArray[np.bool_]


class OutOfFold(msgspec.Struct, frozen=True, eq=False):
    """Predictions for rows that their models were not fitted on."""

    scores: NDArray[np.float64]  # NaN for rows that no fold predicted
    fold: NDArray[np.int64]  # the number of the fold that predicted each row; -1: no fold did
    starts_us: tuple[int, ...]  # the start of each fold


class Part(msgspec.Struct, frozen=True, eq=False):
    """One fold: the rows of a time interval, predicted by a fit on what was known before them."""

    number: int
    start_us: int
    rows: NDArray[np.int64]  # the numbers of the rows; empty if many rows share one time
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
    """Fit on what was known and predict the next part, `folds` times. All parts have equally many rows.

    Args:
        fit_on: Fits on the rows that a mask selects.
        score: Returns a fitted model's scores of feature values.
        training_set: The set that holds the rows.
        among: A mask of the rows that take part.
        folds: The number of parts to predict.
        first: The share of the rows before the first part.
        what: The text that error messages begin with.

    Raises:
        Misuse: There are too few rows, or a fit fails; the message names the fold.
    """
    among = training_set.usable & among
    count = int(among.sum())
    if folds < 1 or count < folds + 1:
        raise Misuse(f"{what}: {folds} folds over {count} usable rows. Take fewer folds, or more rows.")
    for number, (start_us, part) in enumerate(time_parts(training_set, among, folds=folds, first=first)):
        here = np.flatnonzero(part)
        try:
            fitted = fit_on(among & known_before(training_set, start_us))
        except Misuse as error:
            raise Misuse(f"{what}, fold {number + 1} from {format_time(start_us)}: {error}") from error
        scores = score(fitted, training_set.features.values.take(here)) if here.size else np.empty(0)
        yield Part(number, start_us, here, scores)


def time_parts(training_set: TrainingSet, among: Mask, *, folds: int, first: float) -> Iterator[tuple[int, Mask]]:
    """Divide the rows after the `first` share of them into consecutive parts of equal size: their starts and rows."""
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
    """Join the predictions of all parts of a `walk`."""
    parts = list(walk(fit_on, score, training_set, among, folds=folds, first=first, what=what))
    fold = np.full(training_set.rows, -1, np.int64)
    # with several classes scores have one more axis
    width = next((part.scores.shape[1:] for part in parts if part.rows.size), ())
    scores: NDArray[np.float64] = np.full((training_set.rows, *width), np.nan)
    for part in parts:
        fold[part.rows] = part.number
        if part.rows.size:
            scores[part.rows] = part.scores
    return OutOfFold(scores, fold, tuple(part.start_us for part in parts))


def known_before(training_set: TrainingSet, start_us: int) -> Mask:
    """Usable rows whose label was final and known at `start_us`. In a ranking only whole lists of such rows."""
    final = training_set.manifest.final_at(training_set.at_us) <= start_us
    known = training_set.label_known_at_us <= start_us
    return training_set.whole(training_set.usable & final & known)
