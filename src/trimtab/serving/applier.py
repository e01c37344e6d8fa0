"""The thread that applies new events from the log to the online features."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from trimtab.core.closing import Closing
from trimtab.core.errors import Unavailable
from trimtab.serving.failures import not_applied
from trimtab.store.log_order import in_order, intervals
from trimtab.store.ports import Log, LogRecord

_logger = logging.getLogger(__name__)
_PAUSE_S = 0.02  # pause before the log is read again if nothing was new; `wake` ends the pause
_LONGEST_PAUSE_S = 5.0  # the longest pause between two attempts


class Applier(Closing):
    """Follows every partition of a log and applies new records in micro-batches, in the order of append time.

    The process that starts this thread must hold the lease that makes it the only process to apply events. After
    `Unavailable`, the thread tries again. Any other error stops the thread and is kept in `failure`. From then on,
    views are not updated, so the caller must check `failure`.

    Args:
        apply: Adds records to the views, in one transaction. It skips records that a view already has.
        applied: Returns by partition the position up to which records have been applied.
        batch: The maximum number of records of a partition that are applied together. A batch writes each entity only
            once and syncs the disk only once. It should take less than a tenth of a second.  # D114
        reading: Returns by partition the position after which to read. By default, this is the applied position. While
            a new view is being filled, it may be earlier.
        between: Does a limited piece of other work after each read of the log. It gets whether there were new records,
            and returns whether there is more work to do at once.
        stopped: Called once, with the error that stops the thread.
    """

    def __init__(
        self,
        log: Log,
        apply: Callable[[Sequence[LogRecord]], object],
        applied: Callable[[], Mapping[str, int]],
        *,
        batch: int = 5_000,
        reading: Callable[[], Mapping[str, int]] | None = None,
        between: Callable[[bool], bool] | None = None,
        stopped: Callable[[Exception], object] = lambda error: None,
    ) -> None:
        self.failure: Exception | None = None
        self._log = log
        self._apply = apply
        self._batch = batch
        self._applied = applied
        self._reading = reading
        self._between = between
        self._on_stop = stopped
        self._positions = dict(applied())
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trimtab-applier", daemon=True)

    def start(self) -> Applier:
        """Start the thread."""
        self._thread.start()
        return self

    def wake(self) -> None:
        """Let the thread read the log now. Call this when something was appended."""
        self._wake.set()

    @property
    def positions(self) -> dict[str, int]:
        """Return by partition the position up to which records have been applied."""
        with self._changed:
            return dict(self._positions)

    def lag_records(self) -> int:
        """Return the number of log records that have not been applied."""
        applied = self.positions
        return sum(max(0, last - applied.get(name, 0)) for name, last in self._log.positions().items())

    def wait_applied(self, positions: Mapping[str, int], timeout_s: float) -> None:
        """Wait until all records up to `positions` have been applied.

        Raises:
            NotApplied: They were not applied within `timeout_s`, or the thread has stopped.
        """
        self.wake()
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None or self._reached(positions), timeout_s)
            if self._reached(positions):
                return
            why = f"the applier stopped ({self.failure})" if self.failure else f"waited {timeout_s} s"
        raise not_applied(why)

    def close(self) -> None:
        """Stop the thread after the current batch."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _reached(self, positions: Mapping[str, int]) -> bool:
        return all(self._positions.get(name, 0) >= position for name, position in positions.items())

    def _run(self) -> None:
        pause_s = _PAUSE_S
        while not self._stopping.is_set():
            try:
                busy = self._step()
                if self._between is not None:
                    busy |= self._between(busy)
                    self._update_positions()
                pause_s = _PAUSE_S
            except Unavailable as error:
                busy, pause_s = False, min(2 * pause_s, _LONGEST_PAUSE_S)
                _logger.warning("applier: %s Retrying within %.2f s.", error, pause_s)
            except Exception as error:  # the error is logged, kept in `failure`, and reported by the readiness check
                _logger.exception("applier: stopped")
                with self._changed:
                    self.failure = error
                    self._changed.notify_all()
                self._on_stop(error)
                return
            if not busy:
                self._wake.wait(pause_s)
                self._wake.clear()

    def _step(self) -> bool:
        """Apply new records in the order of their append times, and return whether there were any."""
        positions = self._positions if self._reading is None else self._reading()
        ends = self._log.positions()
        parts = next(intervals(self._log, positions, ends, batch=self._batch, gaps=True), [])
        if not parts:
            return False
        self._apply(in_order(parts))
        if self._reading is not None:
            self._update_positions()
            return True
        with self._changed:
            self._positions.update({part[0].partition: part[-1].position for part in parts})
            self._changed.notify_all()
        return True

    def _update_positions(self) -> None:
        positions = dict(self._applied())
        with self._changed:
            if positions != self._positions:
                self._positions = positions
                self._changed.notify_all()
