"""A reader of the FlatBuffers in Arrow headers. Every bound is checked; a wrong one is a `ValueError`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | memoryview


class FlatTable:
    """One table of a buffer: fields by their number in the schema, the default where one was not written."""

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
        """The table that a buffer begins with."""
        return cls(data, _read("<I", data, 0))

    @property
    def size(self) -> int:
        """The bytes of the whole buffer."""
        return len(self._data)

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A number of the struct format `kind`, such as "<i"."""
        at = self._place(field)
        return default if at is None else _read(kind, self._data, at)

    def table(self, field: int) -> FlatTable | None:
        """A table, None where there is none."""
        at = self._target(field)
        return None if at is None else FlatTable(self._data, at)

    def length(self, field: int) -> int:
        """The number of elements of a vector, or of bytes of a text."""
        at = self._target(field)
        return 0 if at is None else _read("<I", self._data, at)

    def text(self, field: int) -> str:
        """A text, empty where there is none."""
        at, size = self._target(field), self.length(field)
        return "" if at is None else bytes(self._data[at + 4 : at + 4 + size]).decode(errors="replace")

    def tables(self, field: int) -> Iterator[FlatTable]:
        """A vector of tables, one after the other: many places of a vector may name one table."""
        at = self._target(field)
        for place in () if at is None else range(at + 4, at + 4 + 4 * self.length(field), 4):
            yield FlatTable(self._data, place + _read("<I", self._data, place))

    def integers(self, field: int, width: int = 1) -> NDArray[np.int64]:
        """A vector of structs of `width` int64 each."""
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
        raise ValueError("a place outside the buffer is named") from error
    return value
