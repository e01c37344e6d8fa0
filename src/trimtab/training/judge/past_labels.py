"""Baselines from labels that were known at the time of a prediction: the last value, last week, last year."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.column import Column
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.stats.metrics.losses import row_losses
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]
Predictions: TypeAlias = tuple[Scores | None, tuple[str, ...]]

_LAST_LABELS = 100  # for classes and counts, "last_value" is the mean of at most this many labels and the constant
_WEEKS = _YEARS = 4  # how many weeks (from the median delay on) or years back are tried; see `last_week`, `last_year`
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
        codes = _codes([table[name] for name, table in zip(by, tables, strict=True)], training_set.rows)
        if codes is not None:
            found.append(Grouping(by, codes))
    return found


def _codes(columns: Sequence[Column], rows: int) -> Ints | None:
    """Return a number for each row, equal for rows with equal values in all columns.

    None: there are fewer than two rows per number on average.
    """
    codes, number = np.zeros(rows, np.int64), 1
    for column in columns:
        values = column.to_list()
        distinct = dict.fromkeys(values[: rows // 2 + 1])  # of a key of rows, half of the values are enough
        if 2 * len(distinct) <= rows:
            distinct |= dict.fromkeys(values)
        if 2 * len(distinct) > rows:
            return None
        numbers = {value: at for at, value in enumerate(distinct)}
        pairs = codes * len(numbers) + np.fromiter(map(numbers.__getitem__, values), np.int64, rows)
        if number == 1:
            codes, number = pairs, len(numbers)
        else:
            there, codes = np.unique(pairs, return_inverse=True)
            number = there.size
    return codes if 2 * number <= rows else None


class _Ordered(msgspec.Struct, frozen=True, eq=False):
    """The labels of a grouping, by series and then by the time at which they became known."""

    place: Ints  # series and time (as its rank) in one number, sorted, shape (labels,)
    values: Scores  # shape (labels, columns)
    sums: Scores  # the sums of the values before each place, shape (labels + 1, columns)


class _Hours(msgspec.Struct, frozen=True, eq=False):
    """The labels of a grouping, by series and hour."""

    bins: Ints  # series and hour in one number, sorted, shape (bins,)
    known_us: Ints  # when the last label of each bin became known
    sums: Scores  # shape (bins, columns)
    counts: Scores  # shape (bins, 1)


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
        known_us = training_set.label_known_at_us[self._labelled]
        self._order = np.lexsort((training_set.at_us[self._labelled], known_us))
        known_us = known_us[self._order]
        # the rank of each label in this order; labels that became known at the same time have equal ranks
        self._rank = np.searchsorted(known_us, known_us) + 1
        self._known = np.searchsorted(known_us, training_set.at_us, "right")  # known labels at each row's time
        self._hours = self._own_us // HOUR_US
        self._low, self._span = 0, 1
        if self._hours.size:
            self._low = int(self._hours.min())
            self._span = int(self._hours.max()) - self._low + 1
        self._ordered: dict[Grouping, _Ordered] = {}
        self._by_hour: dict[Grouping, _Hours] = {}

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

        For classes and counts, return the mean of the last (at most 100) such labels and, as one more, the constant.
        """
        labels = self._in_order(grouping)
        wanted = grouping.codes[rows] * (self._labelled.size + 1)
        end = np.searchsorted(labels.place, wanted + self._known[rows], "right")
        first = np.searchsorted(labels.place, wanted, "right")
        if not (end > first).any():
            return None
        if self._task == "regression":
            newest: Scores = np.where(end > first, labels.values[np.maximum(end, 1) - 1, 0], self._constant[0])
            return newest
        first = np.maximum(first, end - _LAST_LABELS)
        start = self._constant.reshape(1, -1)
        return self._shaped((labels.sums[end] - labels.sums[first] + start) / (end - first + 1)[:, None])

    def _in_order(self, series: Grouping) -> _Ordered:
        """Return the labels in order. Those of a series that are known to a row are next to each other."""
        if series not in self._ordered:
            codes = series.codes[self._labelled][self._order]
            by_series = np.argsort(codes, kind="stable")
            values = self._values[self._order[by_series]]
            sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
            place = (codes * (self._labelled.size + 1) + self._rank)[by_series]
            self._ordered[series] = _Ordered(place, values, sums)
        return self._ordered[series]

    def last_week(self, grouping: Grouping, rows: Ints) -> Scores | None:
        """Return the mean label of each row's series in the same hour of the newest earlier week with known labels.

        The weeks that are tried begin with the shortest delay of a label, and end three weeks after the median delay
        (delays are rounded up to weeks). For example, if labels arrive after 1 to 20 days, with a median of 8, then the
        weeks 1 to 5 weeks earlier are tried.
        """
        delays_us = (self._set.label_known_at_us - self._set.at_us)[self._labelled]
        least_us, usual_us = np.quantile(delays_us, (0.0, 0.5)) if delays_us.size else (0.0, 0.0)
        first, last = (max(1, math.ceil(delay_us / _WEEK_US)) for delay_us in (least_us, usual_us))
        hours = self._hours[rows]
        return self._seasonal(grouping, rows, (hours - week * 7 * 24 for week in range(first, last + _WEEKS)))

    def last_year(self, grouping: Grouping, rows: Ints) -> Scores | None:
        """Return the mean label of each row's series in the hour 52 weeks earlier, or else on the same date last year.

        If neither hour has known labels, go further back, up to four years.
        """

        def seasons() -> Iterator[Ints]:
            hours = self._hours[rows]
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
        answers = np.repeat(self._constant.reshape(1, -1), rows.size, axis=0)
        open_rows = np.ones(rows.size, np.bool_)
        if not self._labelled.size:
            return None
        labels = self._in_hours(grouping)
        codes = grouping.codes[rows] * self._span - self._low
        made_us = self._set.at_us[rows]
        prior = 0.0 if self._task == "regression" else 1.0
        for season in seasons:
            open_now = np.flatnonzero(open_rows & (season >= self._low))
            wanted = codes[open_now] + season[open_now]
            found = np.minimum(np.searchsorted(labels.bins, wanted), labels.bins.size - 1)
            known = (labels.bins[found] == wanted) & (labels.known_us[found] <= made_us[open_now])
            here, found = open_now[known], found[known]
            answers[here] = (labels.sums[found] + prior * answers[here]) / (labels.counts[found] + prior)
            open_rows[here] = False
        return None if open_rows.all() else self._shaped(answers)

    def _in_hours(self, series: Grouping) -> _Hours:
        if series not in self._by_hour:
            of_labels = (series.codes * self._span + self._hours - self._low)[self._labelled]
            bins, place = np.unique(of_labels, return_inverse=True)
            known_us = np.full(bins.size, -(2**62))
            np.maximum.at(known_us, place, self._set.label_known_at_us[self._labelled])
            summed = [np.bincount(place, column, bins.size).astype(np.float64) for column in self._values.T]
            counts = np.bincount(place, minlength=bins.size).astype(np.float64)[:, None]
            self._by_hour[series] = _Hours(bins, known_us, np.stack(summed, axis=1), counts)
        return self._by_hour[series]

    def _shaped(self, answers: Scores) -> Scores:
        return answers if self._task == "multiclass" else answers[:, 0]

    def _loss(self, rows: Ints, scores: Scores | None) -> float:
        return np.inf if scores is None else float(row_losses(self._metric, self._set.target[rows], scores).mean())
