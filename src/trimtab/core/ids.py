"""Identifiers that sort by time and do not collide between processes."""

import os
import random
import threading
from typing import Protocol

from trimtab.core.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


class Ids(Protocol):
    """Gives a new identifier at each call."""

    def __call__(self, kind: str) -> str: ...


class TimeIds:
    """Identifiers `kind_` + 26 base-32 letters: 48 bits of milliseconds, then 80 random bits that count up.

    Within one process the identifiers strictly increase. Identifiers of two processes differ in 64 bits, which each
    process draws at its start. A `seed` gives the same identifiers again (for a simulation). Without a seed the random
    bits come from the system.

    >>> from trimtab.core.clock import VirtualClock
    >>> ids = TimeIds(VirtualClock(0), seed=1)
    >>> a, b = ids("p"), ids("p")
    >>> a < b and len(a) == 28
    True
    """

    def __init__(self, clock: Clock, *, seed: int | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ms = 0  # at least 0, because a clock may stand before 1970
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
