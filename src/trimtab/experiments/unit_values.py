"""The values of exposed units: for each metric, an aggregate of a unit's events after its first exposure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.core.expressions.nodes import col
from trimtab.core.time import SECOND_US
from trimtab.events.definitions import Source, Time
from trimtab.experiments.definitions import Metric
from trimtab.experiments.exposures import unit_columns
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import Join, View, request
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.frames import FeatureFrame

Array = NDArray[Any]
# Computes features of units as of times. The last argument says until when an event must have been known in order to
# count; None: until the time of each row.
Evaluate: TypeAlias = Callable[[FeatureSet, Columns, Array, "int | None"], FeatureFrame]

_TYPES: tuple[Dtype, ...] = ("str", "int")
_LARGEST = 1e150  # the squares of 100,000,000 such values have a finite sum
_COVARIATES = ("mean", "proportion")  # the kinds of metrics that can have a covariate


class UnitValues(msgspec.Struct, frozen=True, eq=False):
    """The values of some units for one metric: float64 arrays of shape (units,). NaN in `y`: the unit has no value."""

    y: Array
    x: Array | None = None  # the covariate, which was known at the exposure
    d: Array | None = None  # for a ratio: the denominator
    ages: tuple[UnitValues, ...] = ()  # the same values for each part of the window since the exposure

    def take(self, rows: Array) -> UnitValues:
        """Return the values of the units at `rows`: positions or a boolean mask."""
        y, x, d = (None if one is None else one[rows] for one in (self.y, self.x, self.d))
        assert y is not None  # every metric has it
        return UnitValues(y, x, d, tuple(one.take(rows) for one in self.ages))


class MetricFeatures:
    """The metrics of an experiment that are about events, as features of the exposed units.

    The value of a metric is read at the end of its window [exposure, exposure + within). The covariate is the same
    aggregate, over the time before the exposure. It is read as of the exposure, like a feature of a request at that
    time. So events that happened or became known after the exposure do not change the covariate.

    Args:
        metrics: The metrics. Those about predictions are ignored.
        columns: The number of columns that identify a unit.
        ages: Whether primary metrics are computed for each part of their windows as well (`Metric.age_ends_us`).
    """

    def __init__(self, metrics: Sequence[Metric], columns: int, *, ages: bool = False) -> None:
        self._columns = columns
        types = {f"{dtype}_{place}": str if dtype == "str" else int for dtype in _TYPES for place in range(columns)}
        self._request = request("exposure", key="str_0", time="at", columns={**types, "at": Time})
        self.metrics = [metric for metric in metrics if metric.source is not None]
        self._ends_us = {one.name: one.age_ends_us if ages and one.role == "primary" else [] for one in self.metrics}
        # aggregates with the same window (end after the exposure, and length), source and `by` are read together
        groups: dict[tuple[int, int, str, tuple[str, ...]], dict[str, Aggregate]] = {}
        sources: dict[str, Source] = {}
        for number, metric in enumerate(self.metrics):
            found = _aggregates(metric)
            of = _source(metric).name, metric.by
            sources[of[0]] = _source(metric)
            for end_us, over_us in self._windows(metric):
                after = groups.setdefault((end_us, over_us, *of), {})
                after |= {f"{name}_{number}": aggregate for name, aggregate in found.items()}
            if metric.before_us and metric.kind in _COVARIATES:
                groups.setdefault((0, metric.before_us, *of), {})[f"value_{number}"] = found["value"]
        joins: list[Join] = []
        self._sets: list[tuple[int, int, FeatureSet]] = []
        for place, ((end_us, over_us, name, by), features) in enumerate(groups.items()):
            joins.append(_join(f"{'after' if end_us else 'before'}_{place}", sources[name], by, over_us, features))
            self._sets.append((end_us, over_us, feature_set(self._request, [joins[-1]], texts=True)))
        self._read = {name for join in joins for name in join.by}
        # all features, to prepare one run
        self.every = feature_set(self._request, joins, texts=True) if joins else None

    def values(
        self, units: Sequence[str], exposed_us: Array, known_by_us: int, evaluate: Evaluate
    ) -> dict[str, UnitValues]:
        """Return the values of some units, by metric.

        Args:
            units: The units as text.
            exposed_us: The time of each unit's first exposure.
            known_by_us: Events that became known later do not count.
        """
        if not self.metrics:
            return {}
        named = {
            f"{dtype}_{place}": one
            for dtype in _TYPES
            if any(name.startswith(dtype) for name in self._read)
            for place, one in enumerate(unit_columns(units, [dtype] * self._columns))
        }
        requests = Columns({**named, "at": Column("time", exposed_us)})
        read: dict[tuple[int, int], dict[str, Column]] = {}  # by end and length of the window
        for end_us, over_us, wanted in self._sets:
            values = evaluate(wanted, requests, exposed_us + end_us, known_by_us if end_us else None).values
            window = read.setdefault((end_us, over_us), {})
            window |= {name.rpartition(".")[2]: values[name] for name in values.names}
        found: dict[str, UnitValues] = {}
        for number, metric in enumerate(self.metrics):
            past, x = read.get((0, metric.before_us), {}).get(f"value_{number}"), None
            if past is not None:
                x = np.nan_to_num(_metric_values(metric, past, exposed_us))
            whole, *ages = [self._values(number, read[window], exposed_us, x) for window in self._windows(metric)]
            found[metric.name] = msgspec.structs.replace(whole, ages=tuple(ages))
        return found

    def _windows(self, metric: Metric) -> list[tuple[int, int]]:
        """Return a metric's window, and then the parts of it; each as its end after the exposure, and its length."""
        ends_us = self._ends_us[metric.name]
        return [(metric.within_us,) * 2, *((end, end - begin) for begin, end in pairwise([0, *ends_us]))]

    def _values(self, number: int, read: Mapping[str, Column], exposed_us: Array, x: Array | None) -> UnitValues:
        metric, d = self.metrics[number], None
        y = _metric_values(metric, read[f"value_{number}"], exposed_us)
        if metric.kind == "ratio":
            d = within_range(_floats(read[f"denominator_{number}"]))
            y = np.where(np.isnan(d), np.nan, y)
        return UnitValues(y, x, d)


