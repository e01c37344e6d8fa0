"""Splits by time. Rows before the split are on neither side if their labels were not final yet at the split."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.fit import fit
from trimtab.training.fitting.folds import OutOfFold, known_before, predict_forward
from trimtab.training.fitting.score_checks import fitted_values


class TimeSplit(msgspec.Struct, frozen=True, eq=False):
    """The training rows and the holdout, as boolean arrays over the rows of a training set."""

    train: NDArray[np.bool_]
    holdout: NDArray[np.bool_]
    start_us: int  # the time at which the holdout begins
    end_us: int  # the holdout's rows are before this time


def time_split(training_set: TrainingSet, *, holdout_us: int = 14 * DAY_US) -> TimeSplit:
    """Return a holdout and the training rows.

    The holdout is the last `holdout_us` in which all labels are final. The training rows are those whose labels were
    final and known when the holdout begins.

    Raises:
        Misuse: One of the sides has no rows.
    """
    end_us = training_set.manifest.final_until(training_set.manifest.labels_until_us) + 1
    start_us = end_us - holdout_us
    begun_us = training_set.begun_us  # whole lists are on one side
    holdout = training_set.usable & (begun_us >= start_us) & (begun_us < end_us)
    train = known_before(training_set, start_us)
    if not holdout.any() or not train.any():
        raise Misuse(
            f"split: needed rows on both sides of {format_time(start_us)}; found {int(train.sum())} rows with a "
            f"label known before it and {int(holdout.sum())} rows in the {format_duration(holdout_us)} after it. Widen "
            "the training set, or shorten the holdout."
        )
    return TimeSplit(train, holdout, start_us, end_us)


def walk_forward(model: Model, training_set: TrainingSet, *, folds: int = 5, seed: int = 0) -> OutOfFold:
    """Divide the usable rows by time into `folds` + 1 equal parts. Predict each but the first by a fit on older rows.

    Raises:
        Misuse: There are too few rows, or a fit fails. The message says which.
    """
    return predict_forward(
        lambda rows: fit(model, training_set, rows=rows, seed=seed),
        fitted_values,
        training_set,
        training_set.usable,
        folds=folds,
        first=1.0 / (max(folds, 1) + 1),
        what="walk forward",
    )
