"""Backtest: for each of four time intervals before the holdout, fit a model on earlier rows and judge it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.interval import Interval
from trimtab.training.data.sets import TrainingSet
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.folds import known_before, time_parts
from trimtab.training.judge.parts import Judged, metrics_of

FOLDS = 4
_FIRST = 0.5  # the share of the rows before the first part
_MOST_ROWS = 50_000  # only the newest rows are used, this many for fits and parts together
_LEAST_ROWS = 200  # with fewer rows, the parts are too small to judge on


class Fold(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a backtest: rows of a time interval, predicted by a model fitted on what was known earlier."""

    start_us: int
    end_us: int  # the time of the last row
    fitted_rows: int
    rows: int
    value: float | None  # the model's metric; None: the model could not be fitted on the rows before this part
    auc: float | None
    mean_score: float | None
    mean_label: float | None
    interval: Interval | None  # the interval of `value`; None: there are fewer than three days


def backtest(
    refit: Callable[[NDArray[np.bool_]], Fitted],
    judge: Callable[[Fitted, NDArray[Any]], Judged],
    training_set: TrainingSet,
    train: NDArray[np.bool_],
) -> tuple[Fold, ...]:
    """Judge the model on four parts of the newer half of the rows before the holdout.

    The result is empty if there are fewer than 200 rows.

    Args:
        refit: Fits the model on the rows in a boolean array.
        judge: Scores the rows with the given indices, using a fitted model.
        train: The training rows before the holdout, as a boolean array.
    """
    numbers = np.flatnonzero(training_set.usable & train & np.isfinite(training_set.target))
    begun_us, informative = training_set.begun_us, training_set.informative
    numbers = numbers[np.argsort(begun_us[numbers], kind="stable")][-_MOST_ROWS:]
    if numbers.size < _LEAST_ROWS:
        return ()
    among = np.zeros(training_set.rows, np.bool_)
    among[numbers] = True
    among = training_set.whole(among)
    found = []
    for start_us, part in time_parts(training_set, among, folds=FOLDS, first=_FIRST):
        here = np.flatnonzero(part & informative)
        if here.size:
            past = among & known_before(training_set, start_us)
            found.append(_fold(refit, judge, training_set, here, past))
    return tuple(found)


def _fold(
    refit: Callable[[NDArray[np.bool_]], Fitted],
    judge: Callable[[Fitted, NDArray[Any]], Judged],
    training_set: TrainingSet,
    here: NDArray[Any],
    past: NDArray[np.bool_],
) -> Fold:
    at_us = training_set.at_us[here]
    start_us, end_us = int(at_us.min()), int(at_us.max())
    try:
        fitted = refit(past)
    # only one class occurs before the part, or there are too few rows for the features or the calibration
    except Misuse:
        return Fold(
            start_us=start_us,
            end_us=end_us,
            fitted_rows=int(past.sum()),
            rows=int(here.size),
            value=None,
            auc=None,
            mean_score=None,
            mean_label=None,
            interval=None,
        )
    values = metrics_of(judge(fitted, here), np.ones(here.size, np.bool_))
    return Fold(start_us=start_us, end_us=end_us, fitted_rows=fitted.rows, **values)
