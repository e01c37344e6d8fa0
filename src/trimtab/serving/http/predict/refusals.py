"""Refusals on their way out: many are held back, so that clients that retry at once leave time for answers. # D0173"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

_PER_S = 1_000.0  # refusals for each second of answering
_LEAST = 0.2  # of that where nothing is answered, or hardly anything
_BURST = 100.0  # at once, after a pause
_EVERY_S = 0.005  # between two looks at those that are held back


class Refusals:
    """Refusals in the order of their requests: at once as long as they are few, else held back.

    A client that retries at once waits for its refusal first, whether it keeps its connection or opens another. So it
    is refused once for each millisecond that was spent on answers: where refusals are dear, there are fewer of them.

    Args:
        busy: Whether there are answers that refusals take time from.
        served_s: The seconds that were spent on answers so far.
    """

    def __init__(self, busy: Callable[[], bool], served_s: Callable[[], float]) -> None:
        self._busy = busy
        self._served_s = served_s
        self._served_before_s = 0.0
        self._held: deque[Callable[[], object]] = deque()
        self._left, self._left_at_s = _BURST, perf_counter()  # how many may leave at once, and when that was so

    @property
    def held(self) -> int:
        """The number of refusals that are held back."""
        return len(self._held)

    def at_once(self) -> bool:
        """Return whether a refusal may leave now; if not, `hold` it."""
        if self._held:
            return False
        if self._refilled() >= 1.0:
            self._left -= 1.0
            return True
        return False

    def hold(self, send: Callable[[], object]) -> None:
        """Call `send` in its turn."""
        if not self._held:
            asyncio.get_running_loop().call_later(_EVERY_S, self._go_on)
        self._held.append(send)

    async def turn(self) -> None:
        """Wait for the turn of a refusal that a task is about to send."""
        if self.at_once():
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def send() -> None:
            if not mine.done():  # the client has gone
                mine.set_result(None)

        self.hold(send)
        await mine

    def _refilled(self) -> float:
        now_s, served_s = perf_counter(), self._served_s()
        past_s = now_s - self._left_at_s
        answering_s = past_s
        if self._busy():
            answering_s = max(_LEAST * past_s, min(past_s, served_s - self._served_before_s))  # some waited together
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
