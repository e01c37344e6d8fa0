"""The reference of a version: healthy days that its recipe was not fitted on, in total and by slice."""

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
from trimtab.monitoring.quality.watches import CALIBRATION, FULL_REFERENCE, LOSS
from trimtab.stats.metrics.loss_names import loss_kind
from trimtab.stats.metrics.losses import Loss, bounded_losses, expected_losses, row_losses
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.steering.candidates.windows import JudgingWindow
from trimtab.steering.definitions import Deployment, NamedSlice
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

LEAST_SLICE_DAYS: Final = 14  # days with labels that a slice needs; with fewer, its healthy level is unknown
LONG_REFERENCE: Final = 84  # number of days, so many that holidays and a bad week weigh little
MOST_SLICES: Final = 200  # greatest number of values of one column
AS_NEW_US: Final = 7 * DAY_US  # a version fitted at most this long before some days is used instead of a new fit


def request_slices(deployment: Deployment) -> tuple[str | NamedSlice, ...]:
    """The slices of a deployment's days: columns of the request, and the gate's expressions over them.

    The columns are those that the gate names; if it names none, the columns of texts and truth values. Slices that read
    features are left out, because a logged request has no features. A ranking has no slices, because its days are
    judged by whole lists.
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
    """Scores of rows that the recipe was not fitted on."""

    rows: Rows  # a mask over the training set
    scores: Floats  # shape (rows,), for several classes (rows, classes)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Healthy days, oldest first, in total and by slice."""

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
    """The days of some scores, in total and by slice, with the labels that live days would have been closed with.

    Args:
        model: The model.
        version: The version that the days become the reference of.
        training_set: The rows.
        answered: Scores of rows. Each element has rows of other days; oldest first.
        labels: Finds labels as they were when a day was closed.
        cap: The loss at which a row is capped.
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


def walk_forward_rows(training_set: TrainingSet, window: JudgingWindow) -> tuple[Rows, Rows] | None:
    """The rows to learn from and the rows to judge, for days before a window that complete a reference.

    A reference has 84 days if twice as many rows as are judged are left to learn from, else 28 days. Return None if the
    window has that many days already, or if fewer rows would be left to learn from than would be judged.
    """
    at_us, usable = training_set.at_us, training_set.usable
    for days, rest in ((LONG_REFERENCE, 2.0), (FULL_REFERENCE, 1.0)):
        begins_us = min(window.start_us, window.end_us - days * DAY_US)
        judged = usable & (at_us >= begins_us) & (at_us < window.start_us)
        learnt = usable & (training_set.manifest.final_at(at_us) <= begins_us)
        enough = judged.any() and learnt.sum() >= rest * judged.sum()
        if enough and np.unique(training_set.target[learnt]).size > 1:
            return learnt, judged
    return None


def refit_allowance(metric: Loss, scores: Floats, again: Floats, cap: float) -> dict[str, float]:
    """The allowed distance of a refit's healthy days from its candidate's, by kind of signal, in the value's units.

    The reference comes from the candidate, but the refit goes into service. If the candidate's scores were true
    probabilities, the expected daily values of the refit would differ from those of the candidate by this much, without
    any change of the data.

    Args:
        metric: The model's loss.
        scores: The scores of the candidate, shape (rows,), for several classes (rows, classes).
        again: The refit's scores of the same rows.
        cap: The loss at which a row is capped.
    """
    if loss_kind(metric) == "ranking":
        return {}
    expected = expected_losses(metric, again, cap)
    if expected is None:
        truth = np.maximum(scores, 0.0) if metric == "poisson_deviance" else scores
        away = bounded_losses(row_losses(metric, truth, again), cap)
        return {LOSS: float(away.mean()), CALIBRATION: abs(float((again - scores).mean()))}
    by_class = scores.T if scores.ndim == 2 else np.stack([1.0 - scores, scores])
    losses = np.zeros(len(again))
    for label, share in enumerate(by_class):
        losses += share * bounded_losses(row_losses(metric, np.full(len(again), float(label)), again), cap)
    gap = again - scores
    if again.ndim == 2:
        top = again.argmax(axis=1)[:, None]
        gap = np.take_along_axis(gap, top, axis=1)
    return {LOSS: abs(float((losses - expected).mean())), CALIBRATION: abs(float(gap.mean()))}


def _named(part: str | NamedSlice, requests: Columns, rows: Rows) -> tuple[list[str], NDArray[np.int64]]:
    """The names of slices as closed days have them, and the index of the slice of each row, -1 for none."""
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
    """The values of a column as texts, and each row's index among them, -1 for none; empty with too many values."""
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
