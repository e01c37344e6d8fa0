"""Answer predict requests in the order of their arrival, and poll the connections in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from trimtab.serving.http.predict.refusals import Refusals
from trimtab.serving.protect.admission import GradientLimit

# Between polls of the connections, the scheduler works on the queue for a slice of time. The slice takes as long as the
# polls before it, but at least `_SLICE_S` and at most `_LONGEST_SLICE_S` (in seconds).
_SLICE_S, _LONGEST_SLICE_S = 0.001, 0.01
# after a slice, there is a poll for each millisecond that it took, up to this number: enough for a new connection to be
# accepted, set up, read and answered
_POLLS = 4
_GAP_S = 0.00005  # if work ended this long before a request arrived, a poll came in between: a new burst begins
_SAMPLED = 15  # a bit mask that selects one in 16 of the requests that were answered at once
_SAMPLED_WAITS = 3  # a bit mask that selects one in four of the requests that had to wait


class RequestScheduler:
    """Decides for each predict request whether it is answered at once, queued or refused.

    In each iteration, the event loop polls all connections for data, and then works on what has arrived (a burst). A
    request is answered at once if the queue is empty and the burst began less than a millisecond ago. Otherwise it is
    queued. The queue is worked on in slices of 1 to 10 ms with polls in between. If as many requests are in flight as
    `limit` allows, further requests are refused (see `Refusals`).  # D82
    """

    def __init__(self, limit: GradientLimit) -> None:
        self.limit = limit
        self.under_way = 0  # the number of requests in flight: those queued, and those waiting for the log or a thread
        self.refused = 0
        self.refusals = Refusals(lambda: self.under_way > 0, lambda: self._served_s)
        self.queued_s: Callable[[float], None] | None = None  # adds a wait to a histogram, for one request in 16
        # the queue: for each piece of work, the time since which it waits and the function that does it
        self._queue: deque[tuple[float, Callable[[], bool | None]]] = deque()
        # when the present burst (work since the last poll of the connections) began, and when work last ended
        self._burst_s = self._ended_s = 0.0
        self._tasks_s: float | None = None  # when the first task since the last poll of the connections began
        self._answered = 0
        self._served_s = 0.0  # seconds spent on answers
        self._left_s = 0.0  # when the last slice of the queue ended, or the queue got its first request

    @property
    def queued(self) -> int:
        """The number of requests in the queue."""
        return len(self._queue)

    def full(self) -> bool:
        """Return whether the next request must be refused. If so, it is counted as refused."""
        if self.under_way < self.limit.limit:
            return False
        self.refused += 1
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do not count this request as in flight inside the block, in which it only waits until its model is loaded."""
        self.under_way -= 1
        try:
            yield
        finally:
            self.under_way += 1

    def free(self, received_s: float) -> bool:
        """Return whether a request that arrived at `received_s` may be answered at once, and not queued."""
        if self._queue:
            return False
        if received_s - self._ended_s > _GAP_S:
            self._burst_s = received_s
        return received_s - self._burst_s < _SLICE_S

    async def turn(self) -> float:
        """Let a task that has read a request wait for its turn. Return the time (`perf_counter`) before the wait.

        From that time, the request counts as in flight until the caller decreases `under_way`. A task waits if the
        queue is not empty, or if the burst is older than a millisecond. For tasks, a burst begins with the first call
        after a poll of the connections.
        """
        loop, read_s = asyncio.get_running_loop(), perf_counter()
        if self._tasks_s is None:
            self._tasks_s = read_s
            loop.call_soon(self._on_poll)  # the loop polls the connections before it calls this
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

    def _on_poll(self) -> None:
        self._tasks_s = None

    def queue(self, work: Callable[[], bool | None], received_s: float) -> None:
        """Call `work` when it is its turn.

        The request counts as in flight until `work`, or a task or callback that it starts, decreases `under_way`. If
        `work` returns True, it has resumed a task. Then the slice ends, so that the task runs before the next work.
        """
        if not self._queue:
            self._left_s = perf_counter()
            asyncio.get_running_loop().call_soon(self._go_on)
        self._queue.append((received_s, work))
        self.under_way += 1

    def waits(self) -> None:
        """Count one more request in flight: it was begun at once, and now waits for the log or a thread."""
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
        """Work on the queue for one slice, and plan the next one."""
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
        finally:  # the remaining work must be done even after an error
            self._left_s = perf_counter()
            if queue:
                self._go_on_later(min(int((self._left_s - begun_s) / _SLICE_S), _POLLS))
            else:
                self._burst_s = self._left_s

    def _go_on_later(self, polls: int) -> None:
        """Begin the next slice after the connections were polled this many times, at least once."""
        if polls > 1:
            asyncio.get_running_loop().call_soon(self._go_on_later, polls - 1)
        else:
            asyncio.get_running_loop().call_soon(self._go_on)
