"""Add up the metric values of exposed units by variant and slice. The sums are exact, so the order does not matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.hashing import content_hash
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.experiments.exposures import ExposureBlock
from trimtab.experiments.records import ArmSums, ExperimentDay, VariantDay
from trimtab.experiments.unit_values import UnitValues
from trimtab.stats.ab.quantiles import bins_of
from trimtab.stats.exact_sums import ExactSum, add_exact, exact_sum

Array = NDArray[Any]

MOST_SLICES = 200  # if an attribute has more values than this on a day, the day has no slices of it
_MOST_CHARACTERS = 60  # the largest number of characters of a value in the name of a slice
SUMS = ("y", "yy", "x", "xx", "xy", "d", "dd", "yd")


class DaySums:
    """The sums of one day. Units are added in any number of parts, and the result is the same to the last bit.

    >>> from trimtab.experiments.definitions import Experiment
    >>> DaySums(Experiment(name="e", unit=("user",), variants={"a": 1, "b": 2})).variants()["b"].units
    0
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._metrics = {metric.name: metric for metric in experiment.metrics}
        empty = VariantDay(metrics={metric.name: ArmSums() for metric in experiment.metrics})
        self._days = dict.fromkeys(experiment.variants, empty)
        # by variant and by "NAME events": how many events of metric NAME the units have
        self.events: dict[str, dict[str, float]] = {name: {} for name in self._days}
        self._seen: dict[str, set[str]] = {name: set() for name in experiment.slices}

    def add(self, units: ExposureBlock, values: Mapping[str, UnitValues], labels: Array | None = None) -> None:
        """Add units that were not added before.

        Args:
            units: The first exposures of the units.
            values: The values of the units, by metric. Under "NAME events": how many events of metric NAME they have.
            labels: How many predictions of each unit have a label, and how many have none, shape (units, 2).
        """
        slices = self._slices(units)
        counts_of = {name: one.y for name, one in values.items() if name not in self._metrics}
        values = {name: one for name, one in values.items() if name in self._metrics}
        for code, name in enumerate(self._experiment.variants):
            mine = (units.variants == code) & ~units.overrides
            day, events = self._days[name], self.events[name]
            events |= {one: events.get(one, 0.0) + float(counts[mine].sum()) for one, counts in counts_of.items()}
            sums = {metric: _sums(self._metrics[metric], one, mine) for metric, one in values.items()}
            ages = {
                metric: [
                    added([*day.ages.get(metric, [])[n : n + 1], _sums(self._metrics[metric], part, mine)])
                    for n, part in enumerate(one.ages)
                ]
                for metric, one in values.items()
                if one.ages
            }
            parts = {**day.slices}
            counts = {**day.slice_units}
            for part, within in slices.items():
                here = within & mine
                if here.any():
                    of_part = {metric: _sums(self._metrics[metric], one, here) for metric, one in values.items()}
                    parts[part] = _both(parts.get(part, {}), of_part)
                    counts[part] = counts.get(part, 0) + int(here.sum())
            labelled, missing = (0, 0) if labels is None else labels[mine].sum(axis=0).tolist()
            self._days[name] = VariantDay(
                units=day.units + int(mine.sum()),
                testers=day.testers + int(((units.variants == code) & units.overrides).sum()),
                not_shown=_counted(day.not_shown, units.reasons[mine]),
                labelled=day.labelled + labelled,
                missing=day.missing + missing,
                metrics=_both(day.metrics, sums),
                slices=parts,
                slice_units=counts,
                ages=ages,
            )

    @property
    def crowded(self) -> dict[str, int]:
        """The attributes with too many values for slices, and how many values they have."""
        return {name: len(values) for name, values in self._seen.items() if len(values) > MOST_SLICES}

    def variants(self) -> dict[str, VariantDay]:
        """Return the sums of each variant. Attributes with too many values have no slices."""
        crowded = self.crowded

        def kept(parts: Mapping[str, Any]) -> dict[str, Any]:
            return {part: one for part, one in sorted(parts.items()) if part.partition("=")[0] not in crowded}

        return {
            name: msgspec.structs.replace(
                day,
                not_shown=dict(sorted(day.not_shown.items())),
                slices=kept(day.slices),
                slice_units=kept(day.slice_units),
            )
            for name, day in self._days.items()
        }

    def _slices(self, units: ExposureBlock) -> dict[str, Array]:
        """Return for each slice with some of these units, such as "country=DE", a mask of the units that are in it."""
        if not self._seen:
            return {}
        decoded = [msgspec.msgpack.decode(one) if one else {} for one in units.attributes]
        found: dict[str, Array] = {}
        for name, seen in self._seen.items():
            given = [one.get(name) for one in decoded]
            texts = ["" if value is None else f"{name}={short_value(str(value))}" for value in given]
            seen.update(text for text, tester in zip(texts, units.overrides, strict=True) if text and not tester)
            if len(seen) <= MOST_SLICES:
                codes = {text: code for code, text in enumerate(dict.fromkeys(texts))}
                of_units = np.array([codes[text] for text in texts], np.int64)
                found |= {text: of_units == code for text, code in codes.items() if text}
        return found


