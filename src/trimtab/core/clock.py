"""Time as an argument: the system's clock, and one that a simulation moves."""

import time
from typing import Protocol

from trimtab.core.errors import Misuse


class Clock(Protocol):
    """What time it is, in UTC microseconds since 1970."""

    def now_us(self) -> int: ...


class SystemClock:
    """The machine's clock.

    >>> SystemClock().now_us() > 1_600_000_000_000_000
    True
    """

    def now_us(self) -> int:
        return time.time_ns() // 1_000


class VirtualClock:
    """A clock that stands still until it is moved, and never runs backwards.

    >>> clock = VirtualClock(1_000)
    >>> clock.advance_to(2_500)
    >>> clock.now_us()
    2500
    """

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def advance_to(self, now_us: int) -> None:
        """Move to `now_us`.

        Raises:
            Misuse: `now_us` lies before the present.
        """
        if now_us < self._now_us:
            raise Misuse(f"clock: cannot go back from {self._now_us} to {now_us} us. Start a new VirtualClock.")
        self._now_us = now_us


class ShiftedClock:
    """A clock that runs at the usual pace from another moment on: to serve a replayed history as of its end.

    >>> clock = ShiftedClock(1_000_000)
    >>> 1_000_000 <= clock.now_us() < 2_000_000
    True
    """

    def __init__(self, starts_at_us: int) -> None:
        self._ahead_us = starts_at_us - time.monotonic_ns() // 1_000

    def now_us(self) -> int:
        return time.monotonic_ns() // 1_000 + self._ahead_us
