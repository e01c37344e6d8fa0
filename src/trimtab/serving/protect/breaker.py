"""A circuit breaker: after repeated failures, calls are not made for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from time import monotonic, perf_counter

from trimtab.core.errors import Corrupt, Unavailable
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import ModelInputs
from trimtab.serving.failures import check_deadline

_FAILURES = 5  # failures in a row that open the breaker
_FIRST_S = 0.5  # how long the breaker stays open; the time doubles after each probe that fails
_LONGEST_S = 30.0
_SLOW_ROWS = 64  # a read of more rows may take longer, in proportion


class CircuitBreaker:
    """A breaker that allows all calls while it is closed.

    After five failures in a row it opens. After a while, one call may be made as a probe.

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
        """Return whether calls are refused."""
        return self._failures >= _FAILURES

    def allows(self) -> bool:
        """Return whether the next call may be made.

        After an allowed call, the caller reports `succeeded` or `failed`.
        """
        if self._failures < _FAILURES:
            return True
        now_s = self._now_s()
        if now_s < self._probe_at_s:
            return False
        self._probe_at_s = now_s + self._open_s  # one probe at a time
        return True

    def succeeded(self) -> None:
        """Report a call that succeeded."""
        if self._failures:
            self._failures, self._open_s = 0, _FIRST_S

    def failed(self) -> None:
        """Report a call that failed, or was late."""
        self._failures += 1
        if self._failures == _FAILURES:
            self._probe_at_s = self._now_s() + self._open_s
        elif self._failures > _FAILURES:
            self._open_s = min(_LONGEST_S, 2 * self._open_s)
            self._probe_at_s = self._now_s() + self._open_s


class GuardedReads:
    """Reads of features behind a circuit breaker, which opens when the store repeatedly fails or is slow.

    Args:
        slow_s: A late read counts as a failure of the store when it takes longer than this. A read of many rows may
            take longer.
    """

    def __init__(self, slow_s: float) -> None:
        self.breaker = CircuitBreaker()
        self._slow_s = slow_s
        self._slow_at_s: dict[int, float] = {}  # by thread, the time when the read in flight becomes slow
        self._was_slow = False

    @property
    def hangs(self) -> bool:
        """Return whether a slow read is in flight."""
        now_s = perf_counter()
        return any(slow_at_s < now_s for slow_at_s in [*self._slow_at_s.values()])

    @property
    def drags(self) -> bool:
        """Return whether the store seems at fault: the last read failed or was slow, or a read is slow now."""
        return self._was_slow or self.hangs

    def slow_s(self, rows: int) -> float:
        """Return how long a read of this many rows may take."""
        return self._slow_s * max(1.0, rows / _SLOW_ROWS)

    def inputs(self, answerer: Answerer, rows: Sequence[Row], now_us: int, deadline_s: float | None) -> ModelInputs:
        """Read model inputs.

        Raises:
            Late: The deadline passed before or after the read.
            Unavailable: The store cannot be read, or the breaker is open.
            Exception: Raised by a user's function that computes a feature.
        """
        check_deadline(deadline_s)
        if not self.breaker.allows():
            raise Unavailable("features: reads failed repeatedly, and are paused. Try again soon.")
        thread, begun_s = get_ident(), perf_counter()
        self._slow_at_s[thread] = begun_s + self.slow_s(len(rows))
        try:
            inputs = answerer.inputs(rows, now_us)
        except Exception as error:
            failed = isinstance(error, Unavailable | Corrupt)  # otherwise the store worked
            self._report(begun_s, deadline_s, len(rows), failed=failed)
            raise
        finally:
            del self._slow_at_s[thread]
        self._report(begun_s, deadline_s, len(rows), failed=False)
        check_deadline(deadline_s)
        return inputs

    def _report(self, begun_s: float, deadline_s: float | None, rows: int, *, failed: bool) -> None:
        """Report a read to the breaker.

        The read failed if it raised an error, or if it was slow and missed the deadline. A quick read that misses a
        short deadline is not a failure of the store.
        """
        now_s = perf_counter()
        slow = now_s - begun_s > self.slow_s(rows)
        late = slow and deadline_s is not None and now_s > deadline_s
        self._was_slow = slow or failed
        if failed or late:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
