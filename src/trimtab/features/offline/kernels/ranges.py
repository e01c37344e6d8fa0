"""The smallest or largest values of many ranges at once.

They come from doubling tables: table k has the results for all ranges of 2**k values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_BLOCK = 16  # a range of 32 values or more is covered by its aligned blocks and its first and last 16 values
_LEVELS = 4  # the last table: ranges of 2**4 values


def over_ranges(op: np.ufunc, values: Array, low: Array, high: Array, empty: Any) -> Array:
    """Apply `op` (np.minimum or np.maximum) to each range values[low:high]. Empty ranges give `empty`.

    >>> over_ranges(np.minimum, np.array([3, 1, 2]), np.array([0, 2]), np.array([2, 2]), 9).tolist()
    [1, 9]
    """
    out = np.full(len(low), empty, values.dtype)
    logarithm = np.frexp(np.maximum(high - low, 0).astype(np.float64))[1] - 1  # rounded down; -1: the range is empty
    # the index of the table to use; _LEVELS + 1: the range is too long for the tables
    level = np.minimum(logarithm, _LEVELS + 1).astype(np.int8)
    table = values
    for k in range(_LEVELS + 1):
        if k:
            half = 2 ** (k - 1)
            if len(table) <= half:
                return out
            table = op(table[:-half], table[half:])
        rows = np.flatnonzero(level == k)
        if len(rows):
            out[rows] = op(table[low[rows]], table[high[rows] - 2**k])
    rows = np.flatnonzero(level == _LEVELS + 1)
    if len(rows):
        first, last = low[rows], high[rows]
        ends = op(table[first], table[last - _BLOCK])
        between = over_ranges(op, table[::_BLOCK].copy(), -(-first // _BLOCK), last // _BLOCK, empty)
        out[rows] = op(ends, between)
    return out


def over_covers(op: np.ufunc, start: Array, stop: Array, values: Array, size: int, empty: Any) -> Array:
    """Return for each place the result of `op` over all values whose range [start, stop) contains the place.

    Places in no range get `empty`. `size` is the number of places.

    >>> over_covers(np.maximum, np.array([0, 1]), np.array([2, 4]), np.array([7, 5]), 4, 0).tolist()
    [7, 7, 5, 5]
    """
    out = np.full(size, empty, values.dtype)
    length = stop - start
    level = np.frexp(np.maximum(length, 0).astype(np.float64))[1] - 1  # rounded down; -1: the range is empty
    for k in range(int(level.max(initial=-1)), -1, -1):
        rows = np.flatnonzero(level == k)
        op.at(out, start[rows], values[rows])
        op.at(out, stop[rows] - 2**k, values[rows])
        if k:  # pass the result for a range of 2**k places on to its two halves
            half = 2 ** (k - 1)
            out[half:] = op(out[half:], out[:-half])
    return out
