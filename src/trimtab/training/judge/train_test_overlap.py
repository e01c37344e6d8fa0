"""Find groups and rows that occur both among the training rows and among the judged rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.training.data.leakage import Leak
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.judge.parts import Judged, Slice, column_of, metrics_of

_DISTINCT = 0.9  # repeated rows are only reported if at least this share of training rows is distinct
# judged rows that equal a training row are reported if there are at least 5, and if their share is above 1 % plus twice
# the share of training rows that repeat another training row
_LEAST_SHARE = 0.01
_LEAST_ROWS = 5
_MOST_LEARNT = 200_000  # at most this many of the newest training rows are compared
_MOST_JUDGED = 20_000


class Sides(msgspec.Struct, frozen=True, eq=False):
    """The indices of the training rows and of the judged rows."""

    learnt: NDArray[np.int64]
    judged: NDArray[np.int64]


def group_slices(model: Model, training_set: TrainingSet, sides: Sides, judged: Judged) -> tuple[Slice, ...]:
    """Return the metrics of the judged rows whose group also has training rows, and those of all other judged rows."""
    if model.group is None or model.task == "ranking":  # in a ranking, groups are lists, which a split never divides
        return ()
    before = _of_learnt_groups(model.group, model, training_set, sides)
    return tuple(
        Slice(column=f"{model.group} (group)", holds=holds, **metrics_of(judged, here))
        for holds, here in (("learnt from", before), ("new", ~before))
        if here.any()
    )


def group_leaks(model: Model, training_set: TrainingSet, sides: Sides, slices: tuple[Slice, ...]) -> Iterator[Leak]:
    """Warn of groups that have training rows and judged rows. Compare their metric with that of new groups."""
    group = model.group
    if group is None or not slices or slices[0].holds != "learnt from":
        return
    names, there = _names(group, model, training_set)
    learnt, judged = (rows[there[rows]] for rows in (sides.learnt, sides.judged))
    both = np.intersect1d(names[learnt], names[judged]).size
    values = f"Their {model.metric} is {slices[0].value:.4f}" + (
        f"; on rows of new groups it is {slices[1].value:.4f}" if slices[1:] else "; no evaluated row has a new group"
    )
    yield Leak(
        check="group",
        name=group,
        severity="warning",
        found=(
            f"{slices[0].rows:,} of {sides.judged.size:,} evaluated rows belong to {both:,} groups ({group!r}) that "
            f"also have training rows. {values}."
        ),
        todo="If the model will serve groups that it never saw, rely on the metric of the new groups.",
    )


def repeated_rows(model: Model, fitted: Fitted, training_set: TrainingSet, sides: Sides) -> Iterator[Leak]:
    """If nearly all training rows are distinct, warn of judged rows that equal one of them in features and label."""
    learnt = _digests(fitted, training_set, sides.learnt[-_MOST_LEARNT:])
    spread = np.linspace(0, sides.judged.size - 1, _MOST_JUDGED).astype(np.int64)
    judged = _digests(fitted, training_set, sides.judged[np.unique(spread)])
    kinds = np.unique(learnt)
    if not learnt.size or kinds.size < _DISTINCT * learnt.size:
        return
    again = int(np.isin(judged, kinds).sum())
    usual = 2 * (1 - kinds.size / learnt.size)
    if again >= _LEAST_ROWS and again > (usual + _LEAST_SHARE) * judged.size:
        yield Leak(
            check="repeated",
            name=model.request.key,
            severity="warning",
            found=(
                f"{again:,} of {judged.size:,} evaluated rows equal a training row in every feature and in the label, "
                f"although {kinds.size / learnt.size:.1%} of the training rows are distinct."
            ),
            todo="Check whether requests were entered twice, under different keys.",
        )


def _of_learnt_groups(group: str, model: Model, training_set: TrainingSet, sides: Sides) -> NDArray[np.bool_]:
    names, there = _names(group, model, training_set)
    learnt = set(names[sides.learnt[there[sides.learnt]]].tolist())
    mask: NDArray[np.bool_] = there[sides.judged] & [name in learnt for name in names[sides.judged].tolist()]
    return mask


def _names(group: str, model: Model, training_set: TrainingSet) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the group of each row, and whether it has one."""
    column = column_of(model, training_set, group)
    return column.values, column.present()


def _digests(fitted: Fitted, training_set: TrainingSet, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each row's inputs and label."""
    matrix = fitted.matrix(training_set.features.values.take(rows))
    table = np.column_stack([matrix, training_set.target[rows]])
    table[np.isnan(table)] = np.nan  # NaNs may have different bits, so give all of them the same ones
    bits = np.ascontiguousarray(table + 0.0).view(np.uint64)
    found = np.zeros(len(bits), np.uint64)
    for place in range(bits.shape[1]):
        mixed = (found ^ bits[:, place]) * np.uint64(0x9E3779B97F4A7C15)
        found = mixed ^ (mixed >> np.uint64(29))
    return found
