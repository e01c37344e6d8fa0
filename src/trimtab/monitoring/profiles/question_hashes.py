"""Hash logged requests without their key and time, working directly on their encoded bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.features.definitions import Request

_Ints = NDArray[np.int64]
# appended to the last request, because reading the size of its last element may go a few bytes too far
_PADDING = bytes(8)


def _sizes() -> _Ints:
    """Return the size of a msgpack element for each value of its first byte.

    0: the next bytes give the length (see `_LENGTHS`), or the element is of another type, such as an array.
    """
    sizes = np.zeros(256, np.int64)
    sizes[:0x80] = sizes[0xE0:] = 1  # small integers
    sizes[0xA0:0xC0] = np.arange(1, 33)  # short texts
    sizes[[0xC0, 0xC2, 0xC3]] = 1  # null, False and True
    sizes[[0xCA, 0xCB]] = 5, 9  # floats
    sizes[0xCC:0xD4] = 2, 3, 5, 9, 2, 3, 5, 9  # integers
    return sizes


_SIZES = _sizes()
_LENGTHS = ((0xD9, 1), (0xDA, 2), (0xDB, 4))  # longer texts: the first byte, and how many bytes then give the length
_ARRAYS = ((0xDC, 2), (0xDD, 4))


def aside_of(request: Request) -> frozenset[int]:
    """Return the positions of the key and the time in a request. These are left out of the hash."""
    return frozenset(place for place, name in enumerate(request.columns) if name in (request.key, request.time))


def question_hashes(requests: Sequence[bytes], aside: Collection[int]) -> _Ints:
    """Return a hash of each request without its key and time. Only compare hashes within one process.

    The bytes of key and time are cut out of many requests at once, without decoding them. A request is hashed as a
    whole if it has too few columns, or if the size of a column up to the key and time is not known (see `_sizes`).

    Args:
        requests: The columns of each request in declared order, encoded as a msgpack array.
        aside: The positions of the key and the time.
    """
    places = sorted(aside)
    if not requests or not places:
        return np.fromiter(map(hash, requests), np.int64, len(requests))
    joined = np.frombuffer(b"".join([*requests, _PADDING]), np.uint8)
    lengths = np.fromiter(map(len, requests), np.int64, len(requests))
    begin = np.cumsum(lengths) - lengths
    at, sound = _first_element(joined, begin, places[-1])
    cuts: list[tuple[_Ints, _Ints]] = []
    for place in range(places[-1] + 1):
        size = _size(joined, np.minimum(at, joined.size - len(_PADDING)))
        if place in aside:
            cuts.append((at - begin, at + size - begin))
        sound &= size > 0
        at = at + size
    sound &= at <= begin + lengths
    if places == [*range(len(places))]:  # key and time come first, so the rest is one piece
        ends = np.where(sound, cuts[-1][1], 0).tolist()
        return np.array([hash(one[end:]) for one, end in zip(requests, ends, strict=True)], np.int64)
    bounds = zip(*(side.tolist() for cut in cuts for side in cut), strict=True)
    kept = (
        _without(one, cut) if whole else one for one, cut, whole in zip(requests, bounds, sound.tolist(), strict=True)
    )
    return np.fromiter(map(hash, kept), np.int64, len(requests))


def _first_element(joined: NDArray[np.uint8], begin: _Ints, last: int) -> tuple[_Ints, NDArray[np.bool_]]:
    """Return where the first element of each array begins, and whether the array has an element with index `last`."""
    head = joined[begin]
    count, at = (head & 0x0F).astype(np.int64), begin + 1
    small = head >> 4 == 0x9
    for first, width in _ARRAYS:
        large = head == first
        if large.any():
            count = np.where(large, _number(joined, begin + 1, width), count)
            at = np.where(large, begin + 1 + width, at)
            small |= large
    return at, small & (count > last)


def _size(joined: NDArray[np.uint8], at: _Ints) -> _Ints:
    """Return the size of the element at each position; 0 if it is of another type, such as an array."""
    first = joined[at]
    size = _SIZES[first]
    if not size.all():
        for code, width in _LENGTHS:
            long = first == code
            if long.any():
                size = np.where(long, 1 + width + _number(joined, at + 1, width), size)
    return size


def _number(joined: NDArray[np.uint8], at: _Ints, width: int) -> _Ints:
    """Return the big-endian integers of `width` bytes at the given positions."""
    found = np.zeros(at.size, np.int64)
    for place in range(width):
        found = found << 8 | joined[at + place]
    return found


def _without(request: bytes, cuts: Sequence[int]) -> bytes:
    """Return the bytes outside of some ranges, which are given as (begin, end, begin, end, ...)."""
    edges = (0, *cuts, len(request))
    return b"".join([request[edges[n] : edges[n + 1]] for n in range(0, len(edges), 2)])
