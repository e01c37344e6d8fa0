"""The thread that applies the event log to online state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from trimtab.core.errors import Unavailable
from trimtab.serving.failures import not_applied
from trimtab.store.log_order import in_order, intervals
from trimtab.store.ports import Log, LogRecord

_logger = logging.getLogger(__name__)
_PAUSE_S = 0.02  # pause between two looks at a log with nothing new; `wake` ends the pause
_LONGEST_PAUSE_S = 5.0  # pause between two retries


class Applier:
    """Follows every partition of a log and applies new records in micro-batches, in the order of append time.

    The process that starts the applier holds the lease that makes it the only applier. After `Unavailable` the applier
    retries. Any other error stops it, and `failure` gives the reason, because a view that is not updated any more must
    be noticed.

    Args:
        log: The event log.
        apply: Takes records into the views, in the views' own transaction. It skips records that the views have
            already.
        applied: The positions that the views have reached.
        batch: The largest number of records of a partition that are applied together. For all of them, the state of a
            busy entity is written once, and the disk is waited for once. A batch should stay below a tenth of a
            second's work. # D114
        reading: The positions after which to read on, where they are not `applied`, because a view that is being filled
            joins later.
        between: A bounded piece of other work that is called after each look at the log. It gets whether there was
            something new, and returns whether it has more to do at once.
        stopped: Called once with the error that stops the applier.
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
        """Begin to follow the log, in a thread."""
        self._thread.start()
        return self

    def wake(self) -> None:
        """Look at the log now, because something was appended."""
        self._wake.set()

    @property
    def positions(self) -> dict[str, int]:
        """Return the positions that were applied."""
        with self._changed:
            return dict(self._positions)

    def lag_records(self) -> int:
        """Return how many records of the log are not applied yet."""
        applied = self.positions
        return sum(max(0, last - applied.get(name, 0)) for name, last in self._log.positions().items())

    def wait_applied(self, positions: Mapping[str, int], timeout_s: float) -> None:
        """Return once the views have reached `positions`.

        Raises:
            NotApplied: The views have not reached the positions within `timeout_s`, or the applier has stopped.
        """
        self.wake()
        with self._changed:
            self._changed.wait_for(lambda: self.failure is not None or self._reached(positions), timeout_s)
            if self._reached(positions):
                return
            why = f"it stopped ({self.failure})" if self.failure else f"not within {timeout_s} s"
        raise not_applied(why)

    def close(self) -> None:
        """Stop after the current batch."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Applier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

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
                _logger.warning("applier: %s Retrying in %.2f s.", error, pause_s)
                busy, pause_s = False, min(2 * pause_s, _LONGEST_PAUSE_S)
            except Exception as error:  # shown in `failure`, logged, and checked for readiness
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
        """Apply new records by append time, and return whether there were any."""
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
