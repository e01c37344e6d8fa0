"""Whether keys that LMDB does not find are absent, and not hidden by a damaged page. # D0172

A pair carries a checksum, a page does not: damage in a key, or in a page that leads to it, makes a look-up end where
the key does not stand. It ends between two pairs then, of which one is damaged or out of order. So the neighbours of a
key that was not found are verified: the nearest two by their checksums, some more by their order.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice
from operator import ge
from typing import Any

NEIGHBOURS = 32  # on either side: about what two pages of 4 KiB hold, so that one in a wrong place is noticed
RESIDUE = 0x2144DF1C  # the CRC-32 of anything followed by its own CRC-32, little-endian
_crc32 = zlib.crc32


def hidden(transaction: Any, keys: Iterable[bytes], exempt: bytes) -> bytes | None:
    """A key at which it shows that a page is damaged; None: all of `keys` are absent.

    Args:
        transaction: The read transaction that did not find them.
        keys: Those that were not found.
        exempt: A key whose value has no checksum.
    """
    cursor = transaction.cursor()
    near: list[bytes] = []
    gap = -1  # the place between two neighbours that are verified
    for key in sorted(keys):
        if not (near and near[0] < key < near[-1]):
            near, gap = _neighbours(cursor, key), -1
            if any(map(ge, near, near[1:])):
                return key
        place = bisect_left(near, key)
        if place < len(near) and near[place] == key:
            return key
        if place != gap:
            gap = place
            for other in near[max(0, place - 1) : place + 1]:
                raw = transaction.get(other)
                if other != exempt and (raw is None or _crc32(raw, _crc32(other)) != RESIDUE):
                    return other
    return None


def _neighbours(cursor: Any, key: bytes) -> list[bytes]:
    """The keys around one, in the order of their pages."""
    there = cursor.set_range(key)
    behind = list(islice(cursor.iternext(keys=True, values=False), NEIGHBOURS)) if there else []
    there = (cursor.set_range(key) and cursor.prev()) if there else cursor.last()
    before = list(islice(cursor.iterprev(keys=True, values=False), NEIGHBOURS)) if there else []
    return before[::-1] + behind
