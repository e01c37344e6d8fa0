"""Metrics of the training loop: the quality of predictions, open signals, and whether the loop itself works."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from trimtab.core.errors import TrimtabError
from trimtab.monitoring.inputs.profile_distances import STATISTICS
from trimtab.serving.observe.log_throttle import ThrottledLogger

if TYPE_CHECKING:
    from trimtab.app.metrics.loop_values import Labels, LoopValues, Samples
    from trimtab.app.system import System
    from trimtab.serving.observe.metrics import Metrics

_logger = logging.getLogger(__name__)
UNREADABLE = "trimtab_loop_unreadable"
_DAY = ("model", "version", "arm")
# For each metric, its help text and its labels. The values come from `loop_values.py`.
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "trimtab_quality_newest_day_timestamp_seconds": ("When the newest closed day begins.", ("model",)),
    "trimtab_quality_day_predictions": ("Number of predictions of the newest closed day.", _DAY),
    "trimtab_quality_day_loss": ("Mean loss of the newest closed day.", _DAY),
    "trimtab_quality_day_excess_loss": (
        "Mean capped loss of the newest closed day, less its expectation if the scores were right.",
        _DAY,
    ),
    "trimtab_quality_day_gap": ("Mean score minus mean label, over the newest closed day.", _DAY),
    "trimtab_quality_labelled_share": ("Share of predictions labelled within the wait.", ("model", "days")),
    "trimtab_quality_label_completeness": (
        "Share of predictions that had a label when their day had been closed for age_days days.",
        ("model", "age_days"),
    ),
    "trimtab_quality_watched": ("1 while the version in service is watched.", ("model", "kind")),
    "trimtab_quality_provisional": ("1 while quality is compared with a reference of fewer than 28 days.", ("model",)),
    "trimtab_quality_reference_days": ("Number of days in the reference of quality.", ("model",)),
    "trimtab_quality_evidence_ratio": (
        "Log evidence of a change, divided by the evidence at which the alarm is raised.",
        ("model", "kind", "anchor"),
    ),
    **{one.metric: (one.text, ("model", "column")) for one in STATISTICS.values()},
    "trimtab_estimated_loss": ("Mean estimated loss of the newest day, before its labels come.", ("model",)),
    "trimtab_estimated_loss_usual": ("Mean estimated loss of the days with which it is compared.", ("model",)),
    "trimtab_input_null_share": ("Share of nulls in the newest 24 closed hours.", ("model", "column")),
    "trimtab_signal_standing": ("1 while a signal of this kind is open.", ("model", "kind", "severity")),
    "trimtab_standing_signals": ("Number of open signals.", ("model", "severity")),
    "trimtab_oldest_red_signal_timestamp_seconds": ("When the oldest open red signal began.", ("model",)),
    "trimtab_loop_last_tick_timestamp_seconds": ("End of the newest successful tick.", ("model",)),
    "trimtab_loop_tick_failed": ("1 while the newest tick failed.", ("model",)),
    "trimtab_loop_phase": ("1 for the phase that the loop is in.", ("model", "phase")),
    "trimtab_loop_frozen": ("1 while automation is frozen.", ()),
}
_REST_S = 1.0  # pause between two reads after an error, or if the catalogue cannot tell whether it changed


class LoopMetrics:
    """Metrics of the loop, read from the catalogue.

    They are read again after each change of the catalogue or, if it cannot tell whether it has changed, every second.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._mutex = threading.Lock()
        self._values: LoopValues | None = None
        self._samples: Samples = {}
        self._mark: Hashable | None = None  # `mark()` of the catalogue at the last read; every write changes it
        self._next_s = 0.0  # without a mark, or after an error: the monotonic time of the next read
        self._failed = False
        self._throttled = ThrottledLogger(_logger)

    def show(self, metrics: Metrics) -> None:
        """Register the metrics."""
        for name, (text, labels) in GAUGES.items():
            metrics.gauge(name, text, labels, partial(self._of, name))
        metrics.gauge(UNREADABLE, "1 while records of the loop cannot be read.", (), self._unreadable)

    def _of(self, name: str) -> Mapping[Labels, float]:
        with self._mutex:
            self._refresh()
            return self._samples.get(name, {})

    def _unreadable(self) -> Mapping[Labels, float]:
        with self._mutex:
            self._refresh()
            return {(): float(self._failed)}

    def _refresh(self) -> None:
        """Read the metrics again if they may have changed. After an error, no metric has a value."""
        try:
            mark = self._system.state.catalog.mark()
            if not self._is_due(mark):
                return
            self._samples, self._mark, self._failed = self._read(), mark, False
        except (TrimtabError, msgspec.MsgspecError) as error:
            self._samples, self._failed = {}, True
            self._throttled.warning("metrics of the loop cannot be read", error)
        self._next_s = time.monotonic() + _REST_S

    def _is_due(self, mark: Hashable | None) -> bool:
        if mark is None or self._failed:
            return time.monotonic() >= self._next_s
        return mark != self._mark

    def _read(self) -> Samples:
        if self._values is None:
            from trimtab.app.metrics.loop_values import LoopValues  # imported here, because it loads NumPy

            self._values = LoopValues(self._system)
        return self._values.read()
