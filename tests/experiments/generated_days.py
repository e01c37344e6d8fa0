"""Closed days of experiments whose truth is known, made without an event log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, parse_time_us
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.records import Allocation, ArmSums, ExperimentDay, ExperimentState, VariantDay

START_US = parse_time_us("2024-03-01")


def metric(name: str = "revenue", **given: Any) -> Metric:
    return Metric(**{"name": name, "kind": "mean", "role": "primary", **given})


def experiment(*metrics: Metric, **given: Any) -> Experiment:
    plain = {"name": "checkout", "unit": ("customer",), "variants": {"blue": 1, "green": 2}}
    return Experiment(**{**plain, "metrics": metrics or (metric(),), **given})


def state_of(definition: Experiment, **given: Any) -> ExperimentState:
    names = list(definition.variants)
    weights = dict(zip(names, definition.weights or (1 / len(names),) * len(names), strict=True))
    allocation = Allocation(from_us=START_US, share=1.0, weights=weights, buckets=[])
    plain = {
        "name": definition.name,
        "hash": definition.hash,
        "definition": b"{}",
        "generation": 1,
        "phase": "running",
        "started_at_us": START_US,
        "allocations": [allocation],
    }
    return ExperimentState(**{**plain, **given})


def sums(y: NDArray[Any], x: NDArray[Any] | None = None) -> ArmSums:
    """The sums of the values of units."""

    def one(values: NDArray[Any]) -> tuple[float, ...]:
        total = float(values.sum())
        return (total,) if total else ()

    found = {"y": one(y), "yy": one(y * y)}
    if x is not None:
        found |= {"x": one(x), "xx": one(x * x), "xy": one(x * y)}
    return ArmSums(units=y.size, **found)


def days_of(
    values: Mapping[str, Mapping[str, Sequence[NDArray[Any]]]],
    *,
    slices: Mapping[str, Mapping[str, Mapping[str, Sequence[NDArray[Any]]]]] | None = None,
    labels: Mapping[str, tuple[int, int]] | None = None,
) -> list[ExperimentDay]:
    """Days from the values of units, by variant, metric and day."""
    count = len(next(iter(next(iter(values.values())).values())))
    found = []
    for day in range(count):
        variants = {}
        for name, metrics in values.items():
            here = {one: sums(by_day[day]) for one, by_day in metrics.items()}
            inside = {
                where: {one: sums(by_day[day]) for one, by_day in some[name].items()}
                for where, some in (slices or {}).items()
            }
            labelled, missing = (labels or {}).get(name, (0, 0))
            variants[name] = VariantDay(
                units=next(iter(here.values())).units,
                metrics=here,
                slices=inside,
                slice_units={where: next(iter(some.values())).units for where, some in inside.items()},
                labelled=labelled,
                missing=missing,
            )
        found.append(
            ExperimentDay(experiment="checkout", generation=1, day_us=START_US + day * DAY_US, variants=variants)
        )
    return found


def normal_days(
    rng: np.random.Generator,
    *,
    days: int,
    units: int = 500,
    mean: float = 10.0,
    sd: float = 4.0,
    effect: float = 0.0,
    day_sd: float = 0.2,
    name: str = "revenue",
) -> dict[str, dict[str, list[NDArray[Any]]]]:
    """Values by variant, metric and day; `effect` is a share of the mean, and days move both variants together."""
    levels = rng.normal(mean, day_sd, days)
    return {
        variant: {name: [rng.normal(level * (1.0 + shift), sd, units) for level in levels]}
        for variant, shift in (("blue", 0.0), ("green", effect))
    }


def changed(day: ExperimentDay, **given: Any) -> ExperimentDay:
    return msgspec.structs.replace(day, **given)
