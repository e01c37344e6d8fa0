"""Metrics of parts of a holdout: months, weeks, and the values of a column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, format_time
from trimtab.stats.inference.paired import paired_mean_bound
from trimtab.stats.interval import Interval
from trimtab.stats.metrics.lists import unit_losses
from trimtab.stats.metrics.multiclass import macro_auc, top_class
from trimtab.stats.scores import auc
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Metric, Model

# with more values, a column of numbers is divided into ranges, and the rarest values of other columns share a slice
_MOST_VALUES = 12
_BUCKETS = 4  # into how many ranges a column of numbers is divided
_LEAST_DAYS = 3  # with fewer days there is no interval
_MOST_DAYS = 400  # with more days, only the metric by week is shown
_MONDAY = 3  # 1970-01-01 was a Thursday


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of one calendar month (UTC) of the holdout."""

    month: str  # for example "2013-07"
    rows: int
    value: float  # the model's own metric
    # for several classes, the mean AUC of each class against all others; None: the model predicts no classes, or only
    # one class occurs
    auc: float | None
    mean_score: float  # for several classes, the mean probability of the likeliest class
    mean_label: float  # for several classes, the share of rows whose likeliest class is the label
    interval: Interval | None = None  # the interval of `value`; None: there are fewer than three days


class Week(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of one week (UTC, from Monday) of the holdout."""

    week: str  # the Monday of the week, for example "2013-07-01"
    rows: int
    value: float
    auc: float | None
    mean_score: float
    mean_label: float
    interval: Interval | None


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """The model's own metric on one UTC day of the holdout."""

    day: str  # for example "2013-07-01"
    rows: int
    value: float


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of rows with one value, or one range of values, of a column or feature."""

    column: str
    holds: str  # for example "UA", "12 to 40", "null" or "9 others"
    rows: int
    value: float
    auc: float | None
    mean_score: float
    mean_label: float
    interval: Interval | None


class Judged(msgspec.Struct, frozen=True, eq=False):
    """Labelled rows of a holdout, with their scores."""

    metric: Metric
    binary: bool
    labels: NDArray[np.float64]
    scores: NDArray[np.float64]  # shape (rows,); for several classes (rows, classes)
    at_us: NDArray[np.int64]  # in a ranking, the time of the first row of each row's list
    lists: NDArray[np.int64] | None = None  # in a ranking, the index of each row's list

    def losses(self, here: NDArray[np.bool_] | slice = slice(None)) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the losses of some rows, and their times. In a ranking, these are the losses of their lists."""
        lists = None if self.lists is None else self.lists[here]
        found, units = unit_losses(self.metric, self.labels[here], self.scores[here], lists)
        return found, self.at_us[here][units]


def months_of(judged: Judged) -> tuple[Month, ...]:
    """Return the metrics of each month with rows, oldest first."""
    names = judged.at_us.astype("datetime64[us]").astype("datetime64[M]")
    return tuple(Month(month=str(month), **metrics_of(judged, names == month)) for month in np.unique(names))


def weeks_of(judged: Judged) -> tuple[Week, ...]:
    """Return the metrics of each week with rows, oldest first."""
    mondays = (judged.at_us // DAY_US + _MONDAY) // 7 * 7 - _MONDAY
    return tuple(
        Week(week=format_time(int(monday) * DAY_US)[:10], **metrics_of(judged, mondays == monday))
        for monday in np.unique(mondays)
    )


def days_of(judged: Judged) -> tuple[Day, ...]:
    """Return the metric of each day with rows, oldest first, or none if there are too many days for a plot."""
    days, at = np.unique(judged.at_us // DAY_US, return_inverse=True)
    if len(days) > _MOST_DAYS:
        return ()
    found = [metrics_of(judged, at == place) for place in range(len(days))]
    return tuple(
        Day(day=format_time(int(day) * DAY_US)[:10], rows=one["rows"], value=one["value"])
        for day, one in zip(days, found, strict=True)
    )


def slices_of(
    judged: Judged, model: Model, training_set: TrainingSet, chosen: NDArray[Any], columns: tuple[str, ...]
) -> tuple[Slice, ...]:
    """Return the metrics for each value of the given columns. `chosen` are the indices of the judged rows."""
    return tuple(
        Slice(column=name, holds=holds, **metrics_of(judged, here))
        for name in columns
        for holds, here in values_of(column_of(model, training_set, name).take(chosen))
    )


def mean_interval(losses: NDArray[np.float64], at_us: NDArray[Any]) -> Interval | None:
    """Return a confidence interval of a mean loss. None: there are fewer than three days.

    It allows for losses that are correlated with those of the day before. With few days, it is wide (Student's t).
    """
    days = at_us // DAY_US
    if np.unique(days).size < _LEAST_DAYS:
        return None
    found = paired_mean_bound(losses, days)
    return msgspec.structs.replace(found, low=max(0.0, found.low))  # a loss is never negative


def metrics_of(judged: Judged, here: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the metrics of some rows (in a ranking, of the lists of these rows) under the field names of `Month`."""
    if judged.lists is not None:
        here = np.isin(judged.lists, judged.lists[here])
    y, p = judged.labels[here], judged.scores[here]
    losses, at_us = judged.losses(here)
    area = auc(y, p) if judged.binary else None
    if p.ndim == 2:
        area = macro_auc(y, p)
        p, y = top_class(y, p)
    return {
        "rows": int(here.sum()),
        "value": float(losses.mean()),
        "auc": area,
        "mean_score": float(p.mean()),
        "mean_label": float(y.mean()),
        "interval": mean_interval(losses, at_us),
    }


def column_of(model: Model, training_set: TrainingSet, name: str) -> Column:
    """Return the values of a feature or of a column of the request.

    Raises:
        Misuse: There is neither a feature nor a column of this name.
    """
    for table in (training_set.features.values, training_set.requests):
        if name in table:
            return table[name]
    raise Misuse(f"evaluate {model.name!r}: the training set has no column or feature {name!r} to slice by.")


def values_of(column: Column) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Divide rows by the value of a column: yield the name and the rows of each part that has rows, null last.

    A part has one value, one range of numbers, or all of the rarest values.
    """
    there = column.present()
    values = column.values[there]
    # texts stay Python objects, because NumPy's own texts would lose NULs at their ends
    kinds, counts = np.unique(values, return_counts=True)
    if column.dtype in ("float", "int", "time") and kinds.size > _MOST_VALUES:
        yield from _ranges(column, there)
    else:
        yield from _kinds(column, there, kinds[np.argsort(-counts, kind="stable")])
    if not there.all():
        yield "null", ~there


def _kinds(column: Column, there: NDArray[np.bool_], kinds: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    rest = there.copy()
    most = kinds if kinds.size <= _MOST_VALUES + 1 else kinds[:_MOST_VALUES]
    for place, kind in enumerate(most.tolist()):
        # compared with an array of one value, because a plain text would lose NULs at its end
        here = there & (column.values == most[place : place + 1])
        rest &= ~here
        yield _named(column, kind), here
    if rest.any():
        yield f"{kinds.size - most.size} others", rest


def _ranges(column: Column, there: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield ranges of about equally many rows. A value on a boundary is in the lower range."""
    edges = np.unique(np.quantile(column.values[there], np.linspace(0.0, 1.0, _BUCKETS + 1), method="inverted_cdf"))
    place = np.searchsorted(edges[1:-1], column.values, side="left")
    for number in range(max(1, edges.size - 1)):
        here = there & (place == number)
        if here.any():
            low, high = edges[number], edges[min(number + 1, edges.size - 1)]
            yield f"{_named(column, low.item())} to {_named(column, high.item())}", here


def _named(column: Column, value: Any) -> str:
    if column.dtype == "time":
        return format_time(int(value))[:16]
    return f"{value:.4g}" if column.dtype == "float" else str(value)
