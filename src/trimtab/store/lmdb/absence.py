"""Prove that keys which LMDB does not find are absent, and not hidden by a damaged page. # D0172

Each pair of key and value has a checksum, but LMDB's pages have none. If a key, or a page on the way to it, is damaged,
a look-up ends in a wrong place between two other pairs. The proof checks the two pairs around the place where the
look-up ends. If both have the right checksum, and a look-up of each finds the other one next to it, then no key lies
between them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

RESIDUE = 0x2144DF1C  # the CRC-32 of bytes followed by their own CRC-32 (little-endian), for any bytes
_crc32 = zlib.crc32


def hidden(transaction: Any, keys: Iterable[bytes], exempt: bytes) -> bytes | None:
    """Return a key at which damage was found, or None if all of `keys` are proven to be absent.

    Args:
        transaction: The read transaction in which the keys were not found.
        keys: The keys that were not found.
        exempt: The first key of the store. Its value has no checksum.
    """
    # this key is always stored; if not found, the first page or the root has the bytes of another page
    if transaction.get(exempt) is None:
        return exempt
    # the neighbouring keys of the last proof: a key between them is absent without another look-up. None: the end of
    # the store on this side. Before the first proof, low is above high, so no key is between them.
    low: bytes | None = b"\xff"
    high: bytes | None = b""
    for key in sorted(keys):
        if (low is None or low < key) and (high is None or key < high):
            continue
        low = high = None
        cursor = transaction.cursor()  # a new cursor, because a used one may only search its own page
        if there := cursor.set_range(key):
            high, value = cursor.item()
            if high <= key:
                return key
            if _crc32(value, _crc32(high)) != RESIDUE and high != exempt:
                return high
        if cursor.prev() if there else cursor.last():
            low, value = cursor.item()
            if low >= key:
                return key
            if _crc32(value, _crc32(low)) != RESIDUE and low != exempt:
                return low
        if not _adjacent(transaction, low, high):
            return key
    return None


def _adjacent(transaction: Any, low: bytes | None, high: bytes | None) -> bool:
    """Return whether a look-up of each key finds the other one next to it. None stands for an end of the store.

    This is also false if a page has the bytes of another page, because then the two look-ups do not meet.
    """
    if low is not None:
        cursor = transaction.cursor()
        if not cursor.set_key(low) or (cursor.key() if cursor.next() else None) != high:
            return False
    if high is not None:
        cursor = transaction.cursor()
        return bool(cursor.set_key(high) and (cursor.key() if cursor.prev() else None) == low)
    return True
