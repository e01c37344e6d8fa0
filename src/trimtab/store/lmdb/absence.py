"""Proof that keys which LMDB does not find really are absent, and not hidden by a damaged page. # D0172

Each pair of key and value has a checksum, but LMDB's pages have none. If a key is damaged, or a page on the way to it,
then a look-up ends in the wrong place between two other pairs. The proof takes the two pairs around that place. Both
must have the right checksum, and a look-up of each must find the other one next to it. Then no key lies between them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

RESIDUE = 0x2144DF1C  # the CRC-32 of any bytes that are followed by their own CRC-32 (little-endian)
_crc32 = zlib.crc32


def hidden(transaction: Any, keys: Iterable[bytes], exempt: bytes) -> bytes | None:
    """Return a key at which damage was found, or None if all of `keys` are proven to be absent.

    Args:
        transaction: The read transaction in which the keys were not found.
        keys: The keys that were not found.
        exempt: The first key of the store. Its value has no checksum.
    """
    if transaction.get(exempt) is None:  # the first page, or the root of the tree, was replaced by another page
        return exempt
    # The two neighbouring pairs of the last proof; keys between them are absent. None stands for an end of the store.
    low: bytes | None = b"\xff"
    high: bytes | None = b""
    for key in sorted(keys):
        if (low is None or low < key) and (high is None or key < high):
            continue
        low = high = None
        cursor = transaction.cursor()  # a cursor that was used before may only search its own page, so take a new one
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
    """Return whether a look-up of either key finds the other key next to it. None stands for an end of the store.

    If a page was replaced by another page, this is not the case.
    """
    if low is not None:
        cursor = transaction.cursor()
        if not cursor.set_key(low) or (cursor.key() if cursor.next() else None) != high:
            return False
    if high is not None:
        cursor = transaction.cursor()
        return bool(cursor.set_key(high) and (cursor.key() if cursor.prev() else None) == low)
    return True
