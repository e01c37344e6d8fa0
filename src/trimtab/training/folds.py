"""Where walks forward in time begin, and what was known at those moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.time import format_moment
from trimtab.training.sets import TrainingSet

if TYPE_CHECKING:
    from trimtab.training.fitted import Fitted

Mask = NDArray[np.bool_]


class OutOfFold(msgspec.Struct, frozen=True, eq=False):
    """Predictions for rows that the model which made them had not seen."""

    scores: NDArray[np.float64]  # NaN where no fold predicted
    fold: NDArray[np.int64]  # -1 where none did
    starts_us: tuple[int, ...]  # of each fold


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
    """Fit on what was known and predict the next part, `folds` times, the parts having equally many rows.

    Args:
        fit_on: Fits on the rows of a mask.
        score: A fitted model's scores of feature values.
        training_set: Where the rows are.
        among: The rows that take part.
        folds: How many parts are predicted.
        first: The share of the rows before the first of them.
        what: Begins the message of an error.

    Raises:
        Misuse: There are too few rows, or a fit fails; the message names the fold.
    """
    among = training_set.usable & among
    times = np.sort(training_set.at_us[among])
    if folds < 1 or times.size < folds + 1:
        raise Misuse(f"{what}: {folds} folds over {times.size} usable rows. Take fewer folds, or more rows.")
    step = (1.0 - first) / folds
    edges = [int(times[int(times.size * (first + k * step) + 1e-9)]) for k in range(folds)]
    scores = np.full(training_set.rows, np.nan)
    fold = np.full(training_set.rows, -1, np.int64)
    for number, start_us in enumerate(edges):
        end_us = edges[number + 1] if number + 1 < folds else int(times[-1]) + 1
        here = among & (training_set.at_us >= start_us) & (training_set.at_us < end_us)
        try:
            fitted = fit_on(among & known_before(training_set, start_us))
        except Misuse as error:
            raise Misuse(f"{what}, fold {number + 1} from {format_moment(start_us)}: {error}") from error
        if here.any():
            scores[here] = score(fitted, training_set.features.values.take(here))
        fold[here] = number
    return OutOfFold(scores, fold, tuple(edges))


def known_before(training_set: TrainingSet, start_us: int) -> Mask:
    """Usable rows whose label was final and known at `start_us`."""
    final = training_set.at_us + training_set.manifest.wait_us <= start_us
    known = training_set.label_known_at_us <= start_us
    mask: Mask = training_set.usable & final & known
    return mask
