"""Checks of single columns against the profile: nulls, new values, constant values, extreme numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np

from trimtab.core.time import HOUR_US
from trimtab.features.frames import REASONS
from trimtab.monitoring.inputs.checks.findings import ENOUGH, Finding, Window, evidence_above, percent, windows
from trimtab.monitoring.inputs.input_hours import HourCounts, SummedCounts
from trimtab.monitoring.profiles.null_runs import GRADED_ROWS, GROSS, MARGIN, null_runs
from trimtab.monitoring.profiles.profile_records import NO_REASON, ColumnProfile, InputProfile, Statistic

GROSS_ROWS = 20  # a window needs at least this many rows for a finding that nearly all values are null or new
_CONSTANT_ROWS, _CONSTANT_H = 30, 3  # a column is constant if it has at least 30 equal values over at least 3 hours
_CONSTANT_NATS = 20.0  # and if the probability of this by coincidence is at most exp(-20)
_LOST_NATS = 7.0  # the probability of this much evidence (see `evidence_above`) by coincidence is about 1 in 1,000
# from this share of nulls in training on, all hours have the highest limit of any hour of the day: nulls come in runs
_OFTEN_NULL = 0.02
_FEW = 0.01  # extreme numbers are red if they are at least this share of the rows
_RANGE_STANDS_H = 12  # a finding of extreme numbers goes on for this many hours after the last of them
# A number is very extreme if it is more than `_FAR` times as far from the middle between the limits as the limits are.
# A finding is also red if the extreme numbers of hours with a very extreme one are in at least the share `_FAR_SHARE`
# of the rows of the newest `_FAR_H` hours.
_FAR, _FAR_SHARE, _FAR_H = 5.0, 0.005, 24
_COUNTS: dict[Statistic, Callable[[SummedCounts, int], int]] = {  # how to count the rows
    "null": lambda counts, place: int(counts.null_rows[place]),
    "strange": lambda counts, place: int(counts.strange[place]),
}
_STALE = frozenset(("no_entity", "not_yet", "outside_window", "expired"))


def column_findings(
    profile: InputProfile, hours: Mapping[int, HourCounts], standing: Collection[tuple[str, str]]
) -> list[Finding]:
    """Return findings about the values of single columns in the newest hours.

    Args:
        profile: The profile of the version's training rows.
        hours: The summaries of the newest week, by hour.
        standing: Kind and subject of the open findings: nulls and new values go on as long as the newest window is
            off (see `_off`), and extreme numbers for half a day after the last one.
    """
    graded, gross = windows(hours, GRADED_ROWS), windows(hours, GROSS_ROWS, 1)
    if not gross:
        return []
    found = _nulls(profile, hours, graded, gross[0], standing)
    for place, column in enumerate(profile.columns):
        found += _new_values(column, place, graded, gross[0], ("new_values", column.subject) in standing)
        found += _constant(column, place, hours)
        found += _range(column, place, hours, stands=("range", column.subject) in standing)
    return found + _joint(profile, graded)


def lost_columns(profile: InputProfile, counts: HourCounts, questions: int) -> list[str]:
    """Return the request columns that lost their values in some hours: too many are null, or all are equal.

    Columns for which this may be random variation are not returned. Rows that repeat a question (a request without its
    key and time) are no further evidence, so only as many rows count as there are different `questions`.
    """
    found = []
    share = min(1.0, questions / max(counts.rows, 1))
    for place, column in enumerate(profile.columns):
        if column.of is None:
            continue
        nulls = counts.null_rows[place]
        still = counts.low[place] == counts.high[place] and 0.0 < column.top_share < 1.0
        stands = still and -share * (counts.rows - nulls) * math.log(column.top_share) >= _LOST_NATS
        usual = column.spreads["null"].most(1)
        evidence = share * evidence_above(nulls, counts.rows, usual)
        gone = nulls >= (usual + MARGIN) * counts.rows and evidence >= _LOST_NATS
        if stands or gone:
            found.append(column.name)
    return found


def _off(
    column: ColumnProfile, statistic: Statistic, place: int, graded: list[Window], gross: Window, *, stands: bool
) -> tuple[Window, int, float] | None:
    """Return the window of a finding, its number of nulls or new ("strange") values, and their highest normal share.

    None: there is no finding. The share is off in a window if it exceeds the high end of the reference windows by a
    margin, with `ENOUGH` evidence. A finding begins if the share is off in the newest window and in one of the two
    before it, or if nearly all values in `gross` are null or new. It goes on as long as the share is off in the newest
    window. The returned window has the counts of the newest window, but begins with the oldest in which it is off.
    """
    spread = column.spreads[statistic]

    def high_of(window: Window) -> float:
        if statistic == "null" and column.null_share >= _OFTEN_NULL:
            return spread.most(window.hours)
        return spread.high_at(window.hours, window.last)

    window, count = gross, _COUNTS[statistic](gross.counts, place)
    high = high_of(window)
    if count >= GROSS * window.rows and high <= 0.6 and evidence_above(count, window.rows, high) >= ENOUGH:
        return window, count, high
    hits = []
    for window in graded:
        high, count = high_of(window), _COUNTS[statistic](window.counts, place)
        margin = min(MARGIN, 0.4 * (1.0 - high))
        least = high + margin
        # new values come in bursts: their share must be three times the normal one, or 3/4 of the way from it to 1
        if statistic != "null":
            least = max(least, min(3.0 * high, high + 0.75 * (1.0 - high)))
        if count >= least * window.rows and evidence_above(count, window.rows, high) >= ENOUGH:
            hits.append((window, count, high))
    if not hits or hits[0][0] is not graded[0] or (len(hits) < 2 and not stands):
        return None
    (newest, count, high), (oldest, *_) = hits[0], hits[-1]
    return Window(oldest.first, newest.last, newest.counts, newest.parts), count, high


def _nulls(
    profile: InputProfile,
    hours: Mapping[int, HourCounts],
    graded: list[Window],
    gross: Window,
    standing: Collection[tuple[str, str]],
) -> list[Finding]:
    """Return findings of too many nulls. Columns that are null because a source's events are missing are one finding.

    If nulls came in runs in training, the present run must also be longer than `ColumnProfile.null_h`.
    """
    found: list[Finding] = []
    order = np.array(sorted(hours, reverse=True), np.int64)
    newest_first = [hours[hour] for hour in order.tolist()]
    rows = np.array([one.rows for one in newest_first], np.int64)
    nulls = np.array([one.null_rows for one in newest_first], np.int64)
    stale: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    for place, column in enumerate(profile.columns):
        stands = any(("nulls", subject) in standing for subject in (column.subject, f"source {column.source}"))
        off = _off(column, "null", place, graded, gross, stands=stands)
        if column.null_h:
            count = int(gross.counts.nulls[place].sum())
            highs = column.spreads["null"].highs_of_hour(order)
            if next(iter(null_runs(rows, nulls[:, place], highs)), 0.0) <= column.null_h:
                off = None
            elif off is None and count >= GROSS * gross.rows:
                off = gross, count, column.spreads["null"].high_at(gross.hours, gross.last)
        if off is None:
            continue
        window, count, high = off
        share = count / window.rows
        now = window.counts.nulls[place] / window.rows
        code = int(np.argmax(now - np.array(column.nulls) / max(column.rows, 1)))
        reason = "null" if code == NO_REASON else REASONS[code]
        evidence = {"share": share, "usual_high": high, "usual": column.null_share, "rows": float(window.rows)}
        said = f"{percent(share)} of its values from {window.said} are null (reason {reason}; {window.rows:,} rows)"
        usual = f"normal is at most {percent(high)}" + (f", for {column.null_h:.0f} h at most" if column.null_h else "")
        message = f"Column {column.name}: {said}; {usual}. Check what fills the column."
        one = Finding("nulls", column.subject, window.onset_us, evidence, message)
        if column.source is not None and reason in _STALE:
            stale.setdefault((column.source, reason), []).append((column.name, one))
        else:
            found.append(one)
    of_sources = [_of_source(source, reason, ones) for (source, reason), ones in stale.items()]
    # a source has one finding of a kind: the one with the largest share of nulls
    worst = {one.subject: one for one in sorted(of_sources, key=lambda one: one.evidence["share"])}
    return found + list(worst.values())


def _of_source(source: str, reason: str, ones: list[tuple[str, Finding]]) -> Finding:
    if reason == "no_entity":
        said, check = "no event of the requested keys was ever known", "how the keys are spelled on both sides"
    else:
        said, check = "its events do not reach the features", "that its events are sent, and for all keys"
    names = [name for name, _ in ones]
    worst = max((one for _, one in ones), key=lambda one: one.evidence["share"])
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    share, high = worst.evidence["share"], worst.evidence["usual_high"]
    evidence = {**worst.evidence, "columns": float(len(names))}
    message = (
        f"Source {source}: {said}: up to {percent(share)} of {shown} are null (reason {reason}); normal is "
        f"at most {percent(high)}. Check {check}."
    )
    return Finding("nulls", f"source {source}", min(one.onset_us for _, one in ones), evidence, message)


def _new_values(column: ColumnProfile, place: int, graded: list[Window], gross: Window, stands: bool) -> list[Finding]:
    if "strange" not in column.spreads:
        return []
    off = _off(column, "strange", place, graded, gross, stands=stands)
    if off is None:
        return []
    window, count, high = off
    only = column.distinct <= 1 and column.kind != "category"  # the training rows had at most one value
    evidence = {"share": count / window.rows, "usual_high": high, "rows": float(window.rows)}
    message = (
        f"Column {column.name}: {percent(count / window.rows)} of its values from {window.said} were never seen in "
        f"training ({window.rows:,} rows); normal is at most {percent(high)}. Check how the values are spelled and "
        "which system sends them."
    )
    return [
        Finding("new_values", column.subject, window.onset_us, evidence, message, severity="info" if only else "red")
    ]


def _constant(column: ColumnProfile, place: int, hours: Mapping[int, HourCounts]) -> list[Finding]:
    """Find a run of hours with a single value, more than three times as long as the longest such run in training."""
    if column.kind == "time" or column.distinct < 2 or column.top_share >= 0.999:
        return []
    value, rows, newest, oldest = math.nan, 0, 0, 0
    for hour in sorted(hours, reverse=True):
        one = hours[hour]
        low, high = float(one.low[place]), float(one.high[place])
        there = one.rows - one.null_rows[place] - (int(one.strange[place]) if column.kind == "category" else 0)
        if not there:
            continue
        if low != high or (rows and low != value):
            break
        newest, oldest, value = newest or hour, hour, low
        rows += there
    long_enough = newest - oldest + 1 >= max(_CONSTANT_H, 3 * column.constant_h + 2) if rows else False
    if not long_enough or rows < _CONSTANT_ROWS or -rows * math.log(column.top_share) < _CONSTANT_NATS:
        return []
    span = newest - oldest + 1
    shown = "" if column.kind in ("text", "category") else f" ({value:g})"
    evidence = {"hours": float(span), "rows": float(rows), "usual_hours": float(column.constant_h)}
    message = (
        f"Column {column.name}: the same value{shown} in all {rows:,} rows of the last {span} h; in training a value "
        f"lasted at most {column.constant_h} h. Check that the sensor or system that sends it still works."
    )
    return [Finding("constant", column.subject, oldest * HOUR_US, evidence, message)]


def _range(column: ColumnProfile, place: int, hours: Mapping[int, HourCounts], *, stands: bool) -> list[Finding]:
    """Find extreme numbers in the two newest hours with rows.

    The finding is red if they are at least two, and at least the share `_FEW` of the rows of their hours, or (see
    `_FAR`) if the newest day has very extreme ones. It goes on for half a day after the last extreme number.
    """
    if column.least is None or column.most is None:
        return []
    newest = sorted(hours)[-2:]
    if stands:
        newest = [hour for hour in sorted(hours) if hour > newest[-1] - _RANGE_STANDS_H]
    hits = [hour for hour in newest if hours[hour].outside[place]]
    if not hits:
        return []
    count, rows = _outside(place, hours, hits)
    red = stands or count >= max(2, _FEW * rows)
    if not red:
        middle, reach = (column.least + column.most) / 2, (column.most - column.least) / 2
        day = [hour for hour in sorted(hours) if hour > newest[-1] - _FAR_H]
        far = [h for h in day if max(hours[h].high[place] - middle, middle - hours[h].low[place]) > _FAR * reach]
        of_day = _outside(place, hours, far)
        red = of_day[0] >= max(2, _FAR_SHARE * sum(hours[hour].rows for hour in day))
        if red:
            hits, (count, rows) = far, of_day
    low, high = min(hours[h].low[place] for h in hits), max(hours[h].high[place] for h in hits)
    worst = float(high if high > column.most else low)
    evidence = {"value": worst, "least": column.least, "most": column.most, "rows": float(count)}
    # training rows may have values beyond the limits, which looked like faults
    least, most = max(column.lowest or 0.0, column.least), min(column.highest or 0.0, column.most)
    all_but_few = "" if (least, most) == (column.lowest, column.highest) else "nearly all "
    message = (
        f"Column {column.name}: extreme values such as {worst:,.6g} in {count:,} of {rows:,} rows; in training "
        f"{all_but_few}the values were {least:,.6g} to {most:,.6g}, and values below {column.least:,.6g} or above "
        f"{column.most:,.6g} are implausible. Check its unit and what measures it."
    )
    return [Finding("range", column.subject, hits[0] * HOUR_US, evidence, message, severity="red" if red else "info")]


def _outside(place: int, hours: Mapping[int, HourCounts], these: list[int]) -> tuple[int, int]:
    """Return the number of extreme numbers in some hours, and the number of rows of these hours."""
    return sum(int(hours[hour].outside[place]) for hour in these), sum(hours[hour].rows for hour in these)


def _joint(profile: InputProfile, graded: list[Window]) -> list[Finding]:
    """Find columns that were null in the same rows in training, and no longer are."""
    found = []
    for place, pair in enumerate(profile.pairs):
        counts = [window.counts.pairs[place] for window in graded]
        apart = [(either, both) for either, both in counts if either >= 20 and both < 0.5 * either]
        if len(apart) < 2:
            continue
        first, second = (profile.columns[one].name for one in (pair.first, pair.second))
        share = float(apart[0][1] / apart[0][0])
        evidence = {"together": share, "usual": pair.both / pair.either}
        message = (
            f"Columns {first} and {second}: both are missing in {percent(share)} of the rows where either is; "
            f"normal is {percent(pair.both / pair.either)}. Check what fills one column without the other."
        )
        subject, onset_us = f"columns {first} and {second}", graded[-1].onset_us
        found.append(Finding("joint_nulls", subject, onset_us, evidence, message, severity="info"))
    return found