def short_value(value: str) -> str:
    """Return a value in the name of a slice. A long one is cut, and ends with a hash, so that no two are the same."""
    if len(value) <= _MOST_CHARACTERS:
        return value
    return f"{value[: _MOST_CHARACTERS - 10]}~{content_hash(value)[:9]}"


def late_outcomes(metrics: Sequence[Metric], before: DaySums, after: DaySums) -> dict[str, dict[str, int]]:
    """Return how many more events (for metrics of predictions: labels) `after` has, by metric and variant.

    The number is 0 if the sums changed because events (or labels) were corrected or deleted.
    """
    found: dict[str, dict[str, int]] = {}
    days = before.variants(), after.variants()
    for metric in metrics:
        for name, events in after.events.items():
            of = f"{metric.name} events"
            more = int(events.get(of, 0.0) - before.events[name].get(of, 0.0))
            more = days[1][name].labelled - days[0][name].labelled if metric.source is None else more
            if more > 0 or days[0][name].metrics[metric.name] != days[1][name].metrics[metric.name]:
                found.setdefault(metric.name, {})[name] = max(0, more)
    return found


def added(sums: Sequence[ArmSums]) -> ArmSums:
    """Return the sum of sums over different units.

    >>> added([ArmSums(units=1, y=(2.0,), yy=(4.0,)), ArmSums(units=2, y=(0.5,), yy=(0.25,))]).y
    (2.5,)
    """
    if len(sums) == 1:
        return sums[0]
    bins: dict[int, int] = {}
    for one in sums:
        for place, count in one.histogram.items():
            bins[place] = bins.get(place, 0) + count
    exact = {name: add_exact(*(getattr(one, name) for one in sums)) for name in SUMS}
    return ArmSums(units=sum(one.units for one in sums), **exact, histogram=dict(sorted(bins.items())))


def merged(days: Sequence[ExperimentDay]) -> ExperimentDay:
    """Return consecutive days as one, with the time of the last. If one of them does not count, none does."""
    found = dict[str, VariantDay]()
    for name in dict.fromkeys(name for day in days for name in day.variants):
        some = [day.variants[name] for day in days if name in day.variants]
        ages = {
            metric: zip(*(one.ages[metric] for one in some if metric in one.ages), strict=True)
            for metric in dict.fromkeys(metric for one in some for metric in one.ages)
        }
        slices = dict[str, dict[str, ArmSums]]()
        for part, of in ((part, of) for one in some for part, of in one.slices.items()):
            slices[part] = _both(slices.get(part, {}), of)
        found[name] = VariantDay(
            units=sum(one.units for one in some),
            labelled=sum(one.labelled for one in some),
            missing=sum(one.missing for one in some),
            metrics={
                metric: added([one.metrics[metric] for one in some if metric in one.metrics])
                for metric in dict.fromkeys(metric for one in some for metric in one.metrics)
            },
            slices=slices,
            ages={metric: [added(part) for part in parts] for metric, parts in ages.items()},
        )
    return msgspec.structs.replace(
        days[-1], variants=found, excluded=next((day.excluded for day in days if day.excluded is not None), None)
    )


def _sums(metric: Metric, values: UnitValues, rows: Array) -> ArmSums:
    """Return the sums over those of the given rows that have a value."""
    there = rows & ~np.isnan(values.y)
    found = msgspec.structs.replace(ArmSums(units=int(there.sum())), **dict(_products(values, there)))
    if metric.kind != "quantile":
        return found
    bins, counts = np.unique(bins_of(values.y[there]), return_counts=True)
    return msgspec.structs.replace(found, histogram=dict(zip(bins.tolist(), counts.tolist(), strict=True)))


def _products(values: UnitValues, there: Array) -> Iterator[tuple[str, ExactSum]]:
    """Yield the sums of the columns and of their products, each product rounded to a double."""
    columns = {name: one[there] for name in "yxd" if (one := getattr(values, name)) is not None}
    for name in SUMS:
        if all(letter in columns for letter in name):
            column = columns[name[0]] if len(name) == 1 else columns[name[0]] * columns[name[1]]
            yield name, exact_sum(column.tolist())


def _both(one: Mapping[str, ArmSums], other: Mapping[str, ArmSums]) -> dict[str, ArmSums]:
    return {name: added([side[name] for side in (one, other) if name in side]) for name in {**one, **other}}


def _counted(before: Mapping[str, int], reasons: Array) -> dict[str, int]:
    found = dict(before)
    names, counts = np.unique(reasons[reasons != ""].astype(str), return_counts=True)
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        found[name] = found.get(name, 0) + count
    return found
