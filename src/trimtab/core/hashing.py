"""Hashes and checksums that are the same on every machine."""

import hashlib
import zlib

import msgspec

_encoder = msgspec.json.Encoder(order="deterministic")


def content_hash(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON, as 64 hexadecimal digits.

    >>> content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(_encoder.encode(value)).hexdigest()


def bytes_hash(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def row_crc(*values: object) -> int:
    """Return the CRC-32 of a row, which changes if a value changes or moves to another column."""
    crc = 0
    for value in values:
        data = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode("utf-8", "surrogatepass")
        crc = zlib.crc32(data, zlib.crc32(f"{type(value).__name__}{len(data)}:".encode(), crc))
    return crc
