"""A circuit breaker: what fails again and again is left alone for a while, so that nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from time import monotonic, perf_counter

from trimtab.core.errors import Corrupt, Unavailable
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import ModelInputs
from trimtab.serving.failures import check_deadline

_FAILURES = 5  # in a row, that open it
_FIRST_S = 0.5  # how long it stays open; twice as long after each probe that fails
_LONGEST_S = 30.0
_SLOW_ROWS = 64  # a read of more rows may take longer, in proportion


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


class GuardedReads:
    """Reads of features, from a store that is left alone where it fails, or is slow, again and again.

    Args:
        slow_s: A read that makes an answer late is the store's fault when it takes longer than this; one of many
            rows may take longer.
    """

    def __init__(self, slow_s: float) -> None:
        self.breaker = CircuitBreaker()
        self._slow_s = slow_s
        self._slow_at_s: dict[int, float] = {}  # of reads under way, by thread: when they will have been slow
        self._was_slow = False

    @property
    def hangs(self) -> bool:
        """Whether a read is under way that is slow."""
        now_s = perf_counter()
        return any(slow_at_s < now_s for slow_at_s in [*self._slow_at_s.values()])

    @property
    def drags(self) -> bool:
        """Whether the store is at fault, as far as one knows: the last read failed or was slow, or one is slow now."""
        return self._was_slow or self.hangs

    def slow_s(self, rows: int) -> float:
        """What a read of so many rows may take."""
        return self._slow_s * max(1.0, rows / _SLOW_ROWS)

    def inputs(self, answerer: Answerer, rows: Sequence[Row], now_us: int, deadline_s: float | None) -> ModelInputs:
        """What a model is shown.

        Raises:
            Late: That cannot be begun, or is not there, by the deadline.
            Unavailable: The store cannot be read, or is left alone.
            Exception: Of a function of the user's that computes a feature.
        """
        check_deadline(deadline_s)
        if not self.breaker.allows():
            raise Unavailable("features failed again and again, and are left alone for a moment.")
        thread, begun_s = get_ident(), perf_counter()
        self._slow_at_s[thread] = begun_s + self.slow_s(len(rows))
        try:
            inputs = answerer.inputs(rows, now_us)
        except Exception as error:
            failed = isinstance(error, Unavailable | Corrupt)  # else the store answered
            self._judge(begun_s, deadline_s, len(rows), failed=failed)
            raise
        finally:
            del self._slow_at_s[thread]
        self._judge(begun_s, deadline_s, len(rows), failed=False)
        check_deadline(deadline_s)
        return inputs

    def _judge(self, begun_s: float, deadline_s: float | None, rows: int, *, failed: bool) -> None:
        """Tell the breaker of a read: it failed, or took the time that there was.

        An asker who gives little time, above all for many rows, or whose request had to wait, is late by no fault of
        the store.
        """
        now_s = perf_counter()
        slow = now_s - begun_s > self.slow_s(rows)
        late = slow and deadline_s is not None and now_s > deadline_s
        self._was_slow = slow or failed
        if failed or late:
            self.breaker.failed()
        else:
            self.breaker.succeeded()
