"""Backtest of a recipe before the holdout: fit on the past of each fold, and judge on the fold."""

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
_FIRST = 0.5  # share of the rows before the first fold
_MOST_ROWS = 50_000  # the newest rows, as in the learning curve
_LEAST_ROWS = 200  # fewer make folds too small to judge by


class Fold(msgspec.Struct, frozen=True, kw_only=True):
    """One fold of a walk forward: rows, predicted by a fit on what was known before them."""

    start_us: int
    end_us: int  # of its last row
    fitted_rows: int
    rows: int
    value: float | None  # of the model's metric; None: its past could not be fitted
    auc: float | None
    mean_score: float | None
    mean_label: float | None
    interval: Interval | None  # of `value`; None: fewer than three days


def backtest(
    refit: Callable[[NDArray[np.bool_]], Fitted],
    judge: Callable[[Fitted, NDArray[Any]], Judged],
    training_set: TrainingSet,
    train: NDArray[np.bool_],
) -> tuple[Fold, ...]:
    """Four folds over the newer half of the rows before the holdout; none where there are fewer than 200.

    Args:
        refit: Fits the recipe on the rows of a mask.
        judge: Scores the rows of these numbers with a fitted model.
        training_set: The rows.
        train: The training rows before the holdout.
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
    except Misuse:  # one class only, or too few rows for its features or its calibration
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
