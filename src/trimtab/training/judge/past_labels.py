"""Baselines from labels that were known at the time of a prediction: the last value, last week, last year."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, HOUR_US
from trimtab.stats.metrics.losses import row_losses
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]
Predictions: TypeAlias = tuple[Scores | None, tuple[str, ...]]

_LAST_LABELS = 100  # the "last value" of a class or a count is the mean of this many labels
_WEEKS = _YEARS = 4  # how many weeks or years to go back to find known labels; see `last_week` and `last_year`
_WEEK_US = 7 * DAY_US
_COMPARED_ROWS = 20_000  # the grouping of a baseline is chosen on at most this many of the newest training rows


class Grouping(msgspec.Struct, frozen=True, eq=False):
    """A division of all rows into series. In a series, the rows have equal values in some columns."""

    by: tuple[str, ...]  # the columns; empty: one series with all rows
    codes: Ints  # for each row of the training set, the index of its series, shape (rows,)


def groupings(model: Model, training_set: TrainingSet) -> list[Grouping]:
    """Return the divisions into series in which past labels may be looked up. The first is one series with all rows.

    The others have one series for each value of a key. The key is one by which the request joins a view of the label's
    source (for example the shop, if the label is its sales), or the key of the request. A key with fewer than two rows
    per value on average is left out. All rows whose key is null are one series.
    """
    keys = [join.by for join in model.features.joins if join.view.source.name == model.label.source.name]
    found = [Grouping((), np.zeros(training_set.rows, np.int64))]
    for by in dict.fromkeys([*keys, (model.request.key,)]):
        tables = [
            training_set.requests if name in training_set.requests else training_set.features.values for name in by
        ]
        if not all(name in table for name, table in zip(by, tables, strict=True)):
            continue
        keys_of_rows = list(zip(*(table[name].to_list() for name, table in zip(by, tables, strict=True)), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys_of_rows))}
        if 2 * len(numbers) <= training_set.rows:
            codes = np.fromiter(map(numbers.__getitem__, keys_of_rows), np.int64, training_set.rows)
            found.append(Grouping(by, codes))
    return found


class PastLabels:
    """The labels of a training set, and when each became known.

    Args:
        model: The model, whose task says how labels are averaged.
        constant: The prediction where no label is known, shape (1,); for several classes (1, classes).
    """

    def __init__(self, model: Model, training_set: TrainingSet, constant: Scores) -> None:
        self._task = model.task
        self._metric = model.metric
        self._set = training_set
        self._constant = constant
        self._labelled = np.flatnonzero(training_set.usable & np.isfinite(training_set.target))
        self._own_us = training_set.at_us + model.request.lead_us  # the time that a row is about
        target = training_set.target[self._labelled]
        # for several classes: one column for each (1: the label is this class); otherwise one column with the labels
        several = model.task == "multiclass"
        self._values = (
            (target[:, None] == np.arange(constant.shape[1])).astype(np.float64) if several else target[:, None]
        )

    def baselines(self, divisions: Iterable[Grouping], chosen: Ints, learnt: Ints) -> dict[str, Predictions]:
        """Return for each baseline its predictions for the rows `chosen`, and the columns of the grouping that it used.

        The predictions are None if no label is known for any of the rows. Each baseline uses the grouping with which it
        is best on the newest of the rows `learnt`.

        Args:
            divisions: The groupings, as `groupings` returns them.
            chosen: The indices of the rows to predict.
            learnt: The indices of the training rows.
        """
        divisions = list(divisions)
        learnt = learnt[np.isfinite(self._set.target[learnt])]
        newest = learnt[np.argsort(self._set.at_us[learnt], kind="stable")[-_COMPARED_ROWS:]]
        found: dict[str, Predictions] = {}
        for name, predict in (
            ("last_value", self.last_value),
            ("seasonal_naive", self.last_week),
            ("last_year", self.last_year),
        ):
            best = divisions[0]
            if len(divisions) > 1 and newest.size:
                best = min(divisions, key=lambda one: self._loss(newest, predict(one, newest)))
            found[name] = (predict(best, chosen), best.by)
        return found

    def last_value(self, grouping: Grouping, rows: Ints) -> Scores | None:
        """Return for each row the label of its series that became known last before the row's time.

        For classes and counts, return the mean of the last hundred such labels and of the constant.
        """
        known_us, codes = self._set.label_known_at_us[self._labelled], grouping.codes[self._labelled]
        times = np.unique(known_us)
        # `place` numbers labels by series, and within a series by the time at which they became known. Sorted by it,
        # the labels of a row's series that are known at the row's time are next to each other: from `first` to `end`
        place = codes * (times.size + 1) + np.searchsorted(times, known_us) + 1
        order = np.lexsort((self._set.at_us[self._labelled], place))
        place = place[order]
        wanted = grouping.codes[rows] * (times.size + 1)
        end = np.searchsorted(place, wanted + np.searchsorted(times, self._set.at_us[rows], "right"), "right")
        first = np.searchsorted(place, wanted, "right")
        if not (end > first).any():
            return None
        if self._task == "regression":
            values = self._values[order, 0]
            newest: Scores = np.where(end > first, values[np.maximum(end, 1) - 1], self._constant[0])
            return newest
        first = np.maximum(first, end - _LAST_LABELS)
        sums = np.concatenate([np.zeros((1, self._values.shape[1])), np.cumsum(self._values[order], axis=0)])
        start = self._constant.reshape(1, -1)
        return self._shaped((sums[end] - sums[first] + start) / (end - first + 1)[:, None])

    def last_week(self, grouping: Grouping, rows: Ints) -> Scores | None:
        """Return the mean label of each row's series in the same hour of the newest earlier week with known labels.

        For example, if labels arrive after 1 to 20 days, usually after 8, then 1 to 5 weeks earlier are tried: 1 is the
        shortest delay, rounded up, and 5 is the median delay, rounded up to 2, and three more weeks.
        """
        delays_us = (self._set.label_known_at_us - self._set.at_us)[self._labelled]
        least_us, usual_us = np.quantile(delays_us, (0.0, 0.5)) if delays_us.size else (0.0, 0.0)
        first, last = (max(1, math.ceil(delay_us / _WEEK_US)) for delay_us in (least_us, usual_us))
        hours = self._own_us[rows] // HOUR_US
        return self._seasonal(grouping, rows, (hours - week * 7 * 24 for week in range(first, last + _WEEKS)))

    def last_year(self, grouping: Grouping, rows: Ints) -> Scores | None:
        """Return the mean label of each row's series in the hour 52 weeks earlier, or else on the same date last year.

        If neither hour has known labels, go further back, up to four years.
        """

        def seasons() -> Iterator[Ints]:
            hours = self._own_us[rows] // HOUR_US
            days = self._own_us[rows].astype("datetime64[us]").astype("datetime64[D]")
            months = days.astype("datetime64[M]")
            for year in range(1, _YEARS + 1):
                yield hours - year * 52 * 7 * 24
                earlier = (months - 12 * year).astype("datetime64[D]") + (days - months.astype("datetime64[D]"))
                yield earlier.astype(np.int64) * 24 + hours % 24

        return self._seasonal(grouping, rows, seasons())

    def _seasonal(self, grouping: Grouping, rows: Ints, seasons: Iterable[Ints]) -> Scores | None:
        """Return for each row the mean label of the first hour whose labels were all known, or else the constant.

        Each of `seasons` is an array with one hour (since 1970) for each row. They are tried in their order. An hour is
        skipped if it has no label, or a label that was not known at the row's time. For classes and counts, the mean
        includes the constant as one further label, so that few labels do not give extreme predictions. None: no row has
        such an hour.
        """
        hours = self._own_us // HOUR_US
        low, span = (int(hours.min()), int(hours.max() - hours.min()) + 1) if hours.size else (0, 1)
        bins, place = np.unique((grouping.codes * span + hours - low)[self._labelled], return_inverse=True)
        answers = np.repeat(self._constant.reshape(1, -1), rows.size, axis=0)
        open_rows = np.ones(rows.size, np.bool_)
        if not bins.size:
            return None
        known_us = np.full(bins.size, -(2**62))
        np.maximum.at(known_us, place, self._set.label_known_at_us[self._labelled])
        sums = np.stack([np.bincount(place, column, bins.size) for column in self._values.T], axis=1)
        counts = np.bincount(place, minlength=bins.size).astype(np.float64)[:, None]
        prior = 0.0 if self._task == "regression" else 1.0
        for season in seasons:
            wanted = grouping.codes[rows] * span + season - low
            found = np.minimum(np.searchsorted(bins, wanted), bins.size - 1)
            here = open_rows & (season >= low) & (bins[found] == wanted) & (known_us[found] <= self._set.at_us[rows])
            answers[here] = (sums[found[here]] + prior * answers[here]) / (counts[found[here]] + prior)
            open_rows &= ~here
        return None if open_rows.all() else self._shaped(answers)

    def _shaped(self, answers: Scores) -> Scores:
        return answers if self._task == "multiclass" else answers[:, 0]

    def _loss(self, rows: Ints, scores: Scores | None) -> float:
        return np.inf if scores is None else float(row_losses(self._metric, self._set.target[rows], scores).mean())
