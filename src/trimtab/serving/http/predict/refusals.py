"""Delay refusals if there are many, so that clients that retry at once leave time for answers.  # D0082"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

_PER_S = 1_000.0  # how many refusals are sent for each second that is spent on answers
_LEAST = 0.2  # at least this share of each second counts as spent on answers
_BURST = 100.0  # the number of refusals that may be sent at once after a pause
_EVERY_S = 0.005  # time between two batches of delayed refusals


class Refusals:
    """Refusals in the order of their requests. After a pause, 100 may be sent at once; further ones are delayed.

    A client that retries at once must first wait for its refusal. One refusal is sent for each millisecond that was
    spent on answers (or in which no request was in flight), so refusals never take most of the time.

    Args:
        busy: Returns whether requests are in flight.
        served_s: Returns the seconds spent on answers so far.
    """

    def __init__(self, busy: Callable[[], bool], served_s: Callable[[], float]) -> None:
        self._busy = busy
        self._served_s = served_s
        self._served_before_s = 0.0
        self._held: deque[Callable[[], object]] = deque()
        # how many refusals may be sent at once, and when this was computed
        self._left, self._left_at_s = _BURST, perf_counter()

    @property
    def held(self) -> int:
        """Return the number of refusals that are delayed."""
        return len(self._held)

    def at_once(self) -> bool:
        """Return whether a refusal may be sent now. If not, the caller passes it to `hold`."""
        if self._held:
            return False
        if self._refilled() >= 1.0:
            self._left -= 1.0
            return True
        return False

    def hold(self, send: Callable[[], object]) -> None:
        """Call `send` when it is the turn of this refusal."""
        if not self._held:
            asyncio.get_running_loop().call_later(_EVERY_S, self._go_on)
        self._held.append(send)

    async def turn(self) -> None:
        """Wait until the calling task may send its refusal."""
        if self.at_once():
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def send() -> None:
            if not mine.done():  # otherwise the client has closed its connection
                mine.set_result(None)

        self.hold(send)
        await mine

    def _refilled(self) -> float:
        """Return how many refusals may be sent now, after adding those for the time since the last call."""
        now_s, served_s = perf_counter(), self._served_s()
        past_s = now_s - self._left_at_s
        answering_s = past_s
        if self._busy():
            # answers overlap, so their total time may exceed the time that has passed
            answering_s = max(_LEAST * past_s, min(past_s, served_s - self._served_before_s))
        self._left = min(_BURST, self._left + _PER_S * answering_s)
        self._left_at_s, self._served_before_s = now_s, served_s
        return self._left

    def _go_on(self) -> None:
        held = self._held
        count = min(len(held), int(self._refilled()))
        self._left -= count
        try:
            for _ in range(count):
                held.popleft()()
        finally:
            if held:
                asyncio.get_running_loop().call_later(_EVERY_S, self._go_on)
