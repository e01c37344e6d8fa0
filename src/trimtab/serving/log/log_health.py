"""Track whether the prediction log can be written, and when to try again after a failure."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

_STALE_S = 5.0  # an older failure is forgotten if nothing waits to be written (see `current`)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class LogHealth:
    """The failures of one log.

    Failures are counted, their beginning and end are reported, and the pauses between attempts grow.

    Args:
        failing: Called with the reason when the log begins to fail, and with None when it works again.
    """

    def __init__(self, failing: Callable[[str | None], object] | None = None) -> None:
        self.error: Exception | None = None
        self.failures = 0
        self._failing = failing or (lambda reason: None)
        self._in_a_row = 0
        self._failed_at_s = self._retry_at_s = 0.0

    @property
    def waits(self) -> bool:
        """Return whether it is too early to try the log again. After the first failure there is no pause."""
        return self.error is not None and perf_counter() < self._retry_at_s

    def current(self, *, unwritten: bool, known_at_once: bool) -> Exception | None:
        """Return the error that prevents writes to the log now, or None.

        A process with an error reports that it is not ready. Then it gets no requests, so it would never try the log
        again. Therefore an error is forgotten after five seconds, unless something is waiting to be written.

        Args:
            unwritten: Whether something is waiting to be written. If so, writing is tried again without a request.
            known_at_once: Whether `unwritten=False` proves that the log works again, because only a successful write
                empties the buffer. If so, the error is forgotten at once.
        """
        stale = known_at_once or perf_counter() - self._failed_at_s > _STALE_S
        if self.error is not None and not unwritten and stale:
            self.succeeded()
        return self.error

    def failed(self, error: Exception) -> float:
        """Count a failure. Return the number of seconds until the buffer should be written again (see also `waits`)."""
        begins, self.error = self.error is None, error
        self.failures += 1
        self._in_a_row += 1
        self._failed_at_s = perf_counter()
        pause_s: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._in_a_row - 1, 16))
        if self._in_a_row > 1:
            self._retry_at_s = self._failed_at_s + pause_s
        if begins:
            self._failing(str(error))
        return pause_s

    def succeeded(self) -> None:
        """Record that the log was written successfully."""
        if self.error is not None:
            self.error, self._in_a_row, self._retry_at_s = None, 0, 0.0
            self._failing(None)
