"""Exact sums over ranges of a column, from prefix sums of integers. A sum is only rounded when it is read.

Each float is split into limbs: integers that count fixed powers of two. Prefix sums of limbs, and their differences,
are exact. So the result equals `math.fsum` of the range, and does not depend on the order of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Dtype

Array = NDArray[Any]
Limbs = list[Array]  # int64 arrays, the least significant limb first

_EXACT = 2**53  # integers up to this magnitude are exact as floats
_KEPT = 62  # how many bits are kept for rounding; the last of them says whether any lower bit is set
_HALF = 32  # how many bits the lower limb of an integer has


class ExactSums:
    """Values that can be summed exactly over any selection of rows.

    Args:
        values: float64, int64 or bool, without NaN. Rows without a value have 0.
        dtype: The type of the column. Sums are floats if it is float, and otherwise integers.

    >>> sums = ExactSums(np.array([1e16, 1.0, -1e16]), "float")
    >>> prefix = sums.prefix(slice(None))
    >>> sums.rounded([p[[3]] - p[[0]] for p in prefix])
    array([1.])
    """

    def __init__(self, values: Array, dtype: Dtype) -> None:
        self.is_float = dtype == "float"
        self._limbs = _float_limbs(values) if self.is_float else _int_limbs(values.astype(np.int64, copy=False))

    def limbs(self, rows: Array | slice) -> Limbs:
        """Return the limbs of the values at `rows`."""
        return [limb[rows] for limb in self._limbs.limbs]

    def prefix(self, rows: Array | slice) -> Limbs:
        """Return prefix sums of the limbs of the values at `rows`. The first one is 0."""
        out = []
        for limb in self._limbs.limbs:
            chosen = limb[rows]
            sums = np.empty(len(chosen) + 1, np.int64)
            sums[0] = 0
            np.cumsum(chosen, out=sums[1:])
            out.append(sums)
        return out

    def rounded(self, totals: Sequence[Array]) -> Array:
        """Return sums, given the sums of their limbs (`totals`).

        Sums of floats are float64 and rounded once. Sums of integers are int64; a sum that overflows is given modulo
        2**64.
        """
        return self.floats(totals) if self.is_float else _whole(totals)[0]

    def overflows(self, totals: Sequence[Array]) -> Array | None:
        """Return a boolean array: which integer sums do not fit in 64 bits. None: all fit."""
        return None if self.is_float else _whole(totals)[1]

    def floats(self, totals: Sequence[Array]) -> Array:
        """Return sums as float64, rounded once, given the sums of their limbs. Sums of integers may exceed 64 bits."""
        return _rounded(list(totals), self._limbs.width, self._limbs.exponent)


class _Split:
    """Values split into limbs: value = sum of limbs[j] * 2**(exponent + j * width)."""

    def __init__(self, limbs: Limbs, width: int, exponent: int) -> None:
        self.limbs = limbs
        self.width = width
        self.exponent = exponent


def _float_limbs(values: Array) -> _Split:
    width = min(52, _KEPT - max(1, len(values)).bit_length())  # chosen so that no prefix sum exceeds 62 bits
    exponent, top = _bits(values)
    count = max(1, -(-(top - exponent) // width))
    limbs: Limbs = []
    rest = values
    for j in reversed(range(count)):
        place = exponent + j * width
        whole = _scaled(rest, -place)
        if j:
            np.trunc(whole, out=whole)  # rounding toward zero leaves a remainder that is exact
            rest = np.subtract(rest, _scaled(whole, place), out=None if rest is values else rest)
        limbs.append(whole.astype(np.int64))
    return _Split(limbs[::-1], width, exponent)


def _bits(values: Array) -> tuple[int, int]:
    """Return two exponents of two: no value has a bit set below the first one, or at or above the second one."""
    magnitude = np.abs(values)
    greatest = float(magnitude.max(initial=0.0))
    if greatest == 0.0:
        return 0, 1
    least = float(magnitude.min())
    if least == 0.0:
        least = float(np.min(magnitude, where=magnitude > 0.0, initial=np.inf))
    lowest = max(int(np.frexp(least)[1]) - 53, -1074)
    if lowest < 0 and all((v == np.trunc(v)).all() for v in (values[:1_000], values)):
        lowest = 0  # all values are whole numbers (if not, the first 1,000 usually show it)
    return lowest, int(np.frexp(greatest)[1])


def _scaled(values: Array, power: int) -> Array:
    """Return values * 2**power, by one multiplication if 2**power is a float."""
    out: Array = values * 2.0**power if abs(power) <= 1000 else np.ldexp(values, power)
    return out


def _int_limbs(values: Array) -> _Split:
    greatest = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))
    if greatest * max(1, len(values)) < 2**63:
        return _Split([values], _HALF, 0)
    return _Split([values & (2**_HALF - 1), values >> _HALF], _HALF, 0)


def _whole(totals: Sequence[Array]) -> tuple[Array, Array | None]:
    """Return integer sums modulo 2**64, and which of them do not fit in 64 bits (None: all fit)."""
    if len(totals) == 1:
        return totals[0], None
    low, high = totals[0] & (2**_HALF - 1), totals[1] + (totals[0] >> _HALF)
    wrong = (high < -(2**31)) | (high >= 2**31)
    return (high << _HALF) | low, wrong if wrong.any() else None


def _rounded(totals: Limbs, width: int, exponent: int) -> Array:
    """Return sums as float64, rounded once, given the sums of their limbs (`totals`)."""
    if len(totals) == 1:
        return _scaled(totals[0].astype(np.float64), exponent)
    low, *middle, high = _carried(totals, width)
    # both parts are exact as floats, so adding them rounds only once
    if not middle and np.abs(high).max(initial=0) < _EXACT:
        return _scaled(_scaled(high.astype(np.float64), width) + low.astype(np.float64), exponent)
    # otherwise, round the absolute value from the bits of its limbs, and add the sign afterwards
    negative = high < 0
    carried = _carried([np.where(negative, -limb, limb) for limb in totals], width)
    carried.append(carried[-1] >> width)
    carried[-2] = carried[-2] & (2**width - 1)
    magnitude = _rounded_magnitude(np.stack(carried), width, exponent)
    out: Array = np.where(negative, -magnitude, magnitude) + 0.0
    return out


def _carried(limbs: Limbs, width: int) -> Limbs:
    """Carry between limbs, so that all but the last are in [0, 2**width). The sums do not change."""
    out: Limbs = [limbs[0]]
    for limb in limbs[1:]:
        carry = out[-1] >> width
        out[-1] = out[-1] & (2**width - 1)
        out.append(limb + carry)
    return out


def _rounded_magnitude(limbs: Array, width: int, exponent: int) -> Array:
    """Return correctly rounded floats, given limbs that are not negative and below 2**width, shape (limbs, rows)."""
    count, rows = limbs.shape
    first = count - 1 - np.argmax(limbs[::-1] != 0, axis=0)  # the highest limb that is not 0
    padded = np.concatenate([np.zeros((2, rows), np.int64), limbs])
    columns = np.arange(rows)
    a, b, c = (padded[first + 2 - back, columns] for back in (0, 1, 2))  # limb `first` and the two below it
    # at index i: whether any of the limbs below i - 2 is not 0
    nonzero = np.concatenate([np.zeros((3, rows), bool), np.cumsum(limbs != 0, axis=0) > 0])
    rest = nonzero[first, columns]  # whether any limb below c is not 0
    bits = np.frexp(a.astype(np.float64))[1].astype(np.int64)
    room = _KEPT - bits  # how many of the kept bits remain after limb a
    after = room - width  # how many remain after limbs a and b
    kept = a << room
    kept |= np.where(after >= 0, b << np.maximum(after, 0), b >> np.maximum(-after, 0))
    b_lost = np.where(after < 0, b & ((1 << np.maximum(-after, 0)) - 1), 0)
    c_shift = np.where(after >= 0, width - after, 0)  # how many bits of c do not fit
    kept |= np.where(after >= 0, c >> np.clip(c_shift, 0, 62), 0)
    c_lost = np.where(after >= 0, c & ((1 << np.clip(c_shift, 0, 62)) - 1), c)
    kept |= ((b_lost | c_lost) != 0) | rest
    out: Array = np.ldexp(kept.astype(np.float64), exponent + first * width - room)
    return out
