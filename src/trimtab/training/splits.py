"""Splits by time, with a gap of one label wait: nothing is fitted that was not known before it is judged."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_duration, format_moment
from trimtab.training.definitions import Model
from trimtab.training.fitting import fit, fitted_values
from trimtab.training.sets import TrainingSet


class TimeSplit(msgspec.Struct, frozen=True, eq=False):
    """Two masks over the rows of a training set."""

    train: NDArray[np.bool_]
    holdout: NDArray[np.bool_]
    start_us: int  # of the holdout
    end_us: int


class OutOfFold(msgspec.Struct, frozen=True, eq=False):
    """Predictions for rows that the model which made them had not seen."""

    scores: NDArray[np.float64]  # NaN where no fold predicted
    fold: NDArray[np.int64]  # -1 where none did
    starts_us: tuple[int, ...]  # of each fold


def time_split(training_set: TrainingSet, *, holdout_us: int = 14 * DAY_US) -> TimeSplit:
    """The newest `holdout_us` whose labels are final against all that was known when it began.

    Raises:
        Misuse: One of the two sides is empty.
    """
    end_us = training_set.manifest.cut_us - training_set.manifest.wait_us + 1
    start_us = end_us - holdout_us
    holdout = training_set.usable & (training_set.at_us >= start_us) & (training_set.at_us < end_us)
    train = _known_before(training_set, start_us)
    if not holdout.any() or not train.any():
        raise Misuse(
            f"split: {int(train.sum())} training rows known before {format_moment(start_us)} and {int(holdout.sum())} "
            f"in the {format_duration(holdout_us)} from then on. Widen the set, or shorten the holdout."
        )
    return TimeSplit(train, holdout, start_us, end_us)


def walk_forward(model: Model, training_set: TrainingSet, *, folds: int = 5, seed: int = 0) -> OutOfFold:
    """Fit on the past and predict the next part, `folds` times, the parts having equally many usable rows.

    Raises:
        Misuse: There are too few rows, or a fit fails; the message names the fold.
    """
    times = np.sort(training_set.at_us[training_set.usable])
    if folds < 1 or times.size < folds + 1:
        raise Misuse(f"walk forward: {folds} folds over {times.size} usable rows. Take fewer folds, or more rows.")
    edges = [int(times[times.size * k // (folds + 1)]) for k in range(1, folds + 1)]
    scores = np.full(training_set.rows, np.nan)
    fold = np.full(training_set.rows, -1, np.int64)
    for number, start_us in enumerate(edges):
        end_us = edges[number + 1] if number + 1 < folds else int(times[-1]) + 1
        here = training_set.usable & (training_set.at_us >= start_us) & (training_set.at_us < end_us)
        try:
            fitted = fit(model, training_set, rows=_known_before(training_set, start_us), seed=seed)
        except Misuse as error:
            raise Misuse(f"walk forward, fold {number + 1} from {format_moment(start_us)}: {error}") from error
        if here.any():
            scores[here] = fitted_values(fitted, training_set.features.values.take(here))
        fold[here] = number
    return OutOfFold(scores, fold, tuple(edges))


def _known_before(training_set: TrainingSet, start_us: int) -> NDArray[np.bool_]:
    """Usable rows whose label was final and known at `start_us`."""
    final = training_set.at_us + training_set.manifest.wait_us <= start_us
    known = training_set.label_known_at_us <= start_us
    mask: NDArray[np.bool_] = training_set.usable & final & known
    return mask
