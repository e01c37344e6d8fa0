"""Measure how well each feature predicts the label by itself, to find leakage."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.stats.association import auc_interval, r_squared_interval
from trimtab.stats.interval import Interval
from trimtab.stats.scores import auc
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

_MOST_ROWS = 5_000  # use at most this many rows, spread over time; for two classes, at most half as many of each class
_LEAST_ROWS = 20
# if the share of values that are not null is smaller, a feature is not judged by the order of its values
_LEAST_SHARE = 0.05
_BINS = 64  # how many ranges the numbers of a feature are divided into

Floats = NDArray[np.float64]


class FeaturePower(msgspec.Struct, frozen=True, kw_only=True):
    """The measured power of one feature to predict the label by itself."""

    name: str
    measure: Literal["AUC", "R2"]  # for classes the area under the ROC curve, for numbers the squared correlation
    value: float
    interval: Interval
    rows: int
    of: str = ""  # for several classes: the class that is predicted, as words to follow "the label": " being 'late'"


def predictive_power(model: Model, training_set: TrainingSet, chosen: NDArray[np.int64]) -> tuple[FeaturePower, ...]:
    """Return how well each feature predicts the label by itself.

    A feature predicts in two ways: by the order of its values, and by the mean label of each range or category of
    values. The better way counts. Mean labels are computed on the older half of the rows and judged on the newer half.
    For the intervals, rows are taken as independent. Features that cannot be judged, for example because all values are
    equal, are left out, and so are all features if there are fewer than twenty rows. For several classes, each class is
    judged against all others, and the one that is predicted best is reported.

    Args:
        chosen: The indices of the rows to use.
    """
    order = chosen[np.argsort(training_set.at_us[chosen], kind="stable")]
    target = training_set.target[order]
    if model.task != "multiclass":
        clicks = model.task == "ranking" and bool(np.isin(target, (0.0, 1.0)).all())
        return _power(model, training_set, order, target, binary=model.task == "binary" or clicks, of="")
    best: dict[str, FeaturePower] = {}
    for place, name in enumerate(model.label.class_names):
        ups = (target == place).astype(np.float64)
        for one in _power(model, training_set, order, ups, binary=True, of=f" being {name!r}") if ups.any() else ():
            if one.name not in best or one.interval.low > best[one.name].interval.low:
                best[one.name] = one
    return tuple(best[name] for name in model.features.names if name in best)


def _power(
    model: Model, training_set: TrainingSet, order: NDArray[np.int64], target: Floats, *, binary: bool, of: str
) -> tuple[FeaturePower, ...]:
    """Return how well each feature predicts one target, for rows in the order of time."""
    if binary:
        ones = target == 1.0
        half = _MOST_ROWS // 2
        places = np.sort(np.concatenate([_spread(np.flatnonzero(ones), half), _spread(np.flatnonzero(~ones), half)]))
    else:
        places = _spread(np.arange(order.size), _MOST_ROWS)
    if places.size < _LEAST_ROWS:
        return ()
    labels = target[places]
    values = training_set.features.values.take(order[places])
    shown = []
    for name in model.features.names:
        feature = _as_numbers(values[name])
        both = (_in_order(feature, labels, binary), _by_range(feature, labels, binary))
        found = [one for one in both if one is not None]
        if found:
            value, interval, counted = max(found, key=lambda one: one[1].low)
            measure: Literal["AUC", "R2"] = "AUC" if binary else "R2"
            shown.append(FeaturePower(name=name, measure=measure, value=value, interval=interval, rows=counted, of=of))
    return tuple(shown)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows[np.unique(np.linspace(0, rows.size - 1, most).astype(np.int64))] if rows.size else rows


class _Numbers(msgspec.Struct, frozen=True, eq=False):
    values: Floats  # NaN for null; a text is replaced by its index among all texts
    ordered: bool  # False for texts


def _as_numbers(column: Column) -> _Numbers:
    there = column.present()
    if column.dtype == "str":
        values = np.full(len(there), np.nan)
        values[there] = np.unique(column.values[there], return_inverse=True)[1]
        return _Numbers(values, ordered=False)
    return _Numbers(np.where(there, column.values.astype(np.float64), np.nan), ordered=True)


def _in_order(feature: _Numbers, labels: Floats, binary: bool) -> tuple[float, Interval, int] | None:
    there = ~np.isnan(feature.values)
    if not feature.ordered or there.sum() < max(_LEAST_ROWS, _LEAST_SHARE * labels.size):
        return None
    values, target = feature.values[there], labels[there]
    ranks = np.unique(values, return_inverse=True)[1].astype(np.float64)
    if ranks.max() == 0.0:
        return None
    if binary:
        return _area(target, ranks)
    of_ranks = _squared(ranks, np.unique(target, return_inverse=True)[1].astype(np.float64))
    return _explained(max(_squared(values, target), of_ranks), target.size)


def _by_range(feature: _Numbers, labels: Floats, binary: bool) -> tuple[float, Interval, int] | None:
    half = labels.size // 2
    bins = _bins(feature, half)
    counts = np.bincount(bins[:half], minlength=int(bins.max()) + 1)
    sums = np.bincount(bins[:half], weights=labels[:half], minlength=counts.size)
    middle = float(labels[:half].mean())
    # each mean counts one more row, with the mean label of the older half, so that rare values have little effect
    means = (sums + middle) / (counts + 1)
    scores, target = means[bins[half:]], labels[half:]
    if np.ptp(scores) == 0.0:
        return None
    return _area(target, scores, either_way=False) if binary else _explained(_squared(scores, target), target.size)


def _bins(feature: _Numbers, half: int) -> NDArray[np.int64]:
    """Return the index of the range (or text) that each value belongs to. Nulls have the last index."""
    values = feature.values
    there = ~np.isnan(values)
    if feature.ordered:
        known = values[:half][there[:half]]
        edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, _BINS + 1)[1:-1])) if known.size else known
        found = np.searchsorted(edges, values, side="right")
    else:
        found = np.where(there, values, 0.0).astype(np.int64)
    found[~there] = found.max(initial=0) + 1
    return found.astype(np.int64)


def _area(target: Floats, scores: Floats, *, either_way: bool = True) -> tuple[float, Interval, int] | None:
    place = np.unique(scores, return_inverse=True)[1] / scores.size
    area = auc(target, place)
    if area is None:
        return None
    area = max(area, 1.0 - area) if either_way else area
    positives = int(target.sum())
    return area, auc_interval(area, positives, target.size - positives), target.size


def _explained(value: float, rows: int) -> tuple[float, Interval, int]:
    return value, r_squared_interval(value, rows), rows


def _squared(one: Floats, other: Floats) -> float:
    """Return the squared correlation; 0 if all values in either array are equal."""
    a, b = one - one.mean(), other - other.mean()
    scale = float((a * a).sum()) * float((b * b).sum())
    return min(1.0, float((a * b).sum()) ** 2 / scale) if scale > 0.0 else 0.0
