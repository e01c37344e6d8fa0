"""Identifiers that sort by time. Two processes never make the same one."""

import os
import random
import threading
from typing import Protocol

from trimtab.core.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Douglas Crockford's base 32, without i, l, o and u


class Ids(Protocol):
    """A source of new identifiers."""

    def __call__(self, kind: str) -> str: ...


class TimeIds:
    """Makes identifiers: a kind, "_", and 26 base-32 digits of the time (48 bits of ms) and a number of 80 bits.

    Identifiers of one object strictly increase: the number is random for the first identifier in each millisecond, and
    greater by one for each later one. Without a `seed`, the random generator is seeded by the system, so that processes
    make different identifiers. With a `seed` (for simulations), the same identifiers can be made again.

    >>> from trimtab.core.clock import VirtualClock
    >>> ids = TimeIds(VirtualClock(0), seed=1)
    >>> a, b = ids("p"), ids("p")
    >>> a < b and len(a) == 28
    True
    """

    def __init__(self, clock: Clock, *, seed: int | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ms = 0  # never negative, even if the clock shows a time before 1970
        self._tail = 0
        self._random = random.Random(os.urandom(16) if seed is None else seed)

    def __call__(self, kind: str) -> str:
        with self._lock:
            ms = max(self._clock.now_us() // 1_000, self._ms)
            self._tail = self._tail + 1 if ms == self._ms and self._tail else self._random.getrandbits(79) | 1
            self._ms = ms
            return f"{kind}_{_base32((ms << 80) | self._tail)}"


def _base32(number: int) -> str:
    letters = []
    for _ in range(26):
        number, digit = divmod(number, 32)
        letters.append(_ALPHABET[digit])
    return "".join(reversed(letters))
