"""Sources whose events are loaded from files now and then: how often files come, and whether the next is overdue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.events.columns.frames import EventFrame
from trimtab.monitoring.inputs.checks.findings import Finding

_NEWEST_GAPS = 28  # only the newest gaps between loads count
_LEAST_GAPS = 3
_LEAST_SPAN_US = 7 * DAY_US  # loads must span this time: on the first days, files may only be tried out
_SLACK_US = DAY_US
UNKNOWN_US = 35 * DAY_US  # while it is not known how often files come, this much time without a new file is normal
RECENT_US = 42 * DAY_US
FILES = "loads"  # the key of the number of loads in the evidence of a finding; only findings about files have it


class FileLoads:
    """The hours in which files with new events of a source were loaded; made once for each frame.

    These are not the known-at times of the events. Events of a loaded history have simulated known-at times: when the
    events would have become known if they had been sent as they happened.
    """

    def __init__(self, frame: EventFrame) -> None:
        self.source = frame.source
        loaded_h = np.zeros(0, np.int64) if frame.loaded_h is None else frame.loaded_h
        self._loads_us: NDArray[np.int64] = _distinct(loaded_h[loaded_h != 0]).astype(np.int64) * HOUR_US
        # only needed for sources that have loads
        sent = frame.known_at_us[loaded_h == 0] if self._loads_us.size else np.zeros(0, np.int64)
        self._sent_h: NDArray[np.int64] = _distinct(sent // HOUR_US)

    def until(self, now_us: int) -> NDArray[np.int64] | None:
        """Return the beginnings of the hours with loads up to a time, shape (loads,), oldest first.

        None: there are none, or the source mostly gets its events as they happen: in the last six weeks, there were
        more hours in which events were sent than hours in which files were loaded.
        """
        loads = self._loads_us[: np.searchsorted(self._loads_us, now_us, side="right")]
        if not loads.size:
            return None
        since_us = now_us - RECENT_US
        begin, end = np.searchsorted(self._sent_h, (since_us // HOUR_US, now_us // HOUR_US), side="right")
        return None if end - begin > (loads > since_us).sum() else loads


class Rhythm:
    """How long it usually takes from one file to the next: the median and the longest of the newest gaps.

    For the longest, the longest fourteenth of the gaps is left out, because a few may be exceptions.
    """

    def __init__(self, loads_us: NDArray[np.int64]) -> None:
        gaps = np.sort(np.diff(loads_us)[-_NEWEST_GAPS:])
        self.known = gaps.size >= _LEAST_GAPS and int(loads_us[-1] - loads_us[0]) >= _LEAST_SPAN_US
        self.last_us = int(loads_us[-1])
        self.usual_us = int(np.median(gaps)) if gaps.size else 0
        self.longest_us = int(gaps[-1 - gaps.size // 14]) if gaps.size else 0

    def overdue_us(self) -> int:
        """Return the time from which on the next file is overdue."""
        return self.last_us + 2 * self.longest_us + (self.longest_us - self.usual_us) + _SLACK_US


def load_findings(loads: FileLoads, loads_us: NDArray[np.int64], now_us: int) -> list[Finding]:
    """Return a finding if the next file is overdue; none while fewer than three gaps or seven days are known."""
    rhythm = Rhythm(loads_us)
    if not rhythm.known or now_us < rhythm.overdue_us():
        return []
    age_us = now_us - rhythm.last_us
    usual, longest = _days(rhythm.usual_us), _days(rhythm.longest_us)
    usually = f"every {usual}" if usual == longest else f"every {usual}, at most {longest} apart"
    message = (
        f"Source {loads.source}: the last file with new events was loaded {_days(age_us)} ago, on "
        f"{format_time(rhythm.last_us)[:10]}; usually there is one {usually}. Load the next one, or check "
        "what loads them."
    )
    evidence = {"age_s": age_us / 1e6, "usual_s": rhythm.longest_us / 1e6, FILES: float(loads_us.size)}
    onset_us = rhythm.last_us + rhythm.longest_us
    return [Finding("feed_stopped", f"source {loads.source}", onset_us, evidence, message)]


def _distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `np.unique` of values of which most are equal to their neighbours, without sorting these."""
    return np.unique(values[np.diff(values, prepend=values[:1] - 1) != 0])


def _days(us: int) -> str:
    """A duration in days, or in hours if it is shorter than two days."""
    return f"{round(us / DAY_US)} days" if us >= 2 * DAY_US - HOUR_US else f"{round(us / HOUR_US)} hours"
