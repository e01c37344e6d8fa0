"""Clocks: the machine's clock, a clock that is checked for jumps, and clocks for simulations."""

import time
from collections.abc import Callable
from typing import Protocol

from trimtab.core.errors import Misuse, Unavailable

TOLERANCE_US = 900_000_000  # how far the machine's clock may jump ahead between two readings, in microseconds


class Clock(Protocol):
    """A source of the current time, in UTC microseconds since 1970."""

    def now_us(self) -> int: ...


class SystemClock:
    """The machine's clock.

    >>> SystemClock().now_us() > 1_600_000_000_000_000
    True
    """

    def now_us(self) -> int:
        return time.time_ns() // 1_000


def elapsed_us() -> int:
    """Return the microseconds since a fixed time, including those in which the machine was suspended.

    >>> elapsed_us() <= elapsed_us()
    True
    """
    return time.clock_gettime_ns(_ELAPSED) // 1_000


_ELAPSED: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class CheckedClock:
    """A clock that raises an error if another clock, which it checks, has jumped ahead. # D0170

    At each reading, the elapsed time is subtracted from the clock's time. If the difference exceeds the largest one so
    far by more than the tolerance, the clock has jumped ahead. So a clock that was set back is trusted, also when it is
    then corrected.

    Args:
        elapsed_us: Returns the time since a fixed time. Setting the clock does not change it.

    >>> CheckedClock(VirtualClock(5), elapsed_us=lambda: 0).now_us()
    5
    """

    def __init__(self, clock: Clock, *, elapsed_us: Callable[[], int] = elapsed_us) -> None:
        self._now_us = clock.now_us
        self._elapsed_us = elapsed_us
        # the largest difference between the clock and the elapsed time at any trusted reading
        self._most_us = clock.now_us() - elapsed_us()

    def now_us(self) -> int:
        """Return the time of the checked clock.

        Raises:
            Unavailable: The clock has jumped ahead.
        """
        now_us = self._now_us()
        ahead_us = now_us - self._elapsed_us() - self._most_us
        if ahead_us > 0:
            if ahead_us > TOLERANCE_US:
                raise Unavailable(_jumped(ahead_us))
            self._most_us += ahead_us
        return now_us

    def jump(self) -> str | None:
        """Return why the clock cannot be trusted now; None if it can."""
        ahead_us = self._now_us() - self._elapsed_us() - self._most_us
        return _jumped(ahead_us) if ahead_us > TOLERANCE_US else None


def _jumped(ahead_us: int) -> str:
    return (
        f"the machine's clock jumped ahead by {ahead_us / 60e6:,.0f} minutes; at most {TOLERANCE_US // 60_000_000} are "
        "accepted, so nothing is recorded at that time. Correct the clock; if its time is right, restart this process."
    )


class VirtualClock:
    """A clock that only `advance_to` moves, and never backwards.

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
        """Set the clock to `now_us`.

        Raises:
            Misuse: `now_us` is earlier than the time that the clock shows.
        """
        if now_us < self._now_us:
            raise Misuse(f"clock: cannot go back from {self._now_us} to {now_us} us. Start a new VirtualClock.")
        self._now_us = now_us


class ShiftedClock:
    """A clock that begins at a given time and then runs at normal speed.

    With this clock, a service can answer as of the end of a history that was replayed.

    >>> clock = ShiftedClock(1_000_000)
    >>> 1_000_000 <= clock.now_us() < 2_000_000
    True
    """

    def __init__(self, starts_at_us: int) -> None:
        self._ahead_us = starts_at_us - time.monotonic_ns() // 1_000

    def now_us(self) -> int:
        return time.monotonic_ns() // 1_000 + self._ahead_us
