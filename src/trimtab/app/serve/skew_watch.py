"""Let a running service check its own predictions for skew from time to time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from trimtab.core.time import DAY_US

if TYPE_CHECKING:
    from trimtab.app.inspect.skew_report import SkewReport
    from trimtab.app.system import System
    from trimtab.serving.observe.metrics import Metrics

_SAMPLE = 200
_EVERY_S = 300.0  # the least time between two checks
_REST = 50.0  # a pause is at least this many times as long as the check before it, so checks take under 2 % of a core


def sampled(system: System, since_us: int) -> SkewReport:
    """Check a sample of the predictions that were made since a time, and return the report about skew."""
    from trimtab.app.inspect.skew import check_skew  # imported here: a service is ready without it

    return check_skew(system, None, sample=_SAMPLE, since_us=since_us, seed=None, by="service")


class SkewWatch:
    """Checks samples of a service's newest predictions for skew.

    Between checks are at least `every_s` seconds, and more if checks take long.

    Args:
        check: Checks the predictions since a time; by default, in the calling thread.
    """

    def __init__(
        self, system: System, *, every_s: float = _EVERY_S, check: Callable[[int], SkewReport] | None = None
    ) -> None:
        self._check = check or partial(sampled, system)
        self.checked = 0
        self.mismatches: Counter[tuple[str, str]] = Counter()  # the number of differing values, by feature and cause
        self.checked_at_us: int | None = None
        self._system = system
        self._every_s = every_s
        self._due_s = time.monotonic() + min(every_s, 60.0)
        self._since_us: int | None = None
        self._reached: dict[str, int] | None = None

    def check(self) -> SkewReport | None:
        """If a check is due, and predictions were logged since the last one, check a sample of these."""
        began_s = time.monotonic()
        ends = self._system.predictions.log.positions()
        if began_s < self._due_s or ends == self._reached or not ends:
            return None
        try:
            now_us = self._system.clock.now_us()
            since_us = now_us - DAY_US if self._since_us is None else self._since_us
            report = self._check(since_us)
            self._since_us, self._reached = now_us, ends
            self._count(report)
            return report
        finally:
            self._due_s = time.monotonic() + max(self._every_s, _REST * (time.monotonic() - began_s))

    def show(self, metrics: Metrics) -> None:
        """Register the metrics of skew checks."""
        metrics.counted(
            "trimtab_skew_checked_total",
            "Logged predictions whose features were computed again as of their own time and log positions.",
            (),
            lambda: {(): self.checked},
        )
        metrics.counted(
            "trimtab_skew_mismatches_total",
            "Values of checked predictions that differ when computed again.",
            ("feature", "cause"),
            lambda: {key: float(n) for key, n in self.mismatches.items()},
        )
        metrics.gauge(
            "trimtab_skew_last_check_timestamp_seconds",
            "When predictions were last checked for skew, seconds since 1970.",
            (),
            lambda: {} if self.checked_at_us is None else {(): self.checked_at_us / 1e6},
        )

    def _count(self, report: SkewReport) -> None:
        self.checked += report.rows
        self.checked_at_us = report.at_us
        more: dict[tuple[str, str], int] = {
            (f"{one.model}:{feature}", cause): n
            for one in report.models
            for feature, causes in one.causes.items()
            for cause, n in causes.items()
        }
        self.mismatches = Counter({**self.mismatches, **{k: self.mismatches[k] + n for k, n in more.items()}})
