"""Scheduling of predict requests: in order of arrival, a few at a time, so that refusals need not wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from trimtab.serving.http.predict.refusals import Refusals
from trimtab.serving.protect.admission import GradientLimit

_SLICE_S = 0.001  # seconds of work before connections are polled again
_LONGEST_SLICE_S = 0.01  # a slice of work is as long as the polling took, but at most this long
_POLLS = 4  # polls after a long slice: a new connection is accepted, set up, read and answered in this many polls
_GAP_S = 0.00005  # after a pause of this length a new burst of requests begins
_SAMPLED = 15  # a bit mask: one in 16 of the requests that were answered at once is sampled
_SAMPLED_WAITS = 3  # one in four of the requests that had to wait is sampled


class RequestScheduler:
    """Decides whether a predict request is answered at once, queued or refused.

    A request is answered at once while the process has been busy for less than a millisecond since it last polled its
    connections. Other requests queue, and connections are polled again after each millisecond of work. Requests that
    arrive while `limit` are in flight are refused, by `refusals`.  # D82
    """

    def __init__(self, limit: GradientLimit) -> None:
        self.limit = limit
        self.under_way = 0  # requests in flight: queued, or waiting for log or thread
        self.refused = 0
        self.refusals = Refusals(lambda: self.under_way > 0, lambda: self._served_s)
        self.queued_s: Callable[[float], None] | None = None  # histogram of the waits, of one request in 16
        # the queue: the time since which each work waits, and the work
        self._queue: deque[tuple[float, Callable[[], bool | None]]] = deque()
        self._burst_s = self._ended_s = 0.0  # when the present burst began, and when its last work ended
        self._tasks_s: float | None = None  # when the first task began since connections were polled
        self._answered = 0
        self._served_s = 0.0  # seconds spent on answers
        self._left_s = 0.0  # when work on the queue last paused for the connections

    @property
    def queued(self) -> int:
        """Return how many requests wait for their turn."""
        return len(self._queue)

    def full(self) -> bool:
        """Return whether to refuse the next request. If so, the request is counted as refused."""
        if self.under_way < self.limit.limit:
            return False
        self.refused += 1
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do not count a request as in flight inside the block, because it only waits for its model to be loaded."""
        self.under_way -= 1
        try:
            yield
        finally:
            self.under_way += 1

    def free(self, received_s: float) -> bool:
        """Return whether a request that arrived at `received_s` may be answered at once."""
        if self._queue:
            return False
        if received_s - self._ended_s > _GAP_S:
            self._burst_s = received_s
        return received_s - self._burst_s < _SLICE_S

    async def turn(self) -> float:
        """Wait for the turn of a request that a task has read. Returns `perf_counter` from before the wait.

        The request counts as in flight until the caller counts it off. Many tasks may run before connections are polled
        again. Together they may work for a millisecond, and the remaining tasks queue.
        """
        loop, read_s = asyncio.get_running_loop(), perf_counter()
        if self._tasks_s is None:
            self._tasks_s = read_s
            loop.call_soon(self._look)
        if not self._queue and read_s - self._tasks_s < _SLICE_S:
            self.under_way += 1
            return read_s
        mine: asyncio.Future[None] = loop.create_future()

        def begin() -> bool:
            if mine.done():  # the client has closed its connection
                return False
            mine.set_result(None)
            return True

        self.queue(begin, read_s)
        try:
            await mine
        except asyncio.CancelledError:
            self.under_way -= 1
            raise
        return read_s

    def _look(self) -> None:
        """Note that connections have been polled since the first task began."""
        self._tasks_s = None

    def queue(self, work: Callable[[], bool | None], received_s: float) -> None:
        """Do `work` in its turn.

        The work counts as in flight until the work, or what the work waits for, counts it off. Work that returns True
        has resumed a task, and the next work waits for that task.
        """
        if not self._queue:
            self._left_s = perf_counter()
            asyncio.get_running_loop().call_soon(self._go_on)
        self._queue.append((received_s, work))
        self.under_way += 1

    def waits(self) -> None:
        """Count a request that was begun at once and now waits for the log or a thread."""
        self.under_way += 1
        self._ended_s = perf_counter()

    def answered(self, received_s: float, begun_s: float, *, waited: bool) -> None:
        """Count a response to a request that arrived at `received_s` and was begun at `begun_s`."""
        self._ended_s = now_s = perf_counter()
        self._answered += 1
        self._served_s += now_s - begun_s
        if not self._answered & (_SAMPLED_WAITS if waited else _SAMPLED):
            self.limit.observe(now_s - received_s, service_s=now_s - begun_s, under_way=self.under_way + 1, now_s=now_s)

    def _go_on(self) -> None:
        begun_s = now_s = perf_counter()
        until_s = now_s + min(max(_SLICE_S, now_s - self._left_s), _LONGEST_SLICE_S)
        queue = self._queue
        try:
            while queue and now_s < until_s:
                queued_s, work = queue.popleft()
                if not self._answered & _SAMPLED and self.queued_s is not None:
                    self.queued_s(now_s - queued_s)
                if work():
                    break
                now_s = perf_counter()
        finally:  # even after an error the remaining work has its turn
            self._left_s = perf_counter()
            if queue:
                self._go_on_later(min(int((self._left_s - begun_s) / _SLICE_S), _POLLS))
            else:
                self._burst_s = self._left_s

    def _go_on_later(self, polls: int) -> None:
        """Go on after polling the connections this many times, at least once."""
        if polls > 1:
            asyncio.get_running_loop().call_soon(self._go_on_later, polls - 1)
        else:
            asyncio.get_running_loop().call_soon(self._go_on)
