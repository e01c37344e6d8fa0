"""Checks of the traffic: requests that stopped, doubled, or are repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec
import numpy as np

from trimtab.core.time import HOUR_US, format_time
from trimtab.monitoring.inputs.checks.findings import ENOUGH, Finding, ago, evidence_above, percent
from trimtab.monitoring.profiles.profile_records import Floats, InputProfile

KEPT_H = 60 * 24  # how many hours of traffic are kept
_WEEK_H, _DAY_H = 168, 24
_LEARNT_H = 48  # checks need this many hours of traffic
_MISSED = 30.0  # traffic has stopped only if at least this many requests were expected meanwhile
_WINDOW_H, _ROWS = 6, 60  # traffic is compared over windows of this many hours, with at least this many requests
# A finding begins at `_DOUBLE` times the normal number of requests or, if that is more, at 1.25 times the high end of
# earlier ratios. The excess must also be at least `_MANY` times the normal number of a mean window, because in quiet
# hours a few requests are a large ratio. The finding ends below `_STILL` times the normal number.
_DOUBLE, _MANY, _STILL = 1.7, 0.5, 1.35
_MORE = 0.2  # the share of duplicates, or of repeated questions, must exceed the normal share by this


class TrafficHour(msgspec.Struct, frozen=True, array_like=True):
    """The live requests of one hour."""

    rows: int
    distinct: int  # number of different request ids
    questions: int = 0  # number of different questions (requests without their key and time); 0: not counted
    asked_again: int = 0  # number of questions that came more than once


def traffic_findings(
    hours: Mapping[int, TrafficHour],
    now_us: int,
    last_us: int | None,
    profile: InputProfile | None,
    *,
    doubled: bool = False,
    repeated: bool = False,
    is_repeating: Callable[[], Callable[[int], bool]] = lambda: lambda at_us: False,
) -> list[Finding]:
    """Return findings about the number of requests, and about requests that are repeated.

    Args:
        hours: Closed hours with requests, of the newest 60 days.
        last_us: When the newest request came; None if there never was a request.
        profile: The profile of the version's training rows. It gives the weekly pattern until about three weeks of
            traffic are known.
        doubled: Whether a finding of doubled traffic is open. It ends when traffic is normal again.
        repeated: Whether a finding of repeated requests is open. It goes on through hours that cannot show a
            repetition, for up to a day.
        is_repeating: Returns a function that says of a time whether requests of that time were found to be repeated.
            Hours with such times do not show what is normal. Only called if requests seem to be repeated now, or if
            `repeated` is set.
    """
    if not hours or last_us is None or max(hours) - min(hours) < _LEARNT_H:
        return []
    counts = _Hours(hours)
    stopped = _stopped(counts, now_us, last_us)
    return stopped or [*_doubled(counts, profile, stands=doubled), *_repeated(hours, is_repeating, stands=repeated)]


class _Hours:
    """Requests by hour, as an array without gaps."""

    def __init__(self, hours: Mapping[int, TrafficHour]) -> None:
        self.first, self.last = min(hours), max(hours)
        self.rows = np.zeros(self.last - self.first + 1)
        self.rows[np.fromiter(hours, np.int64, len(hours)) - self.first] = [one.rows for one in hours.values()]

    def longest_gap(self) -> int:
        """Return the length of the longest run of hours without requests in the last four weeks."""
        busy = np.flatnonzero(self.rows[-4 * _WEEK_H :])
        return int(np.diff(busy).max(initial=1)) - 1

    def usual(self, hours: int = 0) -> Floats:
        """Return for each hour the usual number of requests, also for `hours` hours that follow the known ones.

        It is the median of the same hour of the week in the four weeks before. If fewer than three of these are known,
        it is the median of the same hour on the seven days before; NaN if fewer than two of those are known.
        """
        found = np.full(self.rows.size + hours, np.nan)
        # from the fourth week on, the same hour of at least three weeks is known
        for step, most, least, size in ((_DAY_H, 7, 2, min(found.size, 3 * _WEEK_H)), (_WEEK_H, 4, 3, found.size)):
            before = np.full((most, size), np.nan)
            for n in range(1, most + 1):
                part = self.rows[: max(size - n * step, 0)]
                before[n - 1, n * step : n * step + part.size] = part
            counts = (~np.isnan(before)).sum(axis=0)
            enough = np.flatnonzero(counts >= least)
            in_order, of = np.sort(before[:, enough], axis=0), counts[enough]  # NaN is sorted last
            places = np.arange(enough.size)
            found[enough] = (in_order[(of - 1) // 2, places] + in_order[of // 2, places]) / 2.0
        return found


def _stopped(counts: _Hours, now_us: int, last_us: int) -> list[Finding]:
    age_us = now_us - last_us
    usual_us = (counts.longest_gap() + 1) * HOUR_US
    if age_us < 2 * usual_us + HOUR_US:
        return []
    hours = min(now_us // HOUR_US - counts.last - 1, _WEEK_H)
    missed = float(np.nansum(counts.usual(hours)[counts.rows.size :]))
    if missed < _MISSED:
        return []
    evidence = {"hours": age_us / HOUR_US, "usual_hours": usual_us / HOUR_US, "missed": missed}
    message = (
        f"No request for {ago(age_us)}, the last one at {format_time(last_us)[:16]}; the usual gap is at most "
        f"{ago(usual_us)}, and about {missed:,.0f} requests were expected. Check the clients and the network."
    )
    return [Finding("traffic_stopped", "traffic", last_us, evidence, message)]


def _doubled(counts: _Hours, profile: InputProfile | None, *, stands: bool) -> list[Finding]:
    """Find far more requests than normal in the newest window and, unless `stands`, in one of the two before it."""
    expected = _expected(counts, profile)
    if expected is None:
        return []
    window = (counts.first + np.arange(counts.rows.size)) // _WINDOW_H  # windows begin at fixed times
    window -= window[0]
    rows, usual = np.bincount(window, counts.rows), np.bincount(window, expected)
    if (counts.last + 1) % _WINDOW_H:
        rows, usual = rows[:-1], usual[:-1]
    judged = np.flatnonzero((rows >= _ROWS) & (usual >= _ROWS / 4))
    ratio_of = rows[judged] / usual[judged]
    before, newest = ratio_of[:-3][-56:], ratio_of[-3:]
    if before.size < 4:
        return []
    high = float(np.sort(before)[-1 - before.size // 14])
    many = (rows - usual)[judged][-3:] >= _MANY * usual[judged].mean()
    hits = (newest >= (_STILL if stands else max(_DOUBLE, 1.25 * high))) & (many | stands)
    if not hits[-1] or (hits.sum() < 2 and not stands):
        return []
    onset = (counts.first // _WINDOW_H + int(judged[-3:][hits][0])) * _WINDOW_H
    ratio = float(np.median(newest[hits]))
    evidence = {"ratio": ratio, "usual_high": high}
    message = (
        f"{ratio:.1f} times as many requests as usual since {format_time(onset * HOUR_US)[:16]} (normal is at most "
        f"{high:.1f} times). Check whether a client sends requests twice, or whether there are new users."
    )
    return [Finding("traffic_doubled", "traffic", onset * HOUR_US, evidence, message)]


def _expected(counts: _Hours, profile: InputProfile | None) -> Floats | None:
    """Return the expected number of requests in each hour; None if it is not known.

    It is the usual number (see `_Hours.usual`). Until about three weeks of traffic are known, it is the weekly pattern
    of the training rows, multiplied by a factor: for each day, the number of requests is divided by the number in the
    pattern, and the median over days is taken.
    """
    hours = counts.first + np.arange(counts.rows.size)
    if counts.rows.size >= 3 * _WEEK_H + _DAY_H:
        return np.asarray(np.nan_to_num(counts.usual()), np.float64)
    shape = np.full(_WEEK_H, np.nan) if profile is None else profile.week
    if np.isnan(shape).any():
        return None
    base: Floats = shape[hours % _WEEK_H]
    days = counts.rows.size // _DAY_H
    cut = counts.rows.size - days * _DAY_H
    level = counts.rows[cut:].reshape(days, _DAY_H).sum(axis=1) / np.maximum(
        base[cut:].reshape(days, _DAY_H).sum(axis=1), 1e-9
    )
    scaled: Floats = base * float(np.median(level[:-1] if days > 2 else level))
    return scaled


class _HourGroup(msgspec.Struct, frozen=True):
    """Some hours that together have enough requests."""

    first: int
    last: int
    hours: int  # number of hours with requests
    rows: int
    distinct: int
    questions: int
    asked_again: int

    @property
    def share(self) -> float:
        """The share of requests whose id already occurred in the same hour."""
        return 1.0 - self.distinct / self.rows

    @property
    def again(self) -> float:
        """The share of questions that came more than once in an hour."""
        return self.asked_again / max(self.questions, 1)


def _together(hours: Mapping[int, TrafficHour]) -> Iterator[_HourGroup]:
    """Yield groups of hours, newest first. Hours are merged until a group has enough requests."""
    part: list[TrafficHour] = []
    last = rows = 0
    for hour in sorted(hours, reverse=True):
        last = last if part else hour
        part.append(hours[hour])
        rows += part[-1].rows
        if rows >= _ROWS / 2:
            counted = all(one.questions for one in part)
            questions, again = (sum(one.questions for one in part), sum(one.asked_again for one in part))
            distinct = sum(one.distinct for one in part)
            yield _HourGroup(hour, last, len(part), rows, distinct, *((questions, again) if counted else (0, 0)))
            part, rows = [], 0


def _repeated(
    hours: Mapping[int, TrafficHour], is_repeating: Callable[[], Callable[[int], bool]], *, stands: bool
) -> list[Finding]:
    """Return a finding if ids or questions of requests are repeated within an hour more often than normal."""
    groups = _together(hours)
    newest = list(islice(groups, 3))
    if max(sum(one.share >= _MORE for one in newest), sum(one.again >= _MORE for one in newest)) < 2 and (
        not stands or not newest
    ):
        return []
    repeating, rest = is_repeating(), list(groups) if stands else groups
    recent = [one for one in rest if one.last > newest[0].last - _DAY_H] if stands else []
    kept = (one for one in rest if not (repeating(one.first * HOUR_US) or repeating(one.last * HOUR_US)))
    before = list(islice(kept, 14 * _DAY_H))
    high = _high([one.share for one in before])
    hits = [one for one in newest if one.share >= high + _MORE]
    if len(hits) >= 2 and hits[0] is newest[0]:
        share, onset_us = hits[0].share, hits[-1].first * HOUR_US
        evidence = {"share": share, "usual_high": high}
        said = (
            f"{percent(share)} of the requests since {format_time(onset_us)[:16]} repeat another request of the same "
            f"hour; normal is at most {percent(high)}. Check for clients that retry, or a queue read twice."
        )
    elif again := _asked_again([*newest, *recent], [one for one in before if one.questions], stands=stands):
        share, high, onset_us = again
        evidence = {"asked_again": share, "usual_high": high}
        said = (
            f"{percent(share)} of the questions since {format_time(onset_us)[:16]} came more than once within "
            f"an hour, under different ids; normal is at most {percent(high)}. Check for clients that retry under a "
            "new id, two senders of the same requests, or a replay."
        )
    else:
        return []
    return [Finding("duplicates", "traffic", onset_us, evidence, said)]


def _asked_again(
    newest: Sequence[_HourGroup], before: Sequence[_HourGroup], *, stands: bool
) -> tuple[float, float, int] | None:
    """Return the share of repeated questions, the highest normal one, and since when it is high; None if it is normal.

    An open finding ends with the first hours that show no repetition although they could. Hours with too few questions,
    or with a lost column, cannot.

    A question that comes many times is counted once, because many users may have sent it at once. If there are more
    requests than ever before, the normal share grows in proportion.
    """
    if not before:
        return None
    usual, busiest = _high([one.again for one in before]), _high([one.rows / one.hours for one in before])

    def high_of(one: _HourGroup) -> float:
        return usual * max(1.0, one.rows / one.hours / busiest)

    if stands:
        newest = [n for n in newest if n.questions and evidence_above(n.questions, n.questions, high_of(n)) >= ENOUGH]
    hits = [
        one
        for one in newest[:3]
        if one.again >= high_of(one) + _MORE and evidence_above(one.asked_again, one.questions, high_of(one)) >= ENOUGH
    ]
    if len(hits) < 2 or hits[0] is not newest[0]:
        return None
    return hits[0].again, high_of(hits[0]), hits[-1].first * HOUR_US


def _high(values: Sequence[float]) -> float:
    """Return the largest value after the highest one in fourteen are left out; 0 if there are no values."""
    ordered = sorted(values)
    return ordered[-1 - len(ordered) // 14] if ordered else 0.0
