"""Metrics of predictions that have one probability for each of several classes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.inference.bootstrap import block_draws, metric_interval, percentiles, redrawn
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.loss_names import CLASS_LOSSES, Loss
from trimtab.stats.metrics.losses import row_losses
from trimtab.stats.metrics.metric_value import Better, MetricValue, Weighted, mean_of, metric_value
from trimtab.stats.scores import OFF, FloatArray, auc, checked_probabilities

IntArray = NDArray[np.int64]


class ClassMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of one class against all other classes."""

    name: str
    rows: int  # the number of rows with this label
    answered: int  # the number of rows for which this class is the likeliest
    mean_score: float  # the mean probability of this class over all rows
    share: float  # the share of rows with this label
    auc: float | None  # None if no row or every row has this label
    auc_interval: Interval | None
    # of the rows for which this class is the likeliest, the share with this label; None: no such rows
    precision: float | None
    # of the rows with this label, the share for which this class is the likeliest; None: no such rows
    recall: float | None


def class_metrics(
    labels: Sequence[object],
    probabilities: ArrayLike,
    classes: Sequence[object],
    blocks: ArrayLike,
    *,
    repeats: int = 200,
    seed: int = 0,
) -> tuple[MetricValue, ...]:
    """Return log loss, accuracy, balanced accuracy, macro F1, macro AUC, Brier score and bias, with intervals.

    The macro AUC is the mean over classes of the AUC of one class against all others. The bias is the mean probability
    of the likeliest class minus the accuracy.

    Args:
        labels: The true class of each row.
        probabilities: Probabilities, shape (rows, classes). Each row adds up to 1.
        classes: The class of each column of `probabilities`.
        blocks: The block of each row, for example its day. A draw of the bootstrap contains whole blocks.
        repeats: The number of draws.
        seed: The seed of the draws.

    Raises:
        Misuse: There are no rows, the shapes differ, values are not probabilities, or a label is unknown.

    >>> found = class_metrics(["a", "b"], [[0.8, 0.1, 0.1], [0.3, 0.5, 0.2]], ["a", "b", "c"], [0, 1])
    >>> [(one.name, round(one.value, 3)) for one in found][:2]
    [('multi_log_loss', 0.458), ('accuracy', 1.0)]
    """
    number = {label: place for place, label in enumerate(classes)}
    unknown = [label for label in labels if label not in number]
    if unknown:
        raise Misuse(
            f"class metrics: {len(unknown)} labels are not known classes, e.g. {unknown[0]!r}. Leave those rows out."
        )
    p = np.asarray(probabilities, np.float64)
    if p.shape != (len(labels), len(classes)):
        raise Misuse(
            f"class metrics: needed probabilities of shape (rows, classes), found {p.shape} for "
            f"{len(labels)} labels and {len(classes)} classes."
        )
    places = np.array([number[label] for label in labels], np.int64)
    return multiclass_metrics("multi_log_loss", places, p, blocks, repeats=repeats, seed=seed)


def multiclass_metrics(
    metric: Loss, labels: ArrayLike, scores: ArrayLike, blocks: ArrayLike, *, repeats: int = 200, seed: int = 0
) -> tuple[MetricValue, ...]:
    """Return all metrics for a model of several classes, with its own metric `metric` first.

    Args:
        metric: The model's own metric, one of `CLASS_LOSSES`.
        labels: The index of the true class of each row, shape (rows,).
        scores: Probabilities, shape (rows, classes). Each row adds up to 1.
        blocks: The block of each row, for example its day. A draw of the bootstrap contains whole blocks.

    Raises:
        Misuse: There are no rows, the shapes differ, or values are not probabilities.
    """
    y, p = checked_probabilities(labels, scores, "class metrics")
    ids = np.asarray(blocks)
    if ids.shape != y.shape or not y.size:
        raise Misuse(f"class metrics: needed one block for each row, found {ids.size} blocks, {y.size} rows.")
    width = p.shape[1]
    cells = y * width + np.argmax(p, axis=1)
    there = np.flatnonzero(np.bincount(y, minlength=width))
    top, hits = top_class(y, p)

    def table(weights: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(cells, weights, minlength=width * width), np.float64).reshape(width, width)

    def accuracy(weights: FloatArray) -> float:
        found = table(weights)
        return float(np.trace(found) / found.sum())

    def balanced_accuracy(weights: FloatArray) -> float:
        found = table(weights)
        rows = found.sum(axis=1)
        return float(np.mean(np.diag(found)[rows > 0.0] / rows[rows > 0.0]))

    def macro_f1(weights: FloatArray) -> float:
        found = table(weights)
        both = found.sum(axis=0)[there] + found.sum(axis=1)[there]
        some = both > 0.0  # a draw may lack a class
        return float(np.mean(2.0 * np.diag(found)[there][some] / both[some]))

    others: list[tuple[str, Better, float | None, Weighted]] = [
        (name, "lower", None, mean_of(row_losses(name, y, p)))
        for name in CLASS_LOSSES
        if name not in (metric, "error_rate")  # left out, because it is 1 - accuracy
    ]
    named: list[tuple[str, Better, float | None, Weighted]] = [
        (metric, "lower", None, mean_of(row_losses(metric, y, p))),
        ("accuracy", "higher", None, accuracy),
        ("balanced_accuracy", "higher", None, balanced_accuracy),
        ("macro_f1", "higher", None, macro_f1),
        *others,
        ("bias", "near", 0.0, mean_of(top - hits)),
    ]
    found = [
        metric_value(name, what, ids, better=better, goal=goal, repeats=repeats, seed=seed)
        for name, better, goal, what in named
    ]
    return (*found[:4], _macro_auc(y, p, ids, repeats, seed), *found[4:])


