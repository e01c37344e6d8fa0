"""Detect an LMDB data file that was cut short, because a read of a missing page would end the process with SIGBUS."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import IO

_HEAD_BYTES = 16  # a page begins with its number, padding, flags, and the begin and end of its free space
_META = struct.Struct("<IIQQ")  # fields of a meta page: magic number, version, address, size of the memory map
# fields of a tree: page size, flags, depth, numbers of pages of three kinds, number of entries, root page
_TREE = struct.Struct("<IHHQQQQQ")
_LAST = struct.Struct("<QQ")  # the last two fields of a meta page: number of the last page, number of the transaction
_MAGIC = 0xBEEFC0DE
_EMPTY = 2**64 - 1  # the root page number of an empty tree
_BRANCH = 0x01  # flags for the kind of a page
_APART = 0x01  # the flag of an entry whose value is stored on pages of its own


def is_cut(file: IO[bytes]) -> bool:
    """Return whether a `data.mdb` ends before a page that its newest trees need.

    Even a complete file may end before the last page that its meta page counts, because pages that a transaction used
    and freed are not written. So if a file seems too short, its trees are searched for missing pages, which takes as
    long as reading the file. The caller must hold a read transaction, so that pages of these trees are not reused.
    """
    page_bytes, last, roots = _newest(file)
    if not page_bytes or os.fstat(file.fileno()).st_size >= (last + 1) * page_bytes:
        return False
    return any(not _whole(file, root, page_bytes) for root in roots)


def _newest(file: IO[bytes]) -> tuple[int, int, list[int]]:
    """Return the page size, and from the newer of the two meta pages the number of the last page and the root pages.

    All three are zero or empty if the file ends within the meta pages, or does not have the format of this machine.
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
    """Return whether all pages of a tree are in the file."""
    left = [] if root == _EMPTY else [root]
    seen: set[int] = set()  # visited pages, because damage could make a cycle
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
    """Yield the numbers of the pages that a page refers to, each with a count.

    For a child page of the tree, the count is 0. For the first page of a large value, it is the number of pages that
    the value takes.
    """
    page_bytes = len(page)
    for at in struct.unpack_from(f"<{max(0, min(lower, page_bytes) - _HEAD_BYTES) // 2}H", page, _HEAD_BYTES):
        if at + 8 > page_bytes:
            continue  # damage, which the checksums of the stored pairs find
        low, high, of, key_bytes = struct.unpack_from("<HHHH", page, at)
        if flags & _BRANCH:
            yield low | high << 16 | of << 32, 0
        elif of & _APART and at + 16 + key_bytes <= page_bytes:
            size = low | high << 16
            (child,) = struct.unpack_from("<Q", page, at + 8 + key_bytes)
            yield child, -(-(size + _HEAD_BYTES) // page_bytes)
