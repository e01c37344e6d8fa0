"""Checks of a column's distribution against the profile: another unit, swapped columns, drift (info only)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.records import Signal
from trimtab.core.time import HOUR_US
from trimtab.monitoring.inputs.checks.findings import Finding, Window, percent, windows
from trimtab.monitoring.inputs.checks.unit_maps import UnitMap, has_name, is_gradual, unit_maps
from trimtab.monitoring.inputs.input_hours import HourCounts, Layout, SummedCounts
from trimtab.monitoring.profiles.profile_records import BINS, ColumnProfile, Floats

SHAPE_ROWS = 100  # how many rows a window must have
_FEW_A_DAY = 300  # if the newest 24 hours have fewer rows, half of `SHAPE_ROWS` is enough
# The usual distance of a column from its profile is the high end of its distances in windows of the training rows
# (`Spread`). The column is off if its distance is at least `_FAR` and at least the usual one plus `_ABOVE` (`_NOISE`,
# divided by the square root of the number of rows, is added to both limits), or if at least 30 % of its values (this is
# `_FAR`, too) are far outside (`_BEYOND`).
_FAR, _ABOVE = 0.3, 0.15
# a sample from the same distribution has a Kolmogorov-Smirnov distance above this, divided by the square root of the
# number of rows, in 5 % of cases
_NOISE = 1.36
_SUDDEN = 0.3  # a change is sudden if the distance in the same hours a day earlier was smaller by at least this
# values fit a profile if their distance is at most the usual one (plus noise); the usual one counts as at least 0.1 and
# at most this (see `_fits`)
_MOST_FIT = 0.15
_SHAPELESS = 0.35  # if the usual distance is above this, a few hours of the column have no typical shape
_BEYOND = 0.3  # a value is far outside if it leaves the training range by this share of the range's width
_DISTINCT = 12  # a column with fewer distinct values has no shape to compare
_DRIFTED = 0.1  # drift begins if the distance of a day is at least the usual one plus this, and at least twice this
_ATOM = 0.5  # if one value has a larger share of the rows than this, the column has no shape to compare
_SAMPLED = 30  # a check of a column's sampled values needs at least this many of them
# In columns without a typical shape (`_SHAPELESS`), values that were converted back are compared with those of the day
# before. Their misfit is the largest difference of their quartiles, divided by the interquartile range of the day
# before, plus the absolute logarithm of the ratio of the two interquartile ranges. They fit if it is at most this.
_MISS = 3.0
_INSIDE = 0.95  # after values are converted back, at least this share must lie within the training range


class _Off(msgspec.Struct, frozen=True, eq=False):
    """A column of numbers whose distribution is far from the profile's, or which has many values far outside."""

    place: int  # the index of the column in the profile
    distance: float  # from the profile, in the newest window; see `distances`
    usual: float  # the usual distance in windows of this length
    values: Floats  # sampled values of the newest window
    window: Window
    outside: bool  # whether many values lie far outside the training range
    windows: int = 1  # in how many of the newest three windows the column is off
    stands: bool = False  # whether a finding "units" is open for the column


def shape_findings(
    layout: Layout, hours: Mapping[int, HourCounts], standing: Mapping[tuple[str, str], Signal]
) -> list[Finding]:
    """Find columns that came in another unit, were swapped, or drift.

    The checks compare the distribution functions of the newest hours and of the profile (Kolmogorov-Smirnov distance).
    Only a sudden change is taken for another unit or swapped columns. Other changes that last for days are drift.

    Args:
        layout: The layout of the version's profile.
        hours: The summaries of the newest week, by hour.
        standing: The open findings by kind and subject. Such a finding goes on even if the change is no longer sudden.
    """
    least_rows = _least_rows(hours)
    newest = windows(hours, least_rows)
    if not newest:
        return []
    profile = layout.profile
    off = _all_off(layout, newest, least_rows, standing)
    sudden = {one.place for one in off if one.distance - _day_before_distance(layout, one, hours) >= _SUDDEN}
    swapped = _swapped(layout, off, sudden, standing)
    taken = {profile.columns[place].name for found in swapped for place in found[1]}
    findings = [finding for finding, _ in swapped]
    for one in off:
        column = profile.columns[one.place]
        if column.name in taken:
            continue
        before = _day_before(column, one, hours) if one.outside else None
        # if a few hours of a column have no typical shape, it must be off in all windows
        lasts = one.usual <= _SHAPELESS or one.windows == len(newest)
        if one.stands or (lasts and (before is not None or one.place in sudden)):
            course = _course(one, hours)
            findings += _unit(layout, one, before, course) or (
                [_still(column, one)] if one.stands and one.outside else []
            )
    known = {finding.subject for finding in findings} | _subjects(taken)
    for (kind, _), signal in standing.items():
        if kind == "units" and signal.subject not in known:
            findings += _goes_on(layout, signal, hours, newest[0])
    known = {finding.subject for finding in findings}
    return findings + [
        drift for drift in _drift(layout, hours, standing) if drift.subject not in known | _subjects(taken)
    ]


