"""Make the input profile of a version from its training set: histograms, nulls by reason, variation over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.monitoring.profiles.input_rows import ColumnPlan, Rows, planned, rows_of_set
from trimtab.monitoring.profiles.null_runs import normal_run, null_runs
from trimtab.monitoring.profiles.profile_records import (
    BINS,
    NULL_CODES,
    REFERENCE_H,
    VALUE_BYTES,
    WINDOWS_H,
    ColumnProfile,
    Floats,
    InputProfile,
    Kind,
    LabelDays,
    Pair,
    Spread,
    Statistic,
    null_code,
)
from trimtab.monitoring.profiles.proportion import limits
from trimtab.training.data.sets import TrainingSet

ROWS_AT_MOST = 2_000_000  # if there are more rows, only the newest are used
LEAST_ROWS = 20  # windows with fewer rows are not used
_LEFT_OUT = 14  # for the high end of a statistic, one in this many windows is left out (those with the highest values)
_CODES_AT_MOST = 64  # integers with more distinct values are never taken for codes
_PAIRS_AT_MOST = 64
# Two columns are a pair if either is null in at least `_TOGETHER_ROWS` rows, and both are null in at least the share
# `_TOGETHER` of these rows.
_TOGETHER, _TOGETHER_ROWS = 0.9, 30


def make_profile(
    features: FeatureSet, encoding: Encoding, training_set: TrainingSet, classes: Sequence[str] = ()
) -> InputProfile:
    """Return the input profile of the rows on which a version was trained.

    Rows of times with faulty inputs only count as traffic, so that faults do not become normal for this version. (If
    all rows are faulty, all are used.)

    Args:
        training_set: The training set. If it is larger than two million rows, only the newest are used.
        classes: The names of the classes, if there are several.
    """
    order = np.argsort(training_set.at_us, kind="stable")[-ROWS_AT_MOST:]
    traffic = _ReferenceHours(training_set.at_us[order])
    faulty = np.zeros(training_set.rows, np.bool_)
    for one in training_set.manifest.left_out or ():
        if one.of_inputs:
            faulty |= one.covers(training_set.at_us)
    if not faulty[order].all():
        order = order[~faulty[order]]
    at_us = training_set.at_us[order]
    plans = planned(features, encoding)
    rows = rows_of_set(plans, encoding, training_set.requests.take(order), training_set.features.take(order))
    hours = _ReferenceHours(at_us)
    columns = tuple(_column(plan, place, rows, hours) for place, plan in enumerate(plans))
    return InputProfile(
        rows=len(at_us),
        from_us=int(at_us[0]),
        until_us=int(at_us[-1]),
        columns=columns,
        pairs=_pairs(rows),
        request=tuple(features.request.columns),
        first_hour=traffic.first,
        hour_rows=np.bincount(traffic.hour, minlength=traffic.count).astype("<u4").tobytes(),
        labels=_label_days(training_set, classes),
    )


def _label_days(training_set: TrainingSet, classes: Sequence[str] = ()) -> LabelDays:
    final = training_set.at_us <= training_set.manifest.final_until(training_set.manifest.labels_until_us)
    for one in training_set.manifest.left_out or ():
        if one.why.startswith(("one_class", "label_shift")):  # wrong values of labels do not become normal
            final &= ~one.covers(training_set.at_us)
    newest_us = training_set.at_us[final & ~np.isnan(training_set.target)].max(initial=-(2**62))
    # days after the newest label are left out, because their labels may not have arrived yet
    final &= training_set.at_us // DAY_US <= newest_us // DAY_US
    day, target = training_set.at_us[final] // DAY_US, training_set.target[final]
    first = int(day.min()) if day.size else 0
    days = int(day.max(initial=first - 1)) - first + 1
    there = ~np.isnan(target)
    labelled = np.bincount(day[there] - first, minlength=days)
    of_classes = {
        name: np.bincount(day[target == number] - first, minlength=days).astype("<u4").tobytes()
        for number, name in enumerate(classes)
    }
    return LabelDays(
        first_day=first,
        rows=np.bincount(day - first, minlength=days).astype("<u4").tobytes(),
        labelled=labelled.astype("<u4").tobytes(),
        sums=np.bincount(day[there] - first, target[there], days).astype("<f8").tobytes(),
        classes=of_classes,
    )


class _ReferenceHours:
    """The complete hours at the end of a training set, and windows of several such hours."""

    def __init__(self, at_us: NDArray[np.int64]) -> None:
        hour = at_us // HOUR_US
        # leave out the last hour, which is incomplete, unless it is the only one
        end = int(hour[-1]) + (1 if hour[0] == hour[-1] else 0)
        days = at_us // DAY_US
        self.day_starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))  # among all rows, the first of each day
        self.first = max(int(hour[0]), end - REFERENCE_H)
        self.count = end - self.first
        self.rows = np.flatnonzero((hour >= self.first) & (hour < end))
        self.hour = (hour[self.rows] - self.first).astype(np.int64)  # ascending
        self._busy, self._starts = np.unique(self.hour, return_index=True)  # hours with rows, and their first rows

    def sums(self, values: Floats) -> Floats:
        """Return the sum of the rows' values in each hour, shape (hours,)."""
        return np.bincount(self.hour, values[self.rows], self.count).astype(np.float64)

    def windows(self, sums: Floats, length: int) -> Floats:
        """Return the sum over the window that ends with each hour; NaN if it would begin before the first hour."""
        total = np.concatenate([np.zeros((1, *sums.shape[1:])), np.cumsum(sums, axis=0)])
        found = np.full(sums.shape, np.nan)
        if length <= self.count:
            found[length - 1 :] = total[length:] - total[:-length]
        return found

    def extremes(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the smallest and the largest value in each hour; infinity if the hour has no values."""
        low, high = np.full(self.count, np.inf), np.full(self.count, -np.inf)
        mine = values[self.rows]
        null = np.isnan(mine)
        low[self._busy] = np.minimum.reduceat(np.where(null, np.inf, mine), self._starts)
        high[self._busy] = np.maximum.reduceat(np.where(null, -np.inf, mine), self._starts)
        return low, high

    def spread(self, of_length: Callable[[int], Floats], otherwise: float) -> Spread:
        """Return how a statistic varies over windows. `of_length` returns it for all windows of a length in hours.

        If fewer than three windows end at an hour of the day, this hour gets the result of all hours. If there are
        fewer than three windows in all, `otherwise` is used for both the median and the high end.
        """
        middle = np.full((len(WINDOWS_H), 24), otherwise, np.float32)
        high = middle.copy()
        for place, length in enumerate(WINDOWS_H):
            found = of_length(length)
            phase = (self.first + np.arange(self.count)) % 24
            pooled = _trimmed(found)
            for hour in range(24):
                here = _trimmed(found[phase == hour]) or pooled
                if here is not None:
                    middle[place, hour], high[place, hour] = here
        return Spread(middle.astype("<f4").tobytes(), high.astype("<f4").tobytes())


def _trimmed(values: Floats) -> tuple[float, float] | None:
    """Return the median and the high end of the values; None if there are fewer than three."""
    there = np.sort(values[~np.isnan(values)])
    if there.size < 3:
        return None
    middle = (there[(there.size - 1) // 2] + there[there.size // 2]) / 2.0
    return float(middle), float(there[-1 - there.size // _LEFT_OUT])


def _column(plan: ColumnPlan, place: int, rows: Rows, hours: _ReferenceHours) -> ColumnProfile:
    values = rows.values[:, place].copy()
    if plan.kind == "time":
        # times always increase, so the profile only says whether they are null
        values = np.where(np.isnan(values), np.nan, 0.0)
    null = np.isnan(values)
    there = np.sort(values[~null])
    begins = np.ones(there.size, np.bool_)
    begins[1:] = there[1:] != there[:-1]
    starts = np.flatnonzero(begins)
    distinct, often = there[starts], np.diff(starts, append=there.size)
    kind = _kind(plan, distinct)
    # an integer that identifies something, such as a customer; new ones are normal, so known ones are not stored
    named = plan.kind == "text" and plan.integers
    known, covered = (np.zeros(0), 1.0) if named else _known(kind, distinct, often)
    quantiles = _quantiles(there) if kind not in ("text", "time") and there.size else np.zeros(0)
    extremes = hours.extremes(values)
    numbers = kind == "number" and there.size > 0
    least, most = _limits(values, extremes, quantiles, hours) if numbers else (None, None)
    counted = np.bincount(null_code(rows.reasons[null, place]), minlength=NULL_CODES)
    profile = ColumnProfile(
        name=plan.name,
        place=plan.place,
        kind=kind,
        of=plan.of,
        source=plan.source,
        rows=len(values),
        nulls=tuple(counted.tolist()),
        distinct=int(distinct.size),
        top_share=float(often.max() / there.size) if there.size else 0.0,
        lowest=float(distinct[0]) if there.size and kind != "text" else None,
        highest=float(distinct[-1]) if there.size and kind != "text" else None,
        least=least,
        most=most,
        quantiles=quantiles.astype("<f8").tobytes(),
        counts=b"",
        known=known.astype("<f8").tobytes(),
        covered=covered,
        constant_h=_longest_run(extremes),
        spreads={},
    )
    edges = profile.edges
    counts = np.diff(np.searchsorted(there, edges, side="right"), prepend=0, append=there.size)
    spreads = _spreads(_Column(kind, values, edges, counts, hours))
    null_h = _normal_null_run(null, spreads["null"], hours) if null.any() else 0.0
    return msgspec.structs.replace(profile, counts=counts.astype("<i8").tobytes(), spreads=spreads, null_h=null_h)


def _kind(plan: ColumnPlan, distinct: Floats) -> Kind:
    """Return the kind of a column. Integers are codes if few of the numbers between their extremes occur."""
    few = plan.kind == "number" and plan.integers and 1 < distinct.size <= _CODES_AT_MOST
    return "code" if few and distinct[-1] - distinct[0] + 1 > 2 * distinct.size else plan.kind


def _known(kind: Kind, distinct: Floats, often: NDArray[np.int64]) -> tuple[Floats, float]:
    """Return the values that are stored as known, and the share of rows that have them.

    If there are too many values, the most frequent are stored.
    """
    if kind not in ("code", "text") or not distinct.size:
        return np.zeros(0), 1.0
    kept = np.argsort(-often, kind="stable")[: VALUE_BYTES // 8]
    return np.sort(distinct[kept]), float(often[kept].sum() / often.sum())


def _quantiles(in_order: Floats) -> Floats:
    """Return the quantiles of values that are in ascending order. Each quantile is one of the values."""
    return in_order[np.maximum(-(-in_order.size * np.arange(BINS + 1) // BINS) - 1, 0)]


def _longest_run(extremes: tuple[Floats, Floats]) -> int:
    """Return the length of the longest run of hours with a single value. Hours without values are skipped."""
    low, high = extremes
    longest, since, value = 0, -1, np.nan
    for hour in np.flatnonzero(low <= high).tolist():
        if low[hour] != high[hour]:
            since = -1
            continue
        if since < 0 or low[hour] != value:
            since, value = hour, low[hour]
        longest = max(longest, hour - since + 1)
    return longest


def _normal_null_run(null: NDArray[np.bool_], spread: Spread, hours: _ReferenceHours) -> float:
    """Return how many hours a run of many nulls may last and still be normal; see `null_runs.normal_run`."""
    rows, nulls = (hours.sums(np.asarray(one, np.float64)).astype(np.int64) for one in (np.ones(null.size), null))
    usual = np.array([spread.high_at(1, hours.first + hour) for hour in range(hours.count)])
    return normal_run(null_runs(rows[::-1], nulls[::-1], usual[::-1]), hours.count / 24)


def _limits(
    values: Floats, extremes: tuple[Floats, Floats], quantiles: Floats, hours: _ReferenceHours
) -> tuple[float, float]:
    """Return the limits beyond which a number is extreme, see `proportion.limits`.

    They are computed from the newest four weeks, and then widened to the smallest and largest values of earlier days.
    Earlier values do not count if they are extreme by the limits that are computed from all days.
    """
    low, high = extremes
    days = hours.count // 24
    if days >= 3:
        cut = hours.count - days * 24
        low, high = low[cut:].reshape(days, 24).min(axis=1), high[cut:].reshape(days, 24).max(axis=1)
    low, high = low[np.isfinite(low)], high[np.isfinite(high)]
    if not low.size:
        low, high = quantiles[:1], quantiles[-1:]
    smallest, lower, middle, upper = (float(quantiles[place]) for place in (0, 2, BINS // 2, BINS - 2))
    of_all = smallest, lower, middle, upper
    least, most = limits(low, high, of_all)
    low, high = (of.reduceat(values, hours.day_starts) for of in (np.fmin, np.fmax))  # NaN on days without values
    low, high = low[~np.isnan(low)], high[~np.isnan(high)]
    lowest, highest = limits(low, high, of_all)
    return float(low[low >= lowest].min(initial=least)), float(high[high <= highest].max(initial=most))


class _Column(msgspec.Struct, frozen=True, eq=False):
    """A column of a training set, and the bins of its values."""

    kind: Kind
    values: Floats  # shape (rows,), in the order of time; NaN is null
    edges: Floats  # shape (bins - 1,)
    counts: NDArray[np.int64]  # shape (bins,)
    hours: _ReferenceHours

    @property
    def null(self) -> NDArray[np.bool_]:
        return np.isnan(self.values)


# returns for a length in hours the statistic in each window of this length; NaN: undefined
_OfLength = Callable[[int], Floats]


def _share(column: _Column, mask: NDArray[np.bool_], among: NDArray[np.bool_]) -> tuple[_OfLength, float]:
    """Return which share of the rows in `among` is in `mask`: for windows, and for all rows together."""
    hours = column.hours
    marked, rows = hours.sums(mask.astype(np.float64)), hours.sums(among.astype(np.float64))

    def of_length(length: int) -> Floats:
        total = hours.windows(rows, length)
        return np.where(total >= LEAST_ROWS, hours.windows(marked, length) / np.maximum(total, 1.0), np.nan)

    return of_length, float(mask.sum() / max(among.sum(), 1))


def _null_share(column: _Column) -> tuple[_OfLength, float] | None:
    return _share(column, column.null, np.ones(len(column.values), np.bool_))


def _new_share(column: _Column) -> tuple[_OfLength, float] | None:
    """Return which share of the rows in the training set's newer half has values that the older half does not have.

    If a profile cannot store all values of the older half, only the most frequent ones count as old, because live
    values, too, are only compared with stored ones.
    """
    if column.kind not in ("code", "category", "text"):
        return None
    half, null = len(column.values) // 2, column.null
    known, often = np.unique(column.values[:half][~null[:half]], return_counts=True)
    known = known if column.kind == "category" else _known(column.kind, known, often)[0]
    newer = np.arange(len(column.values)) >= half
    return _share(column, newer & ~null & ~np.isin(column.values, known), newer)


def _distance(column: _Column) -> tuple[_OfLength, float] | None:
    """Return the Kolmogorov-Smirnov distance between the values in a window and all values."""
    hours, counts, width = column.hours, column.counts, column.counts.size
    if column.kind in ("text", "time") or not counts.sum():
        return None
    values = column.values[hours.rows]
    there = ~np.isnan(values)
    places = hours.hour[there] * width + np.searchsorted(column.edges, values[there])
    table = np.bincount(places, minlength=hours.count * width).reshape(hours.count, width)
    whole = np.cumsum(counts / counts.sum())

    def of_length(length: int) -> Floats:
        sums = hours.windows(table.astype(np.float64), length)
        total = sums.sum(axis=1)
        found = np.abs(np.cumsum(sums, axis=1) / np.maximum(total, 1.0)[:, None] - whole).max(axis=1)
        return np.where(total >= LEAST_ROWS, found, np.nan)

    return of_length, 0.0


# The statistics whose variation is part of the profile. A function returns None if its statistic does not apply to the
# column. `inputs.checks` computes the same statistics of live data from hourly counts.
_STATISTICS: dict[Statistic, Callable[[_Column], tuple[_OfLength, float] | None]] = {
    "null": _null_share,
    "strange": _new_share,
    "distance": _distance,
}


def _spreads(column: _Column) -> dict[Statistic, Spread]:
    """Return the variation of each statistic that applies to the column."""
    found = {name: statistic(column) for name, statistic in _STATISTICS.items()}
    return {name: column.hours.spread(*one) for name, one in found.items() if one is not None}


def _pairs(rows: Rows) -> tuple[Pair, ...]:
    """Return the pairs of columns that are usually null together. Those with the most nulls come first."""
    null = np.packbits(np.isnan(rows.values).T, axis=1)  # one bit for each row, because counting bits is fast
    both = np.array([np.bitwise_count(null & one).sum(axis=1, dtype=np.int64) for one in null])
    alone = np.diag(both)
    either = alone[:, None] + alone[None, :] - both
    first, second = np.nonzero(np.triu((either >= _TOGETHER_ROWS) & (both >= _TOGETHER * either), 1))
    order = np.argsort(-either[first, second], kind="stable")[:_PAIRS_AT_MOST]
    chosen: Sequence[tuple[int, int]] = list(zip(first[order].tolist(), second[order].tolist(), strict=True))
    return tuple(Pair(a, b, int(either[a, b]), int(both[a, b])) for a, b in chosen)
