"""How much more history would help: the metric of models fitted on ever more of the newest training rows."""

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
_MOST_ROWS = 50_000  # of a fit that is made for the curve alone
_LEAST_ROWS = 50


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """One size of training set."""

    rows: int  # the newest ones before the holdout
    since_us: int  # when the oldest of them was asked
    value: float | None  # of the metric on the holdout; None: so few rows could not be fitted
    interval: Interval | None


def learning_curve(
    refit: Callable[[NDArray[np.bool_]], Fitted],
    judge: Callable[[Fitted], Judged],
    training_set: TrainingSet,
    train: NDArray[np.bool_],
) -> tuple[CurvePoint, ...]:
    """Three or four sizes from the newest eighth on, none above 50,000 rows; that of the model itself is not refitted.

    Args:
        refit: Fits the recipe on the rows of a mask.
        judge: A fitted model's answers on the holdout.
        training_set: Where the rows are.
        train: The rows before the holdout that may be learnt from.
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
        except Misuse:  # one class only, or too few rows for its features or its calibration: the point says so
            points.append(CurvePoint(rows=rows, since_us=since_us, value=None, interval=None))
            continue
        found, at_us = judged.losses()
        points.append(
            CurvePoint(rows=rows, since_us=since_us, value=float(found.mean()), interval=mean_interval(found, at_us))
        )
    return tuple(points)