def _least_rows(hours: Mapping[int, HourCounts]) -> int:
    newest = max(hours, default=0)
    of_a_day = sum(counts.rows for hour, counts in hours.items() if hour > newest - 24)
    return SHAPE_ROWS if of_a_day >= _FEW_A_DAY else SHAPE_ROWS // 2


def _subjects(names: Collection[str]) -> set[str]:
    return {f"column {name}" for name in names}


def distances(layout: Layout, counts: SummedCounts) -> tuple[Floats, NDArray[np.int64]]:
    """Return the distance of each column from the profile in some hours, and its number of values, shapes (columns,).

    The distance is the largest difference of the two distribution functions; 0 if either has no values.
    """
    here = layout.by_bin(counts.bins)
    rows = here.sum(axis=1)
    away = np.abs(np.cumsum(here / np.maximum(rows, 1)[:, None], axis=1) - layout.usual_shares).max(axis=1)
    return np.where((rows > 0) & layout.usual.any(axis=1), away, 0.0), rows


def _highs(layout: Layout, window: Window) -> Floats:
    """Return the usual distance of each column for a window of this length and hour, shape (columns,); NaN: unknown."""
    spreads = (column.spreads.get("distance") for column in layout.profile.columns)
    return np.array([math.nan if one is None else one.high_at(window.hours, window.last) for one in spreads])


