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
_PAUSE_S = 0.02  # between two looks at a log with nothing new; `wake` ends it
_LONGEST_PAUSE_S = 5.0  # between two retries


class Applier:
    """Follows every partition of a log and applies what arrives, in micro-batches, by append time.

    The process that starts it holds the lease that makes it the only one. After `Unavailable` it retries; any other
    error stops it, and `failure` says why: a view that is not updated any more must be seen.

    Args:
        log: The event log.
        apply: Takes records into the views, in the views' own transaction; skips those it has.
        applied: The positions that the views have reached.
        batch: At most so many records of a partition at once: the state of a busy entity is then written, and the
            disk waited for, once. It should stay below a tenth of a second's work. # D114
        reading: Positions to read on from, where they are not `applied`: a view that is being filled joins later.
        between: A bounded piece of other work after each look at the log. It gets whether there was something new,
            and returns whether it has more to do at once.
        stopped: Called once with the error that stops it.
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
        """Begin to follow, in a thread of its own."""
        self._thread.start()
        return self

    def wake(self) -> None:
        """Look at the log now: something was appended."""
        self._wake.set()

    @property
    def positions(self) -> dict[str, int]:
        """The positions applied."""
        with self._changed:
            return dict(self._positions)

    def lag_records(self) -> int:
        """How many records of the log are not applied yet."""
        applied = self.positions
        return sum(max(0, last - applied.get(name, 0)) for name, last in self._log.positions().items())

    def wait_applied(self, positions: Mapping[str, int], timeout_s: float) -> None:
        """Return once the views have reached `positions`.

        Raises:
            NotApplied: They have not within `timeout_s`, or the applier has stopped.
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
            except Exception as error:  # shown in `failure`, logged, seen by readiness
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
        """Apply what is new, by append time; whether there was anything."""
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
