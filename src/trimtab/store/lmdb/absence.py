"""Proof that keys which LMDB does not find are absent, and not hidden by a damaged page. # D0172

A pair carries a checksum, but a page does not. Damage in a key, or in a page that leads to the key, makes a look-up end
at a wrong place, between two pairs. If both pairs are sound, and a look-up of each pair finds it next to the other
pair, then no key lies between them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

RESIDUE = 0x2144DF1C  # the CRC-32 of anything followed by its own CRC-32, little-endian
_crc32 = zlib.crc32


def hidden(transaction: Any, keys: Iterable[bytes], exempt: bytes) -> bytes | None:
    """Return a key at which a damaged page shows, or None if all of `keys` are absent.

    Args:
        transaction: The read transaction that did not find them.
        keys: The keys that were not found.
        exempt: The first key of the store, whose value has no checksum.
    """
    if transaction.get(exempt) is None:  # another page stands in the place of the first page or of the root
        return exempt
    low: bytes | None = b"\xff"  # the keys around a verified gap between pairs, None at an end
    high: bytes | None = b""
    for key in sorted(keys):
        if (low is None or low < key) and (high is None or key < high):
            continue
        low = high = None
        cursor = transaction.cursor()  # a cursor that was used may search only its own page
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
    """Return whether a look-up of either of two keys finds it next to the other. None stands for an end.

    On a misplaced page this does not hold.
    """
    if low is not None:
        cursor = transaction.cursor()
        if not cursor.set_key(low) or (cursor.key() if cursor.next() else None) != high:
            return False
    if high is not None:
        cursor = transaction.cursor()
        return bool(cursor.set_key(high) and (cursor.key() if cursor.prev() else None) == low)
    return True
