"""Metrics of predictions with intervals: for probabilities, numbers, counts and quantiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.core.errors import Misuse
from trimtab.stats.inference.bootstrap import metric_interval
from trimtab.stats.metrics.loss_names import CLASS_LOSSES, Loss, loss_kind, quantile_of
from trimtab.stats.metrics.losses import row_losses
from trimtab.stats.metrics.metric_value import Better, MetricValue, Weighted, mean_of, metric_value
from trimtab.stats.metrics.multiclass import multiclass_metrics
from trimtab.stats.scores import FloatArray, auc, checked

_BINS = 10  # the number of bins of the calibration error


def score_metrics(
    metric: Loss, labels: ArrayLike, scores: ArrayLike, blocks: ArrayLike, *, repeats: int = 200, seed: int = 0
) -> tuple[MetricValue, ...]:
    """Return all metrics that suit a model, with its own metric `metric` first.

    Args:
        metric: The model's own metric. It decides which other metrics are computed.
        labels: The labels, shape (rows,).
        scores: The scores, shape (rows,). For several classes the shape is (rows, classes).
        blocks: The block of each row, for example its day. A draw of the bootstrap contains whole blocks.

    Raises:
        Misuse: There are no rows, the shapes differ, or values are outside their range.

    >>> found = score_metrics("squared_error", [1.0, 2.0, 4.0], [1.5, 2.0, 3.0], [0, 1, 2])
    >>> [(one.name, round(one.value, 3)) for one in found][:3]
    [('squared_error', 0.417), ('mean_absolute_error', 0.5), ('root_mean_squared_error', 0.645)]
    """
    if metric in CLASS_LOSSES:
        return multiclass_metrics(metric, labels, scores, blocks, repeats=repeats, seed=seed)
    y, p = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if y.ndim != 1 or y.shape != p.shape or not y.size:
        raise Misuse(f"metrics: needed one score for each label, found labels {y.shape}, scores {p.shape}.")
    if np.shape(blocks) != y.shape:
        raise Misuse(f"metrics: needed one block for each row, found {np.size(blocks)} blocks, {y.size} rows.")
    bad = int((~np.isfinite(y)).sum() + (~np.isfinite(p)).sum())
    if bad:
        raise Misuse(f"metrics: found {bad} labels and scores that are not numbers. Leave those rows out.")
    kind = loss_kind(metric)
    order = np.argsort(p, kind="stable")  # sorted here, once for all metrics
    y, p, blocks = y[order], p[order], np.asarray(blocks)[order]
    losses = row_losses(metric, y, p)
    named: list[tuple[str, Better, float | None, Weighted]] = [(metric, "lower", None, mean_of(losses))]
    if kind == "binary":
        named += _binary(metric, y, p)
    elif kind == "quantile":
        named += [
            ("coverage", "near", quantile_of(metric), mean_of((y <= p).astype(np.float64))),
            ("mean_absolute_error", "lower", None, mean_of(np.abs(y - p))),
            ("bias", "near", 0.0, mean_of(p - y)),
        ]
    else:
        named += _number(y, p, count=kind == "count")
    found = [
        metric_value(name, statistic, blocks, better=better, goal=goal, repeats=repeats, seed=seed)
        for name, better, goal, statistic in named
    ]
    if kind == "binary":
        found.insert(1, _auc(y, p, blocks, repeats, seed))
    return tuple(found)


def _binary(metric: Loss, y: FloatArray, p: FloatArray) -> list[tuple[str, Better, float | None, Weighted]]:
    checked(y, p, "metrics")
    place = np.minimum((p * _BINS).astype(np.int64), _BINS - 1)

    def calibration_error(weights: FloatArray) -> float:
        gaps = np.bincount(place, weights=weights * (p - y), minlength=_BINS)
        return float(np.abs(gaps).sum() / weights.sum())

    # for each distinct score, the number of rows with at least this score
    lasts = y.size - np.flatnonzero(np.diff(p, prepend=-np.inf))[::-1]

    # scikit-learn's function would take 20 times as long
    def average_precision(weights: FloatArray) -> float | None:
        hits, rows = (np.cumsum(w[::-1])[lasts - 1] for w in (weights * y, weights))
        gained = np.diff(hits, prepend=0.0)
        some = gained > 0.0
        return float((gained[some] * hits[some] / rows[some]).sum() / hits[-1]) if hits[-1] else None

    other: Loss = "brier" if metric == "log_loss" else "log_loss"
    return [
        (other, "lower", None, mean_of(row_losses(other, y, p))),
        ("average_precision", "higher", None, average_precision),
        ("calibration_error", "lower", None, calibration_error),
        ("bias", "near", 0.0, mean_of(p - y)),
    ]


def _auc(y: FloatArray, p: FloatArray, blocks: NDArray[np.generic], repeats: int, seed: int) -> MetricValue:
    value, interval = auc(y, p), None
    if value is not None and np.unique(blocks).size > 1:
        try:
            interval = metric_interval("auc", y, p, blocks, repeats=repeats, seed=seed)
        except Misuse:  # if most draws contain only one class, there is no interval
            interval = None
    return MetricValue(name="auc", value=value, interval=interval, better="higher")


def _number(y: FloatArray, p: FloatArray, *, count: bool) -> list[tuple[str, Better, float | None, Weighted]]:
    varies, squares = bool(np.ptp(y) > 0.0), np.square(y - p)
    order = np.argsort(squares)
    ordered = np.abs(y - p)[order]

    def root_mean_squared_error(weights: FloatArray) -> float:
        return float(np.sqrt(np.average(squares, weights=weights)))

    def r2(weights: FloatArray) -> float | None:
        if not varies or not np.ptp(y[weights > 0.0]) > 0.0:
            return None
        spread = np.square(y - np.average(y, weights=weights))
        return float(1.0 - np.average(squares, weights=weights) / np.average(spread, weights=weights))

    def median_absolute_error(weights: FloatArray) -> float:
        below = np.cumsum(weights[order])  # if the halves of the weight meet between two errors, the mean of both
        return float(np.mean([ordered[np.searchsorted(below, below[-1] / 2.0, side)] for side in ("left", "right")]))

    found: list[tuple[str, Better, float | None, Weighted]] = [
        ("mean_absolute_error", "lower", None, mean_of(np.abs(y - p))),
        ("root_mean_squared_error", "lower", None, root_mean_squared_error),
        ("r2", "higher", None, r2),
        ("median_absolute_error", "lower", None, median_absolute_error),
        ("bias", "near", 0.0, mean_of(p - y)),
    ]
    return [one for one in found if one[0] != "median_absolute_error"] if count else found
