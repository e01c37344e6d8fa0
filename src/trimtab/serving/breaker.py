"""A circuit breaker: what fails again and again is left alone for a while, so that nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

_FAILURES = 5  # in a row, that open it
_FIRST_S = 0.5  # how long it stays open; twice as long after each probe that fails
_LONGEST_S = 30.0


class CircuitBreaker:
    """Closed, it lets everything through. After five failures in a row it opens; after a while one call may probe.

    >>> now = 0.0
    >>> breaker = CircuitBreaker(now_s=lambda: now)
    >>> for _ in range(5):
    ...     breaker.failed()
    >>> breaker.allows()
    False
    >>> now = 1.0
    >>> breaker.allows(), breaker.allows()  # one may try
    (True, False)
    >>> breaker.succeeded()
    >>> breaker.allows()
    True
    """

    def __init__(self, *, now_s: Callable[[], float] = monotonic) -> None:
        self._now_s = now_s
        self._failures = 0
        self._open_s = _FIRST_S
        self._probe_at_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are being kept away."""
        return self._failures >= _FAILURES

    def allows(self) -> bool:
        """Whether the next call may be made; who was allowed says `succeeded` or `failed`."""
        if self._failures < _FAILURES:
            return True
        now_s = self._now_s()
        if now_s < self._probe_at_s:
            return False
        self._probe_at_s = now_s + self._open_s  # others wait for what the probe finds
        return True

    def succeeded(self) -> None:
        """A call came back well."""
        if self._failures:
            self._failures, self._open_s = 0, _FIRST_S

    def failed(self) -> None:
        """A call failed, or was late."""
        self._failures += 1
        if self._failures == _FAILURES:
            self._probe_at_s = self._now_s() + self._open_s
        elif self._failures > _FAILURES:
            self._open_s = min(_LONGEST_S, 2 * self._open_s)
            self._probe_at_s = self._now_s() + self._open_s
