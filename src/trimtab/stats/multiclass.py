"""Figures of class probabilities: a row of chances for each row. Models here answer with one number so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

from trimtab.core.errors import Misuse
from trimtab.stats.figures import Better, Figure, Weighted, figure_of
from trimtab.stats.scores import FloatArray

_OFF = 1e-6  # how far a row of chances may be from a sum of 1


def class_figures(
    labels: Sequence[object],
    probabilities: ArrayLike,
    classes: Sequence[object],
    blocks: ArrayLike,
    *,
    repeats: int = 200,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """Log loss, accuracy, balanced accuracy, macro F1 and macro one-against-rest AUC, each with an interval.

    Args:
        labels: The class of each row.
        probabilities: Shape (rows, classes), each row adding up to 1.
        classes: What the columns stand for.
        blocks: What is drawn again as a whole, e.g. the day of each row.
        repeats: How many times.
        seed: Seed of the draws.

    Raises:
        Misuse: No rows, shapes that differ, chances that are none, or a label that is no class.

    >>> found = class_figures(["a", "b"], [[0.8, 0.1, 0.1], [0.3, 0.5, 0.2]], ["a", "b", "c"], [0, 1])
    >>> [(figure.name, round(figure.value, 3)) for figure in found][:2]
    [('log_loss', 0.458), ('accuracy', 1.0)]
    """
    y, p = _checked(labels, probabilities, classes)
    told = np.argmax(p, axis=1)
    there = np.unique(y)
    names = np.arange(p.shape[1])

    def log_loss(weights: FloatArray) -> float:
        return float(metrics.log_loss(y, p, labels=names, sample_weight=weights))

    def accuracy(weights: FloatArray) -> float:
        return float(metrics.accuracy_score(y, told, sample_weight=weights))

    def balanced_accuracy(weights: FloatArray) -> float:
        drawn = np.unique(y[weights > 0.0])
        return float(
            metrics.recall_score(y, told, labels=drawn, average="macro", sample_weight=weights, zero_division=0.0)
        )

    def macro_f1(weights: FloatArray) -> float:
        return float(metrics.f1_score(y, told, labels=there, average="macro", sample_weight=weights, zero_division=0.0))

    def macro_auc(weights: FloatArray) -> float | None:
        areas = [_area(y == label, p[:, label], weights) for label in there]
        known = [area for area in areas if area is not None]
        return float(np.mean(known)) if known else None

    named: list[tuple[str, Better, Weighted]] = [
        ("log_loss", "lower", log_loss),
        ("accuracy", "higher", accuracy),
        ("balanced_accuracy", "higher", balanced_accuracy),
        ("macro_f1", "higher", macro_f1),
        ("macro_auc", "higher", macro_auc),
    ]
    ids = np.asarray(blocks)
    if ids.shape != y.shape:
        raise Misuse(f"class figures: needs one block for each row; found {ids.size} blocks for {y.size} rows.")
    return tuple(figure_of(name, what, ids, better=better, repeats=repeats, seed=seed) for name, better, what in named)


def _area(y: NDArray[np.bool_], p: FloatArray, weights: FloatArray) -> float | None:
    here = weights > 0.0
    if not y[here].any() or y[here].all():
        return None
    return float(metrics.roc_auc_score(y[here], p[here], sample_weight=weights[here]))


def _checked(
    labels: Sequence[object], probabilities: ArrayLike, classes: Sequence[object]
) -> tuple[NDArray[np.int64], FloatArray]:
    p = np.asarray(probabilities, np.float64)
    if p.shape != (len(labels), len(classes)) or not len(labels) or len(classes) < 2:
        raise Misuse(
            f"class figures: needs chances of shape (rows, classes) for some rows and at least 2 classes; found "
            f"{p.shape} for {len(labels)} labels and {len(classes)} classes."
        )
    number = {label: place for place, label in enumerate(classes)}
    unknown = [label for label in labels if label not in number]
    if unknown:
        raise Misuse(f"class figures: {len(unknown)} labels are no class, e.g. {unknown[0]!r}. Leave those rows out.")
    bad = np.flatnonzero(~((p >= 0.0).all(axis=1) & (np.abs(p.sum(axis=1) - 1.0) <= _OFF)))
    if bad.size:
        raise Misuse(
            f"class figures: row {bad[0]} of {len(p)} holds {p[bad[0]].tolist()}. Chances of at least 0 that add up to "
            "1 are needed."
        )
    return np.array([number[label] for label in labels], np.int64), p / p.sum(axis=1, keepdims=True)