def _all_off(
    layout: Layout, newest: list[Window], least_rows: int, standing: Collection[tuple[str, str]]
) -> list[_Off]:
    """Return the numeric columns that are off in the newest window and in at least one of the two before it.

    If a finding "units" is open for a column, the newest window is enough.
    """
    columns = layout.profile.columns
    judged = np.array([one.is_number and one.distinct >= _DISTINCT and one.top_share <= _ATOM for one in columns])
    lowest, highest = (
        np.array([math.nan if one is None else one for one in ends])
        for ends in ([one.lowest for one in columns], [one.highest for one in columns])
    )
    hits: dict[int, list[_Off]] = {}
    for window in newest:
        distance, rows = distances(layout, window.counts)
        high = _highs(layout, window)
        there = (~np.isnan(window.sample)).sum(axis=0)
        beyond = _is_beyond(window.sample, lowest, highest).sum(axis=0)
        outside = (there >= _SAMPLED) & (beyond / np.maximum(there, 1) >= _FAR)
        far = distance >= np.maximum(_FAR, high + _ABOVE) + _NOISE / np.sqrt(np.maximum(rows, 1))
        for place in np.flatnonzero(judged & (rows >= least_rows // 2) & (outside | far)).tolist():
            if window is newest[0]:
                hits[place] = []
            if place in hits:
                values = window.sample[:, place]
                values = values[~np.isnan(values)]
                hits[place].append(
                    _Off(place, float(distance[place]), float(high[place]), values, window, bool(outside[place]))
                )
    found = []
    for place, ones in sorted(hits.items()):
        stands = ("units", columns[place].subject) in standing
        if ones[0].values.size >= _SAMPLED and (len(ones) > 1 or stands):
            window = msgspec.structs.replace(ones[0].window, first=ones[-1].window.first)
            found.append(msgspec.structs.replace(ones[0], window=window, windows=len(ones), stands=stands))
    return found


def _is_beyond(values: Floats, lowest: Floats, highest: Floats) -> NDArray[np.bool_]:
    """Return a mask of the values that are far outside the training range of their column."""
    room = _BEYOND * (highest - lowest)
    found: NDArray[np.bool_] = (values < lowest - room) | (values > highest + room)
    return found


def _is_outside(values: Floats, column: ColumnProfile) -> NDArray[np.bool_]:
    """Return a mask of the values that are outside the training range."""
    assert column.lowest is not None  # a column of numbers
    assert column.highest is not None
    found: NDArray[np.bool_] = (values < column.lowest) | (values > column.highest)
    return found


def _distance(values: Floats, column: ColumnProfile, edges: Floats) -> float:
    """Return the distance of sampled values from the profile."""
    usual = np.frombuffer(column.counts, "<i8")
    here = np.bincount(np.searchsorted(edges, values), minlength=usual.size)
    return float(np.abs(np.cumsum(here / max(values.size, 1)) - np.cumsum(usual / usual.sum())).max())


def _fits(distance: float, one: _Off, high: float) -> bool:
    """Return whether values fit a profile, given their distance from it and the usual distance `high`.

    The values were converted back, or the profile is that of another column. The limit is `high`, but at least 0.1 and
    at most `_MOST_FIT`, plus the noise of a sample of this size. The distance must also be at most half of
    `one.distance`, that of the column's values from its own profile.
    """
    allowed = max(min(high, _MOST_FIT), 0.1) + _NOISE / math.sqrt(max(one.values.size, 1))
    return distance <= allowed and distance <= 0.5 * one.distance


def _swapped(
    layout: Layout, off: list[_Off], sudden: set[int], standing: Collection[tuple[str, str]]
) -> list[tuple[Finding, tuple[int, int]]]:
    """Find pairs of columns that suddenly have each other's distribution. Return the indices of the columns, too."""
    found: list[tuple[Finding, tuple[int, int]]] = []
    taken: set[int] = set()
    columns = layout.profile.columns
    for n, one in enumerate(off):
        for other in off[n + 1 :]:
            subject = f"columns {columns[one.place].name} and {columns[other.place].name}"
            came = {one.place, other.place} <= sudden or ("swapped", subject) in standing
            if {one.place, other.place} & taken or not came:
                continue
            as_other = _distance(one.values, columns[other.place], layout.edges[other.place])
            as_one = _distance(other.values, columns[one.place], layout.edges[one.place])
            if not (_fits(as_other, one, other.usual) and _fits(as_one, other, one.usual)):
                continue
            taken |= {one.place, other.place}
            first, second = columns[one.place].name, columns[other.place].name
            evidence = {"distance": one.distance, "distance_other": other.distance, "swapped": max(as_other, as_one)}
            message = (
                f"Columns {first} and {second} look swapped since {one.window.said[:16]}: each has the distribution "
                f"that the other had in training (distance {as_other:.2f} and {as_one:.2f} to the other's, "
                f"{one.distance:.2f} and {other.distance:.2f} to its own). Check the order in which they are sent."
            )
            finding = Finding("swapped", subject, one.window.onset_us, evidence, message)
            found.append((finding, (one.place, other.place)))
    return found


def _day_before_distance(layout: Layout, one: _Off, hours: Mapping[int, HourCounts]) -> float:
    """Return the distance in the same hours of the newest earlier day with enough rows; 0 if there is no such day."""
    for day in range(one.window.hours // 24 + 1, 8):
        last = one.window.last - 24 * day
        parts = [hours[hour] for hour in range(last - one.window.hours + 1, last + 1) if hour in hours]
        if not parts:
            continue
        distance, rows = distances(layout, SummedCounts(parts))
        if rows[one.place] >= _SAMPLED:
            return float(distance[one.place])
    return 0.0


def _day_before(column: ColumnProfile, one: _Off, hours: Mapping[int, HourCounts]) -> Floats | None:
    """Return sampled values of the same hours, and one more at each end, of the newest earlier day that has values.

    The result is empty if that day's sample was dropped. It is None if no day of the last week has values, or if some
    values of that day were outside the training range, too (by more than a tenth of its width): then the column did not
    change suddenly.
    """
    assert column.lowest is not None  # a column of numbers
    assert column.highest is not None
    room = 0.1 * (column.highest - column.lowest)
    for day in range(one.window.hours // 24 + 1, 8):
        first, last = one.window.first - 24 * day - 1, one.window.last - 24 * day + 1
        parts = [hours[hour] for hour in range(first, last + 1) if hour in hours]
        low = min((float(part.low[one.place]) for part in parts), default=np.inf)
        high = max((float(part.high[one.place]) for part in parts), default=-np.inf)
        if low > high:  # no values in these hours
            continue
        if low < column.lowest - room or high > column.highest + room:
            return None
        values = np.concatenate([part.sample[:, one.place] for part in parts])
        there: Floats = values[~np.isnan(values)]
        return there
    return None


def _still(column: ColumnProfile, one: _Off) -> Finding:
    evidence = {"median": float(np.median(one.values))}
    message = (
        f"Column {column.name}: many values are still far outside the range that they had in training; their median "
        f"is {np.median(one.values):,.5g}. Check the unit in which it is sent."
    )
    return Finding("units", column.subject, one.window.onset_us, evidence, message)


def _goes_on(layout: Layout, signal: Signal, hours: Mapping[int, HourCounts], newest: Window) -> list[Finding]:
    """Return an open finding "units" again, if the newest values still have the other unit.

    They do if their median, converted back, is nearer to the median before the change. (That values are in the training
    range again proves nothing: a cold night in Fahrenheit has the numbers of a hot night in Celsius.) A factor that is
    not a known conversion may be a guess, for example for temperatures near 0. Then the present median must also be at
    least as near to the median when the finding began as to the median before the change.
    """
    place = next((n for n, one in enumerate(layout.profile.columns) if one.subject == signal.subject), None)
    if place is None or "factor" not in signal.evidence:
        return []
    column, onset = layout.profile.columns[place], signal.onset_us // HOUR_US
    parts = [one.sample[:, place] for hour, one in hours.items() if onset - 24 <= hour < onset]
    before = np.concatenate([np.zeros(0), *parts])
    before = before[~np.isnan(before)]
    usual = np.frombuffer(column.quantiles, "<f8") if before.size < _SAMPLED else before
    values = newest.sample[:, place]
    values = values[~np.isnan(values)]
    if not values.size:
        return []
    was, now = float(np.median(usual)), float(np.median(values))
    found = UnitMap("", signal.evidence["factor"], signal.evidence["shift"])
    back, then = found.back(np.array([now])), signal.evidence.get("median", now)
    if abs(float(back[0]) - was) >= abs(now - was) or (not has_name(found) and abs(now - then) > abs(now - was)):
        return []
    message = (
        f"Column {column.name} still seems to be in another unit: its median is {now:,.5g}, or {float(back[0]):,.5g} "
        f"if converted back; before the change it was {was:,.5g}. Check the unit in which it is sent."
    )
    evidence = {"median": now, "median_before": was}
    return [Finding("units", column.subject, newest.onset_us, evidence, message)]


def _course(one: _Off, hours: Mapping[int, HourCounts]) -> list[Floats]:
    """Return the column's sampled values by hour, oldest first, from a day before the first window that is off."""
    parts = (hours[hour].sample[:, one.place] for hour in sorted(hours) if hour >= one.window.first - 24)
    return [values[~np.isnan(values)] for values in parts]


def _unit(layout: Layout, one: _Off, before: Floats | None, course: Sequence[Floats]) -> list[Finding]:
    """Find another unit: a conversion (such as Celsius to Fahrenheit) or a large factor explains the new values.

    If a few hours of the column have no typical shape (`_SHAPELESS`), its values are compared not with the profile but
    with the day before (`before`). This needs `_SAMPLED` values of that day, and many new values that are far outside.
    """
    column = layout.profile.columns[one.place]
    usual = np.frombuffer(column.quantiles, "<f8")
    if one.outside and one.usual > _SHAPELESS and before is not None and before.size >= _SAMPLED:
        return _moving_unit(column, one, before, course)
    maps = unit_maps(column, usual, one.values, None if one.stands else course)
    mapped = [(_distance(found.back(one.values), column, layout.edges[one.place]), found) for found in maps]
    if one.usual > _SHAPELESS or not mapped:
        return []
    distance, best = min(mapped, key=lambda one: one[0])
    inside = 1.0 - float(_is_outside(best.back(one.values), column).mean())
    if inside < _INSIDE or not _fits(distance, one, one.usual):
        return []
    if not one.stands and is_gradual(best, float(usual[BINS // 2]), course):
        return []
    evidence = {"factor": best.a, "shift": best.b, "distance": one.distance, "mapped": distance}
    message = (
        f"Column {column.name} looks converted by x -> {best.said} since {one.window.said[:16]}: the median is "
        f"{np.median(one.values):,.5g}, in training {usual[BINS // 2]:,.5g}; converted back, its distribution fits "
        f"again (distance {distance:.2f} instead of {one.distance:.2f}). Check the unit in which it is sent."
    )
    return [Finding("units", column.subject, one.window.onset_us, evidence, message)]


def _moving_unit(column: ColumnProfile, one: _Off, before: Floats, course: Sequence[Floats]) -> list[Finding]:
    quarters = (0.25, 0.5, 0.75)
    then, now = np.quantile(before, quarters), np.quantile(one.values, quarters)
    width = max(float(then[2] - then[0]), 0.05 * float(np.ptp(before)), 1e-12)
    usual = np.quantile(before, np.arange(BINS + 1) / BINS)
    misses = []
    for found in unit_maps(column, usual, one.values, None if one.stands else course):
        back = np.sort(found.back(now))
        ratio = max(float(back[2] - back[0]), 1e-12) / width
        misses.append((float(np.abs(back - then).max()) / width + abs(math.log(ratio)), found))
    miss, best = min(misses, key=lambda one: one[0], default=(math.inf, None))
    if best is None or miss > _MISS:
        return []
    inside = 1.0 - float(_is_outside(best.back(one.values), column).mean())
    if inside < _INSIDE or (not one.stands and is_gradual(best, float(then[1]), course)):
        return []
    evidence = {"factor": best.a, "shift": best.b, "median": float(now[1]), "median_before": float(then[1])}
    message = (
        f"Column {column.name} looks converted by x -> {best.said} since {one.window.said[:16]}: the median is "
        f"{now[1]:,.5g}, before the change it was {then[1]:,.5g}; converted back, {percent(inside)} of its values are "
        "within the range of training. Check the unit in which it is sent."
    )
    return [Finding("units", column.subject, one.window.onset_us, evidence, message)]


def _drift(layout: Layout, hours: Mapping[int, HourCounts], standing: Collection[tuple[str, str]]) -> list[Finding]:
    """Find columns whose distance from the profile is unusual on the newest day and on one of the two days before.

    This is drift and no fault. If 24 hours have too few rows, a "day" is longer.
    """
    days = windows(hours, SHAPE_ROWS, least_h=24)
    columns = layout.profile.columns
    stands = np.array([("shape", column.subject) in standing for column in columns], np.bool_)
    varies = np.array([column.distinct >= 2 for column in columns], np.bool_)
    of_column: dict[int, list[tuple[Window, float, float]]] = {}
    for window in days:
        distance, rows = distances(layout, window.counts)
        high = _highs(layout, window)
        # open findings have a lower limit, so that they do not end and begin again
        least = np.where(stands, high, np.maximum(high + _DRIFTED, 2 * _DRIFTED))
        off = varies & (rows >= SHAPE_ROWS // 2) & (distance >= least + _NOISE / np.sqrt(np.maximum(rows, 1)))
        for place in np.flatnonzero(off).tolist():
            if window is days[0]:
                of_column[place] = []
            if place in of_column:
                of_column[place].append((window, float(distance[place]), float(high[place])))
    found = []
    for place, hits in sorted(of_column.items()):
        column = columns[place]
        if len(hits) < 2 and not stands[place]:
            continue
        newest, away, usual = hits[0]
        evidence = {"distance": away, "usual_high": usual}
        message = (
            f"Column {column.name}: the distribution of its values from {newest.said} differs from training (distance "
            f"{away:.2f}; normal is at most {usual:.2f}). That is drift, and not a fault as long as the quality stays "
            "the same."
        )
        found.append(Finding("shape", column.subject, hits[-1][0].onset_us, evidence, message, severity="info"))
    return found
