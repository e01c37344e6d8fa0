"""Metrics about predictions: for each exposed unit, the mean of a value over the unit's predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.data.loop_labels import LoopLabels
from trimtab.app.experiments.logged_units import LoggedUnits
from trimtab.core.columns.data import Column, Columns
from trimtab.core.records import Prediction
from trimtab.experiments.definitions import Metric
from trimtab.experiments.exposures import Intake, unit_keys
from trimtab.experiments.first_exposures import FirstExposures
from trimtab.experiments.unit_values import UnitValues, capped
from trimtab.feedback.outcomes import OutcomeFrame, OutcomeJoin
from trimtab.stats.metrics.losses import row_losses
from trimtab.training.definitions import Model

if TYPE_CHECKING:
    from trimtab.app.system import System

Array = NDArray[Any]


class PredictionValues:
    """Computes metrics about predictions. All answers that a unit got in its window count, whichever version gave them.

    A label counts if it became known before the wait for it was over, as for the quality of versions.

    Args:
        metrics: The metrics of the experiment. Those about events are ignored.
        units: Finds the unit of each prediction.
    """

    def __init__(self, system: System, metrics: Sequence[Metric], model: Model, units: LoggedUnits) -> None:
        self.metrics = [metric for metric in metrics if metric.source is None]
        self._units = units
        self._model = model
        self._outcomes = OutcomeJoin(
            LoopLabels(system, model),
            wait_us=model.label.wait_us,
            key_dtype=model.request.key_dtype,
            classes=model.label.class_names,
        )

    def of(
        self, first: FirstExposures, intake: Intake, known_by_us: int | None = None
    ) -> tuple[dict[str, UnitValues], Array]:
        """Return the metric values of the units in `first`, which were exposed in the time of the intake.

        With `known_by_us`, late labels (after the declared wait) count, too, if they were known by this time.

        Returns:
            For each metric the values of the units (for a primary metric, also those in each part of the window), and
            an array of shape (units, 2): how many predictions of each unit have a label, and how many have none.
        """
        labels = np.zeros((len(first), 2), np.int64)
        parts: dict[str, list[tuple[Array, Array, Array]]] = {metric.name: [] for metric in self.metrics}
        longest_us = max(metric.within_us for metric in self.metrics)
        window = msgspec.structs.replace(intake, until_us=intake.until_us + longest_us)
        for found in self._outcomes.each(self._tables(first, window, longest_us), known_by_us):
            unit, after_us = found.predictions["unit"].values, found.predictions["after"].values
            known = ~np.isnan(found.labels) & (found.known_at_us <= (known_by_us or intake.known_by_us))
            np.add.at(labels, (unit, np.where(known, 0, 1)), 1)
            for metric in self.metrics:
                rows = (after_us < metric.within_us) & (known | (metric.prediction == "score"))
                parts[metric.name].append((unit[rows], self._values(metric, found, rows), after_us[rows]))
        return {metric.name: _of_units(metric, parts[metric.name], len(first)) for metric in self.metrics}, labels

    def _tables(self, first: FirstExposures, window: Intake, longest_us: int) -> Iterator[Columns]:
        """Yield the predictions in the windows of exposed units, as tables.

        The column `unit` is the unit's row in `first`, and `after` is the time since its exposure.
        """
        several = bool(self._outcomes.classes)
        for _, found in self._units.predictions(window):
            fitting: list[tuple[Prediction, dict[str, Any]]] = [
                (prediction, row) for _, prediction, row in found if (prediction.scores is not None) == several
            ]
            named = [self._units.unit(*one) for one in fitting]
            rows, there = first.rows_of(unit_keys([f"{unit}@{block}" if block else unit for unit, block in named]))
            made_us = np.array([prediction.made_at_us for prediction, _ in fitting], np.int64)
            after_us = made_us - first.at_us[rows] if len(first) else made_us
            there &= (after_us >= 0) & (after_us < longest_us)
            if there.any():
                chosen = np.flatnonzero(there)
                table = self._outcomes.table([fitting[one][0] for one in chosen.tolist()])
                more = {"unit": Column("int", rows[chosen]), "after": Column("int", after_us[chosen])}
                yield table.replace(more)

    def _values(self, metric: Metric, found: OutcomeFrame, rows: Array) -> Array:
        if metric.prediction == "label":
            return found.labels[rows]
        if metric.prediction == "score":
            return found.predictions["score"].values[rows]
        scores = found.scores(self._outcomes.classes)[rows]
        return row_losses(self._model.metric, found.labels[rows], scores) if len(scores) else np.zeros(0)


def _of_units(metric: Metric, parts: Sequence[tuple[Array, Array, Array]], units: int) -> UnitValues:
    """Return the metric values of units.

    `parts` are blocks of predictions as columns: the unit, the value, and the time since the exposure.
    """
    unit, values, after_us = (np.concatenate(one) for one in zip(*parts, strict=True)) if parts else (np.zeros(0),) * 3
    ends_us = metric.age_ends_us if metric.role == "primary" else []
    ages = [(after_us >= begin) & (after_us < end) for begin, end in pairwise([0, *ends_us])]
    return UnitValues(
        capped(metric, _means(unit, values, units)),
        ages=tuple(UnitValues(capped(metric, _means(unit[part], values[part], units))) for part in ages),
    )


def _means(unit: Array, values: Array, units: int) -> Array:
    """Return the mean of each unit's values, from their exact sum. NaN: the unit has no value."""
    out = np.full(units, np.nan)
    if len(unit):
        order = np.argsort(unit, kind="stable")
        some, starts = np.unique(unit[order], return_index=True)
        ends = [*starts[1:].tolist(), len(unit)]
        listed = values[order].tolist()
        slices = zip(starts.tolist(), ends, strict=True)
        out[some] = [math.fsum(listed[start:end]) / (end - start) for start, end in slices]
    return out
