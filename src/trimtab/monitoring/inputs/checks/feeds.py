"""Checks of the arrivals of a source: feeds that stopped, are late, or are dated by a wrong clock."""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, HOUR_US, MINUTE_US, format_time
from trimtab.events.columns.frames import EventFrame
from trimtab.monitoring.inputs.checks.file_loads import FILES, FileLoads, load_findings
from trimtab.monitoring.inputs.checks.findings import Finding, ago

REFERENCE_DAYS = 28
REACH_US = (REFERENCE_DAYS + 14) * DAY_US  # events that became known earlier are not read
_LEAST_EVENTS = 20
_LEAST_DAYS = 3  # a check needs events over at least this many days
# each earlier day is compared at three times: at the same time of day, an hour earlier and an hour later
_PHASES_US = (-HOUR_US, 0, HOUR_US)
_LATER_US = HOUR_US  # a gap is too long if it exceeds twice the normal gap by this
_NEWEST_US = 3 * HOUR_US  # wrong dates are looked for in arrivals within this time before the last one
_FEW = 6  # if arrivals are irregular, a gap counts only if each earlier day has this many arrivals in the same hours
# a delay has grown by whole half-hours if its growth differs from a multiple of `_HALF_HOUR_US` by at most `_ABOUT_US`
# plus the usual interquartile range
_HALF_HOUR_US, _ABOUT_US = HOUR_US // 2, 5 * MINUTE_US
# normal delays are taken from arrivals that are older than this or, if these are too few, older than a day
_SETTLED_US = 7 * DAY_US
_AHEAD_US = MINUTE_US  # an event is dated in the future if its time is later than its arrival by more than this
_AHEAD_SHARE = 0.2  # the share of such events must exceed the normal share by this
_RARELY = 0.995  # a median delay above this quantile of earlier delays is not normal


class Arrivals:
    """All events of a source in the order in which they became known. It is made once for each `EventFrame`."""

    def __init__(self, frame: EventFrame) -> None:
        order = np.argsort(frame.known_at_us, kind="stable")
        self.frame = frame
        self.order: NDArray[np.int64] = order
        self.known_us: NDArray[np.int64] = frame.known_at_us[order]
        self.event_us: NDArray[np.int64] = frame.event_at_us[order]
        self.newest_us = np.maximum.accumulate(self.event_us) if order.size else self.event_us
        self.loads = FileLoads(frame)


