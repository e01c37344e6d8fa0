"""Predict requests in the order of their arrival: a few at a time, so that those that are refused need not wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from trimtab.serving.http.predict.refusals import Refusals
from trimtab.serving.protect.admission import GradientLimit

_SLICE_S = 0.001  # of work between two looks at the connections
_LONGEST_SLICE_S = 0.01  # as long as the look took, up to this
_LOOKS = 4  # at connections after a long slice: a new one is accepted, set up, read and answered in so many
_GAP_S = 0.00005  # a pause after which work begins anew
_SAMPLED = 15  # a mask: one in 16 of what was answered at once
_SAMPLED_WAITS = 3  # and one in four of what had to wait


class RequestScheduler:
    """Who may be answered now, later, or not at all.

    A request is answered at once while the process has been busy for less than a millisecond since it last looked at
    all connections. The others queue, and connections are looked at again after each millisecond of work. What comes
    while `limit` are under way is refused, by `refusals`.  # D82
    """

    def __init__(self, limit: GradientLimit) -> None:
        self.limit = limit
        self.under_way = 0  # queued, or waiting for log or thread
        self.refused = 0
        self.refusals = Refusals(lambda: self.under_way > 0, lambda: self._served_s)
        self.queued_s: Callable[[float], None] | None = None  # counts what one in 16 waited that had to queue
        self._queue: deque[tuple[float, Callable[[], bool | None]]] = deque()  # since when, and what is to be done
        self._burst_s = self._ended_s = 0.0  # when the work at hand began, and when the last of it ended
        self._tasks_s: float | None = None  # when the first task began since connections were looked at
        self._answered = 0
        self._served_s = 0.0  # spent on answers
        self._left_s = 0.0  # when the queue was last left for the connections

    @property
    def queued(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    def full(self) -> bool:
        """Whether the next request is to be refused; then it is counted as that."""
        if self.under_way < self.limit.limit:
            return False
        self.refused += 1
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A request under way does not count meanwhile: it only waits for its model to be loaded."""
        self.under_way -= 1
        try:
            yield
        finally:
            self.under_way += 1

    def free(self, received_s: float) -> bool:
        """Whether a request that arrived at `received_s` may be answered at once."""
        if self._queue:
            return False
        if received_s - self._ended_s > _GAP_S:
            self._burst_s = received_s
        return received_s - self._burst_s < _SLICE_S

    async def turn(self) -> float:
        """Wait for the turn of a request that a task has read; when it had, by `perf_counter`.

        It counts as under way until whoever waited counts it off. Many tasks may go on before connections are looked
        at again: they may work for a millisecond together, whatever they are asked, and the others queue.
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
            if mine.done():  # the asker has gone
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
        """Connections have been looked at since the first task began."""
        self._tasks_s = None

    def queue(self, work: Callable[[], bool | None], received_s: float) -> None:
        """Do `work` in its turn; it counts as under way until `work`, or what that waits for, counts it off.

        Work that gives True has let a task go on, which the next one waits for.
        """
        if not self._queue:
            self._left_s = perf_counter()
            asyncio.get_running_loop().call_soon(self._go_on)
        self._queue.append((received_s, work))
        self.under_way += 1

    def waits(self) -> None:
        """A request that was begun at once is not answered yet: it waits for log or thread."""
        self.under_way += 1
        self._ended_s = perf_counter()

    def answered(self, received_s: float, begun_s: float, *, waited: bool) -> None:
        """An answer was given to a request that arrived at `received_s`, and was begun at `begun_s`."""
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
        finally:  # whatever one raised, the others have their turn
            self._left_s = perf_counter()
            if queue:
                self._go_on_later(min(int((self._left_s - begun_s) / _SLICE_S), _LOOKS))
            else:
                self._burst_s = self._left_s

    def _go_on_later(self, looks: int) -> None:
        """Go on after some looks at the connections: there is always one."""
        if looks > 1:
            asyncio.get_running_loop().call_soon(self._go_on_later, looks - 1)
        else:
            asyncio.get_running_loop().call_soon(self._go_on)
