"""What a check of inputs found, and the windows of hours that checks look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
import numpy as np

from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, format_time
from trimtab.monitoring.inputs.input_hours import HourCounts, merged
from trimtab.monitoring.profiles.profile_records import Floats

LONGEST_H = 7 * 24  # hours that are put together, at most, until there are enough rows
ENOUGH = 14.0  # nats against chance: less than one in a million
Kind: TypeAlias = Literal[
    "nulls", "new_values", "constant", "range", "units", "swapped", "shape", "joint_nulls",
    "feed_stopped", "feed_late", "feed_clock", "traffic_stopped", "traffic_doubled", "duplicates",
    "labels_stopped", "labels_missing", "one_class", "label_shift",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "nulls", "new_values", "constant", "range", "units", "swapped", "shape", "joint_nulls",
    "feed_stopped", "feed_late", "feed_clock", "traffic_stopped", "traffic_doubled", "duplicates",
    "labels_stopped", "labels_missing", "one_class", "label_shift",
)  # fmt: skip


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it usually is."""

    kind: Kind
    subject: str
    severity: Literal["red", "info"] = "red"
    onset_us: int
    evidence: dict[str, float]
    message: str

    def signal(self, model: str, version: str, now_us: int) -> Signal:
        """The signal of it, were it to begin now."""
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


class Window(msgspec.Struct, frozen=True, eq=False):
    """Some hours of logged rows together."""

    first: int  # hours since 1970
    last: int
    counts: HourCounts
    sample: Floats  # rows, about as many of each hour as it has of the window

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
        """When that is, as a part of a sentence."""
        begin, end = (format_time(hour * HOUR_US) for hour in (self.first, self.last + 1))
        until = end[11:16] if end[:10] == begin[:10] else f"{end[:10]} {end[11:16]}"
        return f"{begin[:10]} {begin[11:16]} to {until}"


def windows(hours: Mapping[int, HourCounts], least_rows: int, count: int = 3, *, least_h: int = 1) -> list[Window]:
    """The newest windows of so many rows, newest first: hours are put together until there are enough, up to a week."""
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
    """The window of some hours, in any order."""
    counts = merged([one for _, one in parts])
    share = min((len(one.marks) / one.rows for _, one in parts if one.rows), default=1.0)
    sample = [one.sample[: math.ceil(share * one.rows)] for _, one in parts]
    hours = [hour for hour, _ in parts]
    return Window(min(hours), max(hours), counts, np.concatenate(sample))


def against_chance(count: float, rows: float, usual: float) -> float:
    """The evidence that a share is above the usual one, in nats (Chernoff's bound of a binomial tail)."""
    share, usual = count / rows, min(max(usual, 0.005), 0.999)
    if share <= usual:
        return 0.0
    rest = 0.0 if share >= 1.0 else (1.0 - share) * math.log((1.0 - share) / (1.0 - usual))
    return rows * (share * math.log(share / usual) + rest)


def percent(share: float) -> str:
    """A share for people.

    >>> percent(0.123), percent(0.004), percent(1.0)
    ('12 %', '0.4 %', '100 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0.0 else f"{100 * share:.1f} %"


def ago(us: int) -> str:
    """A duration for people, in the two units that say most.

    >>> ago(95_400_000_000)
    '26 h 30 min'
    """
    if us >= 3 * DAY_US:
        return f"{us // DAY_US} d {us % DAY_US // HOUR_US} h"
    if us >= HOUR_US:
        minutes = us % HOUR_US // MINUTE_US
        return f"{us // HOUR_US} h" + (f" {minutes} min" if minutes else "")
    return f"{us // MINUTE_US} min"
