"""Delay of refusals when there are many, so that clients that retry at once leave time for answers. # D0082"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

_PER_S = 1_000.0  # refusals for each second spent on answers
_LEAST = 0.2  # the least share of each second that counts as spent on answers
_BURST = 100.0  # refusals that may be sent at once after a pause
_EVERY_S = 0.005  # between two batches of delayed refusals


class Refusals:
    """Refusals in the order of their requests. They are sent at once while they are few, and delayed otherwise.

    A client that retries at once first waits for its refusal. One refusal is sent for each millisecond that was spent
    on answers, so refusals never take most of the time.

    Args:
        busy: Whether requests are in flight.
        served_s: The seconds spent on answers so far.
    """

    def __init__(self, busy: Callable[[], bool], served_s: Callable[[], float]) -> None:
        self._busy = busy
        self._served_s = served_s
        self._served_before_s = 0.0
        self._held: deque[Callable[[], object]] = deque()
        # how many refusals may be sent at once, and the time to which that number refers
        self._left, self._left_at_s = _BURST, perf_counter()

    @property
    def held(self) -> int:
        """Return the number of refusals that are delayed."""
        return len(self._held)

    def at_once(self) -> bool:
        """Return whether a refusal may be sent now. If not, the caller must `hold` it."""
        if self._held:
            return False
        if self._refilled() >= 1.0:
            self._left -= 1.0
            return True
        return False

    def hold(self, send: Callable[[], object]) -> None:
        """Call `send` when the refusal has its turn."""
        if not self._held:
            asyncio.get_running_loop().call_later(_EVERY_S, self._go_on)
        self._held.append(send)

    async def turn(self) -> None:
        """Wait until a task may send its refusal."""
        if self.at_once():
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def send() -> None:
            if not mine.done():  # the client has closed its connection
                mine.set_result(None)

        self.hold(send)
        await mine

    def _refilled(self) -> float:
        now_s, served_s = perf_counter(), self._served_s()
        past_s = now_s - self._left_at_s
        answering_s = past_s
        if self._busy():
            # several refusals waited together
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