class Feed:
    """The arrivals of one source in the last six weeks."""

    def __init__(self, arrivals: Arrivals, now_us: int) -> None:
        begin, end = np.searchsorted(arrivals.known_us, (now_us - REACH_US, now_us), side="right")
        self.source = arrivals.frame.source
        self.subject = f"source {self.source}"
        self.what, self.check = "no event", "Check what sends the events, and the quarantine."
        self.loads = 0  # the number of loads of files, if these count as the arrivals
        self.known_us = arrivals.known_us[begin:end]
        self.event_us = arrivals.event_us[begin:end]
        self.newest_us = arrivals.newest_us[begin:end]

    def of_loads(self, loads_us: NDArray[np.int64], now_us: int) -> Feed:
        """Return a feed whose arrivals are the loads of files up to now."""
        found = copy(self)
        found.what = "no file with new events"
        found.known_us = loads_us[loads_us > now_us - REACH_US]
        found.loads = found.known_us.size
        return found

    def of_outcome(self, known_us: NDArray[np.int64], name: str, check: str) -> Feed:
        """Return a feed whose arrivals are the labels of one class, given the times at which they became known."""
        found = copy(self)
        found.what, found.check, found.known_us = f"no {name} label", check, known_us
        found.subject = f"{self.subject}, {name} labels"
        return found

    @property
    def enough(self) -> bool:
        """Return whether there are enough events to compare with."""
        return self.known_us.size >= _LEAST_EVENTS and int(self.known_us[-1] - self.known_us[0]) >= _LEAST_DAYS * DAY_US

    def waits(self, since_us: int) -> NDArray[np.int64]:
        """Return how long the next arrival took on earlier days, counted from about the time of day of `since_us`."""
        days = -DAY_US * np.arange(1, REFERENCE_DAYS + 1)
        starts = (since_us + days[:, None] + np.array(_PHASES_US)).ravel()
        starts = starts[(starts >= self.known_us[0]) & (starts < since_us)]
        place = np.searchsorted(self.known_us, starts, side="right")
        inside = place < self.known_us.size
        found: NDArray[np.int64] = self.known_us[place[inside]] - starts[inside]
        return found

    def fewest(self, since_us: int, age_us: int) -> int:
        """Return the fewest arrivals of an earlier day, for `age_us` from the time of `since_us` on; at most `_FEW`."""
        starts = since_us - DAY_US * np.arange(1, REFERENCE_DAYS + 1)
        starts = starts[(starts >= self.known_us[0]) & (starts + age_us <= since_us)]
        ends = np.searchsorted(self.known_us, starts + age_us, side="right")
        return int((ends - np.searchsorted(self.known_us, starts, side="right")).min(initial=_FEW))

    def behind(self, at_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the age of the newest event (by its own time) that had arrived at each time; shape (times,)."""
        place = np.searchsorted(self.known_us, at_us, side="right") - 1
        found: NDArray[np.int64] = at_us - self.newest_us[place]
        return found


def feed_findings(arrivals: Arrivals, now_us: int) -> list[Finding]:
    """Return findings about the arrivals of a source, compared with those of the four weeks before.

    If a source is loaded from files, only the times of its loads are tested. If the last six weeks have at least 20
    loads over at least 3 days, loads are tested like arrivals of events, but only for gaps; otherwise see
    `load_findings`. For other sources, nothing is tested if fewer than 20 events are known, or all of them are from
    less than 3 days.
    """
    feed, loads_us = Feed(arrivals, now_us), arrivals.loads.until(now_us)
    if loads_us is not None:
        loaded = feed.of_loads(loads_us, now_us)
        return stopped(loaded, now_us) if loaded.enough else load_findings(arrivals.loads, loads_us, now_us)
    if not feed.enough:
        return []
    return stopped(feed, now_us) or _wrong_clock(feed, now_us) or _late(feed, now_us)


def stopped(feed: Feed, now_us: int, more_us: int = _LATER_US) -> list[Finding]:
    """Return a finding if the gap since the last arrival is at least `more_us` above twice the usual gap."""
    since_us = int(feed.known_us[-1])
    age_us = now_us - since_us
    waits = feed.waits(since_us)
    if age_us < 2 * int(waits.max(initial=0)) + more_us:
        return []
    gaps = np.diff(feed.known_us)
    high = gaps.size - 1 - gaps.size // 200
    usual_us = int(max(waits.max(initial=0), np.partition(gaps, high)[high]))
    if age_us < 2 * usual_us + more_us:
        return []
    # a few arrivals at random times, as in the nights of weekends, sometimes have a gap much longer than all before
    if not feed.loads and usual_us > 2 * np.median(gaps) and feed.fewest(since_us, age_us) < _FEW:
        return []
    evidence = {"age_s": age_us / 1e6, "usual_s": usual_us / 1e6} | ({FILES: float(feed.loads)} if feed.loads else {})
    message = (
        f"Source {feed.source}: {feed.what} for {ago(age_us)}, the last one came {format_time(since_us)[:16]}; the "
        f"usual gap is at most {ago(max(usual_us, MINUTE_US))}. {feed.check}"
    )
    return [Finding("feed_stopped", feed.subject, since_us, evidence, message)]


def _late(feed: Feed, now_us: int) -> list[Finding]:
    """Return a finding if events still come, but are dated longer ago than is normal."""
    since_us = int(feed.known_us[-1])
    if now_us - since_us > feed.waits(since_us).max(initial=0) + _LATER_US:  # the feed may have stopped
        return []
    dated_us = int(feed.newest_us[-1])
    behind_us = since_us - dated_us  # not `now_us - dated_us`, because nothing may have happened since then
    days = now_us - DAY_US * np.arange(1, REFERENCE_DAYS + 1)
    times = (days[:, None] + np.array(_PHASES_US)).ravel()
    times = times[times > feed.known_us[0]]
    if times.size < 3 * _LEAST_DAYS:
        return []
    usual = np.sort(feed.behind(times))
    usual_us = max(int(usual[-1 - usual.size // 14]), 0)
    if behind_us < 2 * usual_us + _LATER_US:
        return []
    evidence = {"behind_s": behind_us / 1e6, "usual_s": usual_us / 1e6}
    message = (
        f"Source {feed.source}: its newest event is dated {ago(now_us - dated_us)} ago; normal at this time of day is "
        f"at most {ago(max(usual_us, MINUTE_US))}. Events come, but late: check the queue that delivers them."
    )
    return [Finding("feed_late", f"source {feed.source}", dated_us + usual_us, evidence, message)]


def _wrong_clock(feed: Feed, now_us: int) -> list[Finding]:
    """Find that the newest arrivals are dated in the future, or too far back by whole half-hours (a time zone)."""
    last_us = int(feed.known_us[-1])
    ends = np.searchsorted(
        feed.known_us, (last_us - _NEWEST_US, now_us - _SETTLED_US - 1, now_us - DAY_US - 1), side="right"
    )
    newest, settled, older = int(ends[0]), int(min(ends[:2])), int(min(ends[0], ends[2]))
    all_delays = feed.known_us - feed.event_us
    delays, reference = all_delays[newest:], all_delays[: settled if settled >= _LEAST_EVENTS else older]
    if delays.size < 3 or reference.size < _LEAST_EVENTS or last_us < now_us - DAY_US:
        return []
    ahead, usual_ahead = float((delays < -_AHEAD_US).mean()), float((reference < -_AHEAD_US).mean())
    middle = float(np.median(delays))
    # whether the median delay is above the quantile `_RARELY`; counting is faster than computing the quantile
    rare = int((reference >= middle).sum()) < reference.size - int(_RARELY * (reference.size - 1))
    if not rare and ahead <= usual_ahead + _AHEAD_SHARE:
        return []
    usual = float(np.median(reference))
    evidence = {"delay_s": middle / 1e6, "usual_s": usual / 1e6}
    onset_us = int(feed.known_us[newest])
    if ahead > usual_ahead + _AHEAD_SHARE:
        share = f"{ahead:.0%} of its newest events are dated in the future, usually {usual_ahead:.0%}"
        most = f"{share}; by up to {ago(int(-delays.min()))}"
        return [_clock(feed, onset_us, {**evidence, "ahead": ahead}, most)]
    shift = middle - usual
    width, usual_width = (float(np.subtract(*np.quantile(one, (0.75, 0.25)))) for one in (delays, reference))
    steps = round(shift / _HALF_HOUR_US)
    whole = abs(shift - steps * _HALF_HOUR_US) <= _ABOUT_US + usual_width and steps >= 2
    steady = width <= 2.0 * usual_width + _ABOUT_US
    if not whole or not steady or middle <= float(np.quantile(reference, _RARELY)) + _ABOUT_US:
        return []
    said = f"its newest events are dated {ago(int(shift))} further back than usual, and come as steadily as ever"
    return [_clock(feed, onset_us, evidence, said)]


def _clock(feed: Feed, onset_us: int, evidence: dict[str, float], said: str) -> Finding:
    message = f"Source {feed.source}: {said}. Check the clock and the time zone of the sender."
    return Finding("feed_clock", f"source {feed.source}", onset_us, evidence, message)