def top_class(labels: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the probability of each row's likeliest class, and 1 if that class is the label, otherwise 0.

    Both arrays have the shape (rows,). If several classes are equally likely, the first is taken. If the probabilities
    are right, both arrays have the same mean.

    >>> top, hits = top_class([0, 1], [[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])
    >>> top.tolist(), hits.tolist()
    ([0.8, 0.4], [1.0, 0.0])
    """
    p = np.asarray(scores, np.float64)
    top = np.argmax(p, axis=1)
    return p[np.arange(len(p)), top], (top == np.asarray(labels)).astype(np.float64)


def normalized(probabilities: FloatArray) -> FloatArray:
    """Return probabilities scaled so that each row adds up to 1, for example after classes were removed.

    A row of zeros becomes equal probabilities for all classes.

    >>> normalized(np.array([[0.5, 0.25, 0.0], [0.0, 0.0, 0.0]])).round(2).tolist()
    [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33]]
    """
    total = probabilities.sum(axis=1, keepdims=True)
    whole = np.abs(total - 1.0) <= OFF
    return np.where(
        whole,
        probabilities,
        np.where(total > 0.0, probabilities / np.where(total > 0.0, total, 1.0), 1.0 / probabilities.shape[1]),
    )


def macro_auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Return the mean of the one-against-rest AUCs of the classes that occur. None: only one class occurs.

    >>> macro_auc([0, 1, 2], [[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.2, 0.2, 0.6]])
    1.0
    """
    y, p = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    areas = [auc(y == one, p[:, one]) for one in np.unique(y).tolist()]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def confusion_table(labels: ArrayLike, scores: ArrayLike) -> IntArray:
    """Return the number of rows by label (first axis) and likeliest class (second axis), shape (classes, classes)."""
    y, p = checked_probabilities(labels, scores, "confusion table")
    width = p.shape[1]
    return np.bincount(y * width + np.argmax(p, axis=1), minlength=width * width).reshape(width, width)


def metrics_by_class(
    classes: Sequence[str], labels: ArrayLike, scores: ArrayLike, blocks: ArrayLike, *, repeats: int, seed: int
) -> tuple[ClassMetrics, ...]:
    """Return metrics of each class against all others, in the order of the classes.

    The AUCs have bootstrap intervals, whose draws contain whole blocks.
    """
    y, p = checked_probabilities(labels, scores, "metrics by class")
    found = confusion_table(y, p)
    right, of_label, answered = np.diag(found).tolist(), found.sum(axis=1).tolist(), found.sum(axis=0).tolist()
    out = []
    for place, name in enumerate(classes):
        ups = y == place
        area, interval = auc(ups, p[:, place]), None
        if area is not None and np.unique(np.asarray(blocks)).size > 1:
            try:
                interval = metric_interval("auc", ups, p[:, place], blocks, repeats=repeats, seed=seed)
            except Misuse:  # if most draws do not contain the class, there is no interval
                interval = None
        out.append(
            ClassMetrics(
                name=name,
                rows=of_label[place],
                answered=answered[place],
                mean_score=float(p[:, place].mean()),
                share=of_label[place] / y.size,
                auc=area,
                auc_interval=interval,
                precision=right[place] / answered[place] if answered[place] else None,
                recall=right[place] / of_label[place] if of_label[place] else None,
            )
        )
    return tuple(out)


def _macro_auc(y: IntArray, p: FloatArray, blocks: NDArray[np.generic], repeats: int, seed: int) -> MetricValue:
    """Return the mean of the one-against-rest AUCs, with an interval. In a draw, only the classes that occur count."""
    value, interval = macro_auc(y, p), None
    if value is not None and np.unique(blocks).size > 1:
        place, counts = block_draws(blocks, repeats, seed)
        areas = np.stack([redrawn("auc", y == one, p[:, one], place, counts) for one in np.unique(y).tolist()])
        known = (~np.isnan(areas)).sum(axis=0)
        means = np.where(known > 0, np.nansum(areas, axis=0) / np.maximum(known, 1), np.nan)
        try:
            interval = percentiles(means, 0.95)
        except Misuse:  # if most draws contain only one class, there is no interval
            interval = None
    return MetricValue(name="macro_auc", value=value, interval=interval, better="higher")
