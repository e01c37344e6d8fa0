"""Limit the number of predict requests in flight by their latencies, so that queues stay short."""

from __future__ import annotations

import math

from trimtab.core.errors import Misuse

_EVERY_S = 0.1  # time between two changes of the limit
_EASY_S = 0.05  # a mean latency up to this never lowers the limit: clients hardly notice such a queue  # D0217
_TOLERANCE = 5.0  # the accepted ratio of mean latency to mean service time (at 80 % load, about three is usual)
_SHARPEST = 0.5  # the smallest gradient g, so that one change does not lower the limit to less than half


class GradientLimit:
    """A limit on the number of predict requests in flight, which adapts to their latencies.

    Every tenth of a second, the mean latency is compared with the mean service time, which is the latency without the
    time in queues. A latency of up to five times the service time, or up to 50 ms, is accepted. Then a limit L rises to
    L + sqrt(L), if at least L / 2 requests were in flight at once. After a longer latency, the new limit is
    g L + sqrt(L). The gradient g is the accepted latency divided by the measured one, but at least 0.5.

    This is the rule of Netflix's concurrency limits (2018), with the service time in place of the smallest latency ever
    seen, so that a slower machine is not mistaken for a queue.

    Args:
        least: The limit never falls below this number.
        most: The limit never rises above this number.

    >>> limit = GradientLimit(least=4, most=100)
    >>> for step in range(40):  # each answer takes 10 ms of service, and waits behind all in flight
    ...     for _ in range(5):
    ...         limit.observe(0.01 * limit.limit, service_s=0.01, under_way=limit.limit, now_s=step / 10)
    >>> 4 <= limit.limit <= 9
    True
    """

    def __init__(self, *, least: int = 8, most: int = 512) -> None:
        if not 1 <= least <= most:
            raise Misuse(f"limit: least={least}, most={most}. Give 1 <= least <= most.")
        self.limit = most
        self._least, self._most = least, most
        self._exact = float(most)
        self._latency_s, self._service_s, self._count, self._peak = 0.0, 0.0, 0, 0
        self._step_at_s = -math.inf

    def observe(self, latency_s: float, *, service_s: float, under_way: int, now_s: float) -> None:
        """Take the latency of one answer into account.

        Args:
            latency_s: The time from the arrival of the request to its answer.
            service_s: The part of the latency that was not spent in queues.
            under_way: The number of requests in flight when this one was answered, including itself.
            now_s: A monotonic clock, in seconds.
        """
        self._latency_s += latency_s
        self._service_s += service_s
        self._count += 1
        if under_way > self._peak:
            self._peak = under_way
        if now_s >= self._step_at_s:
            self._step(now_s)

    def _step(self, now_s: float) -> None:
        wanted_s = max(_TOLERANCE * self._service_s, _EASY_S * self._count)
        gradient = min(1.0, max(_SHARPEST, wanted_s / self._latency_s)) if self._latency_s else 1.0
        if gradient < 1.0 or 2 * self._peak >= self.limit:
            exact = gradient * self._exact + math.sqrt(self._exact)
            self._exact = min(float(self._most), max(float(self._least), exact))
            self.limit = int(self._exact)
        self._latency_s, self._service_s, self._count, self._peak = 0.0, 0.0, 0, 0
        self._step_at_s = now_s + _EVERY_S
