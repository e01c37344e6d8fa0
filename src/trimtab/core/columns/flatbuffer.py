"""Read FlatBuffers (the binary format of Arrow headers). A reference beyond the buffer raises `ValueError`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | memoryview


class FlatTable:
    """A FlatBuffers table: fields that are read by their number in the schema. A missing field has its default."""

    def __init__(self, data: Buffer, at: int) -> None:
        if at < 0:
            raise ValueError("a table lies before the buffer")
        self._data = data
        self._at = at
        vtable = at - _read("<i", data, at)
        if vtable < 0:
            raise ValueError("a table's fields lie before the buffer")
        self._vtable = vtable
        self._fields = (_read("<H", data, vtable) - 4) // 2

    @classmethod
    def root(cls, data: Buffer) -> FlatTable:
        """Return the outermost table of a buffer."""
        return cls(data, _read("<I", data, 0))

    @property
    def size(self) -> int:
        """The size of the whole buffer in bytes."""
        return len(self._data)

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """Return the number in a field. `kind` is its format as in `struct`, such as "<i"."""
        at = self._place(field)
        return default if at is None else _read(kind, self._data, at)

    def table(self, field: int) -> FlatTable | None:
        """Return the table in a field, or None if the field is missing."""
        at = self._target(field)
        return None if at is None else FlatTable(self._data, at)

    def length(self, field: int) -> int:
        """Return the number of elements of a vector, or of bytes of a text."""
        at = self._target(field)
        return 0 if at is None else _read("<I", self._data, at)

    def text(self, field: int) -> str:
        """Return the text in a field, or "" if the field is missing."""
        at, size = self._target(field), self.length(field)
        return "" if at is None else bytes(self._data[at + 4 : at + 4 + size]).decode(errors="replace")

    def tables(self, field: int) -> Iterator[FlatTable]:
        """Yield the tables in a vector. Several elements of a vector may be the same table."""
        at = self._target(field)
        for place in () if at is None else range(at + 4, at + 4 + 4 * self.length(field), 4):
            yield FlatTable(self._data, place + _read("<I", self._data, place))

    def integers(self, field: int, width: int = 1) -> NDArray[np.int64]:
        """Return a vector of structs of `width` int64 numbers each, shape (elements, width)."""
        at, count = self._target(field), self.length(field)
        if at is None:
            return np.empty((0, width), np.int64)
        return np.frombuffer(self._data, "<i8", count * width, at + 4).reshape(count, width)

    def _place(self, field: int) -> int | None:
        if field >= self._fields:
            return None
        offset = _read("<H", self._data, self._vtable + 4 + 2 * field)
        return self._at + offset if offset else None

    def _target(self, field: int) -> int | None:
        at = self._place(field)
        return None if at is None else at + _read("<I", self._data, at)


def _read(kind: str, data: Buffer, at: int) -> int:
    try:
        value: int = struct.unpack_from(kind, data, at)[0]
    except struct.error as error:
        raise ValueError("a table refers to a place outside the buffer") from error
    return value
