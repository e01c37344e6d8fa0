"""Whether the prediction log can be written, and when a failed write is retried."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

_STALE_S = 5.0  # age from which a failure says nothing about now, because no request came since
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class LogHealth:
    """The failures of one log: they are counted, reported when they begin and end, and retried after growing pauses.

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
        """Return whether it is too early to try the log again. The first failure is retried at once."""
        return self.error is not None and perf_counter() < self._retry_at_s

    def current(self, *, waits: bool, known_at_once: bool) -> Exception | None:
        """Return why nothing can be written to the log now.

        A process that is not ready gets no requests, and so would never try the log again. Therefore a failure is
        forgotten after five seconds, unless something waits to be written.

        Args:
            waits: Whether something waits to be written. If so, the log is being tried.
            known_at_once: Whether an empty buffer shows that the log works again.
        """
        stale = known_at_once or perf_counter() - self._failed_at_s > _STALE_S
        if self.error is not None and not waits and stale:
            self.succeeded()
        return self.error

    def failed(self, error: Exception) -> float:
        """Count a failure, and return the number of seconds after which to retry."""
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
        """Record that the log was written."""
        if self.error is not None:
            self.error, self._in_a_row, self._retry_at_s = None, 0, 0.0
            self._failing(None)