def event_counts(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """Return, for each metric about events, a metric that counts the events that it reads."""
    found = {}
    for metric in metrics:
        if metric.source is not None and metric.value is not None:
            counted = Aggregate(kind="count", where=None if metric.denominator else metric.value.where)
            plain = {"kind": "mean", "denominator": None, "before_us": 0, "cap": None, "role": "secondary"}
            found[metric.name] = msgspec.structs.replace(metric, name=f"{metric.name} events", value=counted, **plain)
    return found


def capped(metric: Metric, values: Array) -> Array:
    """Cut values above the metric's cap to the cap. Values that are still too large become NaN (see `within_range`)."""
    return within_range(values if metric.cap is None else np.minimum(values, metric.cap))


def within_range(values: Array) -> Array:
    """Return values with NaN in place of those whose squares might have no finite sum."""
    return np.where(np.abs(values) <= _LARGEST, values, np.nan)


def _source(metric: Metric) -> Source:
    assert metric.source is not None  # metrics about predictions were left out
    return metric.source


def _aggregates(metric: Metric) -> dict[str, Aggregate]:
    """Return the aggregates that a metric is computed from, by name."""
    value = metric.value
    assert value is not None  # `metric()` makes sure of this
    if metric.kind == "time_to_event":
        value = Aggregate(kind="first", of=col(_source(metric).time), where=value.where)
    return {"value": value} | ({} if metric.denominator is None else {"denominator": metric.denominator})


def _join(name: str, source: Source, by: tuple[str, ...], over_us: int, features: Mapping[str, Aggregate]) -> Join:
    windowed = {feature: _over(aggregate, over_us) for feature, aggregate in features.items()}
    view = View(name=name, source=source, by=by, features=windowed)
    return view.join(by=[f"{source.columns[column]}_{place}" for place, column in enumerate(by)])


def _over(aggregate: Aggregate, over_us: int) -> Aggregate:
    if aggregate.traits.online == "latest":
        return msgspec.structs.replace(aggregate, max_age_us=over_us)
    return msgspec.structs.replace(aggregate, over_us=over_us, hop_us=0, until_us=0)


def _metric_values(metric: Metric, read: Column, exposed_us: Array) -> Array:
    """Return the metric's value for each unit, given the aggregate that was read. NaN: it has none."""
    if metric.kind == "time_to_event":
        passed_us = np.where(read.present(), read.values - exposed_us, metric.within_us)
        return capped(metric, passed_us / SECOND_US)
    found = _floats(read)
    return (np.nan_to_num(found) != 0.0) + 0.0 if metric.kind == "proportion" else capped(metric, found)


def _floats(read: Column) -> Array:
    found: Array = np.where(read.present(), read.values.astype(np.float64), np.nan)
    return found
