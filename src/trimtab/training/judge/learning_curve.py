"""Learning curve: the metric of models that are fitted on more and more of the newest training rows."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.interval import Interval
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.judge.parts import Judged, mean_interval

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
_MOST_ROWS = 50_000  # the largest number of rows of a fit
_LEAST_ROWS = 50


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The metric of the model if it is fitted on `rows` rows."""

    rows: int  # the number of newest rows before the holdout
    since_us: int  # the time of the oldest of these rows
    value: float | None  # the metric on the holdout; None: the model cannot be fitted on so few rows
    interval: Interval | None


def learning_curve(
    refit: Callable[[NDArray[np.bool_]], Fitted],
    judge: Callable[[Fitted], Judged],
    training_set: TrainingSet,
    train: NDArray[np.bool_],
) -> tuple[CurvePoint, ...]:
    """Fit on the newest eighth, quarter, half and all of the training rows, and return the metric of each fit.

    With more than 50,000 training rows, these are shares of the newest 50,000. With fewer, there is no fit on all rows,
    because that is the evaluated model. Fits on fewer than 50 rows are left out.

    Args:
        refit: Fits the model on the rows in a boolean array.
        judge: Scores the holdout with a fitted model.
        train: The training rows before the holdout, as a boolean array.
    """
    numbers = np.flatnonzero(training_set.usable & train)
    begun_us = training_set.begun_us
    numbers = numbers[np.argsort(begun_us[numbers], kind="stable")]
    top = min(numbers.size, _MOST_ROWS)
    sizes = [int(top * share) for share in SHARES if _LEAST_ROWS <= int(top * share) < numbers.size]
    points = []
    for rows in sizes:
        mask = np.zeros(training_set.rows, np.bool_)
        mask[numbers[-rows:]] = True
        since_us = int(begun_us[numbers[-rows]])
        try:
            judged = judge(refit(training_set.whole(mask)))
        except Misuse:  # there is only one class, or there are too few rows for the features or the calibration
            points.append(CurvePoint(rows=rows, since_us=since_us, value=None, interval=None))
            continue
        found, at_us = judged.losses()
        points.append(
            CurvePoint(rows=rows, since_us=since_us, value=float(found.mean()), interval=mean_interval(found, at_us))
        )
    return tuple(points)
