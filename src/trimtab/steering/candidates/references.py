"""The reference of a version: past days, scored by a model that did not see them. Later days are compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns
from trimtab.core.records import DayQuality
from trimtab.core.time import DAY_US
from trimtab.feedback.days import day_quality, days_by_group
from trimtab.feedback.outcomes import LabelReader
from trimtab.feedback.slices import slice_column
from trimtab.monitoring.quality.loss_estimates import LossEstimate, learn_loss_estimate, reads_inputs
from trimtab.monitoring.quality.watches import CALIBRATION, FULL_REFERENCE, LOSS
from trimtab.stats.metrics.loss_names import loss_kind, quantile_of
from trimtab.stats.metrics.losses import Loss, bounded_losses, expected_losses, row_losses
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.steering.candidates.windows import JudgingWindow
from trimtab.steering.definitions import Deployment, NamedSlice
from trimtab.steering.loop_state import PairedDay
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.fitted import Fitted

LEAST_SLICE_DAYS: Final = 14  # a slice needs this many days with labels; otherwise it has no reference
LONG_REFERENCE: Final = 84  # a reference of this many days is hardly changed by holidays or a bad week
MOST_WORSE: Final = 0.2  # the loss of a model that scores earlier days is at most this share above the candidate's
MOST_SLICES: Final = 200  # a column with more values than this has no slices
# the days before the judging window are scored by the version in service, and not by a new fit, if they begin at most
# this long after the last rows that the version has seen
AS_NEW_US: Final = 7 * DAY_US


def request_slices(deployment: Deployment) -> tuple[str | NamedSlice, ...]:
    """Return the slices of a deployment's days: columns of the request, and expressions that the gate names.

    If the gate names no columns, all columns of texts and bools are taken. Slices that read features are left out,
    because logged requests have no features. A ranking has no slices, because its lists are judged as a whole.
    """
    model = deployment.model
    if model.task == "ranking":
        return ()
    columns = model.request.columns
    named = [one for one in deployment.gate.slices if isinstance(one, str) and one in columns]
    texts = [name for name, dtype in columns.items() if dtype in ("str", "bool") and name != model.request.key]
    expressions = [
        one for one in deployment.gate.slices if isinstance(one, NamedSlice) and one.of.columns() <= columns.keys()
    ]
    taken = {one.name for one in expressions}
    return (*(name for name in named or texts if name not in taken), *expressions)


class Answers(msgspec.Struct, frozen=True, eq=False):
    """Scores of rows, by a model that was not fitted on these rows."""

    rows: Rows  # which rows of the training set, as a boolean array
    scores: Floats  # shape (rows,); for a model of several classes (rows, classes)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """The reference days, oldest first: the sums of all rows, and those of each slice."""

    days: tuple[DayQuality, ...]
    slices: dict[str, tuple[DayQuality, ...]]


def healthy_reference(
    model: Model,
    version: str,
    training_set: TrainingSet,
    answered: Sequence[Answers],
    labels: LabelReader,
    *,
    cap: float,
    slices: Sequence[str | NamedSlice],
) -> Reference:
    """Sum up the losses by day, in total and by slice.

    The label of a row is the one that was known when the wait for it was over, as if the day had been closed then.

    Args:
        version: The version that gets these days as its reference.
        training_set: The training set that the rows belong to.
        answered: Scores of rows, oldest first. No two items have rows of the same day.
        labels: Finds the labels that were known when a day was closed.
        cap: Larger losses of a row count as this.
        slices: Columns of the request, and expressions over them.
    """
    days: list[DayQuality] = []
    by_slice: dict[str, list[DayQuality]] = {}
    for one in answered:
        rows = one.rows
        at_us = training_set.at_us[rows]
        truth = labels(training_set.keys.take(rows), at_us, model.label.final_at(at_us)).values
        about = (model.name, model.metric, version)
        lists = training_set.lists_of(rows)
        days += day_quality(*about, at_us, one.scores, truth, cap=cap, lists=lists)
        if lists is not None:
            continue
        for part in slices:
            names, groups = _named(part, training_set.requests, rows)
            here = groups >= 0
            found = days_by_group(*about, at_us[here], one.scores[here], truth[here], groups[here], len(names), cap=cap)
            for name, of_slice in zip(names, found, strict=True):
                by_slice.setdefault(name, []).extend(of_slice)
    known = {name: tuple(found) for name, found in by_slice.items() if _enough(found)}
    return Reference(days=tuple(days), slices=known)


def estimate_from(
    deployment: Deployment, fitted: Fitted, training_set: TrainingSet, answered: Sequence[Answers]
) -> LossEstimate | None:
    """Learn how to estimate the losses of a version before labels come; see `learn_loss_estimate`.

    Args:
        fitted: The version that goes into service.
        answered: Scores of rows by models that were not fitted on these rows.
    """
    if deployment.learn == "online":  # the model changes with each label
        return None
    parts = [np.flatnonzero(one.rows) for one in answered]
    rows, scores = np.concatenate(parts), np.concatenate([one.scores for one in answered])
    metric, inputs = deployment.model.metric, None
    if reads_inputs(metric):
        inputs = np.asarray(fitted.matrix(training_set.features.values.take(rows)), np.float64)
    labels = np.where(training_set.usable, training_set.target, np.nan)[rows]
    return learn_loss_estimate(metric, training_set.at_us[rows], scores, labels, inputs)


def walk_forward_rows(
    training_set: TrainingSet, window: JudgingWindow, source: Rows, since_us: int | None
) -> list[tuple[Rows, Rows]]:
    """Return rows to learn from and rows to score, so that the reference also has days before a window.

    There are at most two choices: a reference of 84 days (window included), if the rows left to learn from are at least
    twice the rows to score, and then one of 28 days, if there are as many to learn from as to score. A choice is left
    out if the window alone has that many days, or if all rows to learn from have the same label.

    Args:
        source: The rows that the candidate has learnt from, the only ones to learn from here.
        since_us: The beginning of the last change that was repaired; days before it are not scored.
    """
    at_us, usable, found = training_set.at_us, training_set.usable, []
    scored = usable if since_us is None else usable & (training_set.begun_us >= since_us)
    for days, rest in ((LONG_REFERENCE, 2.0), (FULL_REFERENCE, 1.0)):
        begins_us = min(window.start_us, window.end_us - days * DAY_US)
        judged = scored & (at_us >= begins_us) & (at_us < window.start_us)
        learnt = usable & source & (training_set.manifest.final_at(at_us) <= begins_us)
        enough = judged.any() and learnt.sum() >= rest * judged.sum()
        if enough and np.unique(training_set.target[learnt]).size > 1:
            found.append((learnt, judged))
    return found


def is_as_good(days: Sequence[PairedDay], most: float = MOST_WORSE) -> bool:
    """Return whether a model's loss exceeds the champion's by at most the share `most` (-0.01: is 1 % or more below).

    The model that scored earlier days must not be much worse than the candidate on the window. Otherwise its losses
    would be too high for a reference, and a later rise up to them would raise no alarm. # D0226
    """
    worse = sum(day.rows * day.difference for day in days)
    return worse <= most * sum(day.rows * day.champion for day in days)


def refit_allowance(metric: Loss, scores: Floats, again: Floats, labels: Floats, cap: float) -> dict[str, float]:
    """Return how far the daily loss and calibration may lie from the reference only because the version is a refit.

    The reference has the scores of the candidate, but its refit on more data goes into service. So even if the data do
    not change, the daily loss and calibration of the refit differ from the reference. The result is this difference,
    computed as if the candidate's scores were right: as probabilities, as means or, for absolute errors and pinball
    losses, as quantiles. For quantiles, each row gets the distance between label and score of another row, because the
    refit has learnt the row's own label.

    Args:
        scores: The scores of the candidate, shape (rows,). For several classes the shape is (rows, classes).
        again: The scores of the refit for the same rows.
        labels: The labels of the rows.
        cap: Larger losses of a row count as this.
    """
    if loss_kind(metric) == "ranking":
        return {}
    expected = expected_losses(metric, again, cap)
    if expected is None:
        truths = [np.maximum(scores, 0.0) if metric == "poisson_deviance" else scores]
        if metric == "absolute_error" or quantile_of(metric) is not None:
            truths = [scores + np.roll(labels - scores, part * len(labels) // 5) for part in (1, 2, 3, 4)]
        away = np.mean([_more_lost(metric, truth, scores, again, cap) for truth in truths])
        return {LOSS: abs(float(away)), CALIBRATION: abs(float((again - scores).mean()))}
    by_class = scores.T if scores.ndim == 2 else np.stack([1.0 - scores, scores])
    losses = np.zeros(len(again))
    for label, share in enumerate(by_class):
        losses += share * bounded_losses(row_losses(metric, np.full(len(again), float(label)), again), cap)
    gap = again - scores
    if again.ndim == 2:
        top = again.argmax(axis=1)[:, None]
        gap = np.take_along_axis(gap, top, axis=1)
    return {LOSS: abs(float((losses - expected).mean())), CALIBRATION: abs(float(gap.mean()))}


def _more_lost(metric: Loss, labels: Floats, scores: Floats, again: Floats, cap: float) -> float:
    """Return the mean loss of the scores `again` minus that of `scores`, in units of the cap."""
    mine, other = (bounded_losses(row_losses(metric, labels, one), cap) for one in (scores, again))
    return float((other - mine).mean())


def _named(part: str | NamedSlice, requests: Columns, rows: Rows) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of slices, and for each row the index of its slice; -1: it is in none."""
    name, read = (part, {part}) if isinstance(part, str) else (part.name, part.of.columns())
    if not all(one in requests for one in read):  # the training set was made before this column was declared
        return [], np.full(int(rows.sum()), -1, np.int64)
    if isinstance(part, str):
        column = requests[part].take(rows)
    else:
        column = slice_column(name, part.of, requests.select(sorted(read)).take(rows))
        if column.dtype == "bool":
            return [name], np.where(column.present() & column.values, 0, -1)
    values, groups = _values(column)
    return [f"{name}={value}" for value in values], groups


def _values(column: Column) -> tuple[list[str], NDArray[np.int64]]:
    """Return the values of a column as texts, and for each row the index of its value; -1: null.

    If there are more than `MOST_SLICES` values, there are no names, and each index is -1.
    """
    numbers: dict[str, int] = {}
    present = column.present().tolist()
    groups = [
        numbers.setdefault(str(value)[:60], len(numbers)) if there else -1
        for value, there in zip(column.values.tolist(), present, strict=True)
    ]
    if len(numbers) > MOST_SLICES:
        return [], np.full(len(groups), -1, np.int64)
    return list(numbers), np.array(groups, np.int64)


def _enough(days: Sequence[DayQuality]) -> bool:
    return sum(day.labelled > 0 for day in days) >= LEAST_SLICE_DAYS
