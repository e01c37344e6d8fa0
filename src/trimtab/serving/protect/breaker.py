"""A circuit breaker: after repeated failures, no calls are made for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from time import monotonic, perf_counter

from trimtab.core.errors import Corrupt, Unavailable
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import ModelInputs
from trimtab.serving.failures import check_deadline

_FAILURES = 5  # the number of failures in a row after which the breaker opens
_FIRST_S = 0.5  # seconds for which the breaker stays open; doubled after each probe that fails
_LONGEST_S = 30.0
_SLOW_ROWS = 64  # if a read has n times as many rows as this, it may take n times as long before it counts as slow


class CircuitBreaker:
    """A circuit breaker. While it is closed, all calls are allowed; while it is open, none are.

    The breaker opens after five failures in a row. After a while, it allows a single call as a probe. If the probe
    succeeds, the breaker closes again.

    >>> now = 0.0
    >>> breaker = CircuitBreaker(now_s=lambda: now)
    >>> for _ in range(5):
    ...     breaker.failed()
    >>> breaker.allows()
    False
    >>> now = 1.0
    >>> breaker.allows(), breaker.allows()  # one call is allowed as a probe
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
        self._probing = False  # whether a probe was allowed and has not reported its outcome

    @property
    def is_open(self) -> bool:
        """Return whether the breaker is open, so that calls are not allowed."""
        return self._failures >= _FAILURES

    def allows(self) -> bool:
        """Return whether the next call is allowed.

        If it is, the caller must report `succeeded` or `failed` afterwards.
        """
        if self._failures < _FAILURES:
            return True
        now_s = self._now_s()
        if now_s < self._probe_at_s:
            return False
        self._probe_at_s = now_s + self._open_s  # when another probe is allowed if this one never reports its outcome
        self._probing = True
        return True

    def succeeded(self) -> None:
        """Report a call that succeeded."""
        if self._failures:
            self._failures, self._open_s, self._probing = 0, _FIRST_S, False

    def failed(self) -> None:
        """Report a call that failed or was too slow."""
        self._failures += 1
        if self._failures == _FAILURES:
            self._probe_at_s = self._now_s() + self._open_s
        elif self._probing:  # otherwise the call began before the breaker opened
            self._probing = False
            self._open_s = min(_LONGEST_S, 2 * self._open_s)
            self._probe_at_s = self._now_s() + self._open_s


class GuardedReads:
    """Reads features, behind a circuit breaker that opens if the store repeatedly fails or is slow.

    Args:
        slow_s: A read that misses its deadline counts as a failure of the store if it takes longer than this. Reads of
            many rows may take longer.
    """

    def __init__(self, slow_s: float) -> None:
        self.breaker = CircuitBreaker()
        self._slow_s = slow_s
        self._slow_at_s: dict[int, float] = {}  # by thread: the time at which the current read becomes slow
        self._was_slow = False

    @property
    def hangs(self) -> bool:
        """Return whether a running read is already slow."""
        now_s = perf_counter()
        return any(slow_at_s < now_s for slow_at_s in [*self._slow_at_s.values()])

    @property
    def drags(self) -> bool:
        """Return whether the store seems at fault: the last read failed or was slow, or a running read is slow."""
        return self._was_slow or self.hangs

    def slow_s(self, rows: int) -> float:
        """Return how many seconds a read of this many rows may take."""
        return self._slow_s * max(1.0, rows / _SLOW_ROWS)

    def inputs(self, answerer: Answerer, rows: Sequence[Row], now_us: int, deadline_s: float | None) -> ModelInputs:
        """Read the model inputs of rows.

        Raises:
            Late: The deadline has passed before or after the read.
            Unavailable: The store cannot be read, or the breaker is open.
            Exception: An error from a user's function that computes a feature.
        """
        check_deadline(deadline_s)
        if not self.breaker.allows():
            raise Unavailable("features: reads failed repeatedly, and are paused. Try again soon.")
        thread, begun_s = get_ident(), perf_counter()
        self._slow_at_s[thread] = begun_s + self.slow_s(len(rows))
        try:
            inputs = answerer.inputs(rows, now_us)
        except Exception as error:
            failed = isinstance(error, Unavailable | Corrupt)  # other errors are not the store's fault
            self._report(begun_s, deadline_s, len(rows), failed=failed)
            raise
        finally:
            del self._slow_at_s[thread]
        self._report(begun_s, deadline_s, len(rows), failed=False)
        check_deadline(deadline_s)
        return inputs

    def _report(self, begun_s: float, deadline_s: float | None, rows: int, *, failed: bool) -> None:
        """Report to the breaker how a read ended.

        A read failed if it raised an error of the store, or if it was slow and missed its deadline. A fast read that
        misses a short deadline is no failure.
        """
        now_s = perf_counter()
        slow = now_s - begun_s > self.slow_s(rows)
        late = slow and deadline_s is not None and now_s > deadline_s
        self._was_slow = slow or failed
        if failed or late:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
