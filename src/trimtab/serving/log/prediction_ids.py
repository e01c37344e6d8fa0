"""Ids of predictions. An id contains the time at which it was made. Ids sort by this time."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import threading
from typing import TYPE_CHECKING, Any

from trimtab.core.clock import Clock
from trimtab.core.errors import Misuse
from trimtab.core.time import format_time

if TYPE_CHECKING:  # NumPy is imported at the first use, so that `import trimtab` is fast
    from numpy.typing import NDArray

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, as in core.ids
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # all pairs of letters, each for ten bits
_DIGITS = {letter: value for value, letter in enumerate(_ALPHABET)}
_TIME_LETTERS = 10  # the number of letters for the 48 bits of time
_LETTERS = 26
_ROW_LETTERS = 8  # the number of letters at the end of an id in a batch; they encode the number of the row
_PREFIX = "p_"
_COUNTER_MASK = (1 << 30) - 1


class PredictionIds:
    """Makes ids: `p_` and 26 letters for 48 bits of time (ms), 30 bits of a counter, and 50 random bits.

    The random bits are drawn once for each object. Ids never repeat, even in several threads. In one thread they
    increase, even if the clock is set back. They have the form of `core.ids.TimeIds`. With a `seed` (for a simulation),
    the ids can be made again.

    This object is also the clock of the log that stores the predictions. So no prediction is appended before the time
    in its id, and predictions can be found by bisection.  # D170

    >>> from trimtab.core.clock import VirtualClock
    >>> ids = PredictionIds(VirtualClock(5_000), seed=1)
    >>> a, b = ids(), ids()
    >>> a < b, id_time_us(a)
    (True, 5000)
    """

    def __init__(self, clock: Clock, *, seed: int | None = None) -> None:
        self._now_us = clock.now_us
        self._random = _letters(random.Random(seed if seed is not None else os.urandom(16)).getrandbits(50), 5)
        self._counter = itertools.count(1)
        self._newest = -1, ""  # the millisecond of the newest id, and its letters
        self._front = -1, ""  # number and first letters of the present block of 1,024 ids
        self._mutex = threading.Lock()  # protects `_newest`

    def __call__(self) -> str:
        count = next(self._counter) & _COUNTER_MASK  # this operation is atomic, so it needs no lock
        now_ms = self._now_us() // 1_000
        ms, time = self._newest
        if now_ms > ms or not count or not time:  # a later millisecond, a counter that began again, or the first id
            ms, time = self._advance(now_ms, again=not count)
        block = ms << 20 | count >> 10
        of, front = self._front
        if of != block:
            front = f"{_PREFIX}{time}{_PAIRS[count >> 20]}{_PAIRS[count >> 10 & 1023]}"
            self._front = block, front
        return f"{front}{_PAIRS[count & 1023]}{self._random}"

    def now_us(self) -> int:
        """Return the time, but never a time before that of an id that was made."""
        given = self._newest[0]
        return self._now_us() if given < 0 else max(self._now_us(), 1_000 * given)

    def _advance(self, now_ms: int, *, again: bool) -> tuple[int, str]:
        with self._mutex:
            ms = self._newest[0]
            if max(now_ms, ms) < 0:
                raise Misuse(
                    f"clock: it shows {format_time(1_000 * now_ms)}, but the ids of predictions need 1970 or later. "
                    "Set the machine's clock."
                )
            if again or now_ms > ms:  # otherwise another thread has advanced `_newest` meanwhile
                ms = max(now_ms, ms + 1)
                self._newest = ms, _letters(ms, 5)
            return self._newest


def batch_prediction_ids(batch_id: str, made_at_us: int, rows: range) -> list[str]:
    """Return the ids of the rows of a batch.

    The same batch always gets the same ids, so that scoring it again adds nothing to the log.

    >>> batch_prediction_ids("b1", 5_000, range(2, 3)) == batch_prediction_ids("b1", 5_000, range(4))[2:3]
    True
    """
    return [made.decode() for made in packed_batch_ids(batch_id, made_at_us, rows).tolist()]


def packed_batch_ids(batch_id: str, made_at_us: int, rows: range) -> NDArray[Any]:
    """Return the ids of the rows of a batch as an array of ASCII bytes."""
    import numpy as np

    random_bits = int.from_bytes(hashlib.sha256(batch_id.encode()).digest()[:5], "big")
    head = f"{_PREFIX}{_letters(made_at_us // 1_000, 5)}{_letters(random_bits, 4)}".encode()
    letters = np.empty((len(rows), len(head) + _ROW_LETTERS), np.uint8)
    letters[:, : len(head)] = np.frombuffer(head, np.uint8)
    shifts = np.arange(5 * (_ROW_LETTERS - 1), -1, -5)
    numbers = np.arange(rows.start, rows.stop)[:, None] >> shifts & 31
    letters[:, len(head) :] = np.frombuffer(_ALPHABET.encode(), np.uint8)[numbers]
    return letters.view(f"S{letters.shape[1]}").ravel()


def id_time_us(prediction_id: str) -> int:
    """Return the time at which an id was made, in UTC microseconds, rounded down to a millisecond.

    Raises:
        Misuse: The text is not the id of a prediction.
    """
    letters = prediction_id.removeprefix(_PREFIX)
    if len(letters) != _LETTERS or len(letters) == len(prediction_id) or not _DIGITS.keys() >= set(letters):
        raise Misuse(f"prediction id {prediction_id!r} is not valid: it must be p_ and {_LETTERS} letters and digits.")
    ms = 0
    for letter in letters[:_TIME_LETTERS]:
        ms = ms * 32 + _DIGITS[letter]
    return ms * 1_000


def id_front(at_us: int) -> str:
    """Return the beginning of all ids that are made in a given millisecond. Such texts sort by time.

    >>> id_front(5_000) < id_front(6_999) == id_front(6_000)
    True
    """
    return f"{_PREFIX}{_letters(at_us // 1_000, _TIME_LETTERS // 2)}"


def _letters(number: int, pairs: int) -> str:
    if not 0 <= number < 1 << 10 * pairs:
        raise Misuse(f"identifier: {number} lies outside its {10 * pairs} bits. Is the clock set before 1970?")
    return "".join(_PAIRS[number >> shift & 1023] for shift in range(10 * pairs - 10, -1, -10))
