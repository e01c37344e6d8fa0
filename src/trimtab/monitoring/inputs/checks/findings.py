"""Findings of input checks, and the windows of hours that checks read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import msgspec
import numpy as np

from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, format_time
from trimtab.monitoring.inputs.input_hours import HourCounts, SummedCounts
from trimtab.monitoring.profiles.profile_records import Floats

LONGEST_H = 7 * 24  # to have enough rows, a window merges at most this many hours
# a share counts as risen if there is at least this much evidence (in nats); the probability of an error is below 1e-6
ENOUGH = 14.0
Kind: TypeAlias = Literal[
    "nulls", "new_values", "constant", "range", "units", "swapped", "shape", "joint_nulls",
    "feed_stopped", "feed_late", "feed_clock", "feed_stuck", "traffic_stopped", "traffic_doubled", "duplicates",
    "labels_missing", "one_class", "label_shift",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)


class Finding(msgspec.Struct, frozen=True):
    """Something in the data that differs from what is normal."""

    kind: Kind
    subject: str
    onset_us: int
    evidence: dict[str, float]
    message: str
    severity: Literal["red", "info"] = "red"

    def signal(self, model: str, version: str, now_us: int) -> Signal:
        """Return the signal that begins now with this finding."""
        return Signal(
            id=f"{self.kind}/{model}/{self.subject.replace(' ', '.')}/{now_us}",
            kind=self.kind,
            model=model,
            version=version,
            raised_at_us=now_us,
            onset_us=self.onset_us,
            severity=self.severity,
            evidence=self.evidence,
            message=self.message,
            subject=self.subject,
        )


Known: TypeAlias = dict[object, list[Finding]]  # the key identifies the data in which the findings were made


class Window(msgspec.Struct, frozen=True, eq=False, dict=True):
    """Some hours of logged rows, taken together."""

    first: int  # the first hour, counted since 1970
    last: int
    counts: SummedCounts  # the counts of all these hours
    parts: tuple[HourCounts, ...]

    @cached_property
    def sample(self) -> Floats:
        """Sampled rows, shape (rows, columns). Each hour has a share of the sample in proportion to its rows."""
        share = min((len(one.marks) / one.rows for one in self.parts if one.rows), default=1.0)
        return np.concatenate([one.sample[: math.ceil(share * one.rows)] for one in self.parts])

    @property
    def rows(self) -> int:
        return self.counts.rows

    @property
    def hours(self) -> int:
        return self.last - self.first + 1

    @property
    def onset_us(self) -> int:
        return self.first * HOUR_US

    @property
    def said(self) -> str:
        """The time of the window in words, as a part of a sentence."""
        begin, end = (format_time(hour * HOUR_US) for hour in (self.first, self.last + 1))
        until = end[11:16] if end[:10] == begin[:10] else f"{end[:10]} {end[11:16]}"
        return f"{begin[:10]} {begin[11:16]} to {until}"


def windows(hours: Mapping[int, HourCounts], least_rows: int, count: int = 3, *, least_h: int = 1) -> list[Window]:
    """Return the newest windows that have at least `least_rows` rows and `least_h` hours each, newest first.

    There are at most `count` of them. A window that would need more than `LONGEST_H` hours is left out.
    """
    found: list[Window] = []
    part: list[tuple[int, HourCounts]] = []
    rows = 0
    for hour in sorted(hours, reverse=True):
        if part and part[0][0] - hour >= LONGEST_H:
            break
        part.append((hour, hours[hour]))
        rows += hours[hour].rows
        if rows >= least_rows and part[0][0] - hour + 1 >= least_h:
            found.append(window_of(part))
            part, rows = [], 0
            if len(found) == count:
                break
    return found


def window_of(parts: Sequence[tuple[int, HourCounts]]) -> Window:
    """Return the window of some hours, given in any order."""
    hours, counts = zip(*parts, strict=True)
    return Window(min(hours), max(hours), SummedCounts(counts), counts)


def evidence_above(count: float, rows: float, usual: float) -> float:
    """Return the evidence that a share is above its normal value, in nats (natural logarithm); 0 if it is not above.

    If the true share were `usual` (taken as at least 0.005), a share as high as count / rows would have a probability
    of at most exp(-evidence).

    Source: the Chernoff bound of a binomial tail, rows times the Kullback-Leibler divergence of the two shares.

    >>> round(evidence_above(30, 100, 0.1), 1)
    15.4
    """
    share, usual = count / rows, min(max(usual, 0.005), 0.999)
    if share <= usual:
        return 0.0
    rest = 0.0 if share >= 1.0 else (1.0 - share) * math.log((1.0 - share) / (1.0 - usual))
    return rows * (share * math.log(share / usual) + rest)


def found_once(known: Known | None, key: object, find: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings that were already made in the same data (`key`), or else call `find` and keep its result."""
    if known is None:
        return find()
    if key not in known:
        known[key] = find()
    return known[key]


def percent(share: float) -> str:
    """A share as a percentage for people to read.

    >>> percent(0.123), percent(0.004), percent(1.0)
    ('12 %', '0.4 %', '100 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0.0 else f"{100 * share:.1f} %"


def ago(us: int) -> str:
    """A duration for people to read, in the two largest units that matter.

    >>> ago(95_400_000_000)
    '26 h 30 min'
    """
    if us >= 3 * DAY_US:
        return f"{us // DAY_US} d {us % DAY_US // HOUR_US} h"
    if us >= HOUR_US:
        minutes = us % HOUR_US // MINUTE_US
        return f"{us // HOUR_US} h" + (f" {minutes} min" if minutes else "")
    return f"{us // MINUTE_US} min"
