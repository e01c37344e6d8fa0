"""Detection of a truncated LMDB data file, because reading a missing page would end the process (SIGBUS)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import IO

_HEAD_BYTES = 16  # the head of a page: number, padding, flags, begin and end of the free space
_META = struct.Struct("<IIQQ")  # magic, version, address, map size
_TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, pages of three kinds, entries, root
_LAST = struct.Struct("<QQ")  # last page, transaction
_MAGIC = 0xBEEFC0DE
_EMPTY = 2**64 - 1  # the root of a tree without pages
_BRANCH = 0x01  # flags of pages
_APART = 0x01  # the flag of a node whose value has pages of its own


def is_cut(file: IO[bytes]) -> bool:
    """Return whether the newest trees lead to a page after the end of a `data.mdb`.

    A complete file may end before its last page, because pages that one transaction used and freed are not written. So
    only a file that is shorter than all of its pages is searched, which takes as long as reading it. An open read
    transaction keeps other processes from changing the trees meanwhile.
    """
    page_bytes, last, roots = _newest(file)
    if not page_bytes or os.fstat(file.fileno()).st_size >= (last + 1) * page_bytes:
        return False
    return any(not _whole(file, root, page_bytes) for root in roots)


def _newest(file: IO[bytes]) -> tuple[int, int, list[int]]:
    """Return the size, the number of the last page, and the roots of the trees.

    All are zero if the file is not in the format of this machine.
    """
    found: list[tuple[int, int, int, list[int]]] = []
    page_bytes = 0
    for number in (0, 1):
        file.seek(number * page_bytes + _HEAD_BYTES)
        raw = file.read(_META.size + 2 * _TREE.size + _LAST.size)
        if len(raw) < _META.size + 2 * _TREE.size + _LAST.size or _META.unpack_from(raw)[0] != _MAGIC:
            return 0, 0, []
        trees = [_TREE.unpack_from(raw, _META.size + n * _TREE.size) for n in (0, 1)]
        last, transaction = _LAST.unpack_from(raw, _META.size + 2 * _TREE.size)
        page_bytes = trees[0][0]
        found.append((transaction, page_bytes, last, [tree[7] for tree in trees]))
    return max(found)[1:]


def _whole(file: IO[bytes], root: int, page_bytes: int) -> bool:
    """Return whether all pages of a tree exist."""
    left = [] if root == _EMPTY else [root]
    seen: set[int] = set()  # damage may create a cycle
    while left:
        number = left.pop()
        if number in seen:
            continue
        seen.add(number)
        file.seek(number * page_bytes)
        page = file.read(page_bytes)
        if len(page) < page_bytes:
            return False
        flags, lower = struct.unpack_from("<HH", page, 10)
        for child, pages in _led_to(page, flags, lower):
            if pages:
                file.seek((child + pages) * page_bytes - 1)
                if not file.read(1):
                    return False
            else:
                left.append(child)
    return True


def _led_to(page: bytes, flags: int, lower: int) -> Iterator[tuple[int, int]]:
    """Return the pages to which a page leads.

    Children have the number 0. Large values have the number of their pages.
    """
    page_bytes = len(page)
    for at in struct.unpack_from(f"<{max(0, min(lower, page_bytes) - _HEAD_BYTES) // 2}H", page, _HEAD_BYTES):
        if at + 8 > page_bytes:
            continue  # checksums find other damage
        low, high, of, key_bytes = struct.unpack_from("<HHHH", page, at)
        if flags & _BRANCH:
            yield low | high << 16 | of << 32, 0
        elif of & _APART and at + 16 + key_bytes <= page_bytes:
            size = low | high << 16
            (child,) = struct.unpack_from("<Q", page, at + 8 + key_bytes)
            yield child, -(-(size + _HEAD_BYTES) // page_bytes)
