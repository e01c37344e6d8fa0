"""FlatBuffers read as far as Arrow needs them, with every bound checked: a wrong one is a `ValueError`."""

from __future__ import annotations

import struct


class FlatTable:
    """One table of a buffer: its fields by their number in the schema, the default where one was not written."""

    def __init__(self, data: bytes, at: int) -> None:
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
    def root(cls, data: bytes) -> FlatTable:
        """The table that a buffer begins with."""
        return cls(data, _read("<I", data, 0))

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A number of the struct format `kind`, such as "<i"."""
        at = self._place(field)
        return default if at is None else _read(kind, self._data, at)

    def table(self, field: int) -> FlatTable | None:
        """A table, None where there is none."""
        at = self._target(field)
        return None if at is None else FlatTable(self._data, at)

    def text(self, field: int) -> str:
        """A text, "" where there is none."""
        at = self._target(field)
        if at is None:
            return ""
        size = _read("<I", self._data, at)
        if at + 4 + size > len(self._data):
            raise ValueError("a text is longer than the buffer")
        return self._data[at + 4 : at + 4 + size].decode()

    def tables(self, field: int) -> list[FlatTable]:
        """A vector of tables."""
        at = self._target(field)
        places = [] if at is None else self._vector(at, "<I")
        first = 0 if at is None else at + 4
        return [FlatTable(self._data, first + 4 * i + offset) for i, (offset,) in enumerate(places)]

    def structs(self, field: int, kind: str) -> list[tuple[int, ...]]:
        """A vector of structs of the struct format `kind`, such as "<qq"; of numbers, with one each."""
        at = self._target(field)
        return [] if at is None else self._vector(at, kind)

    def _vector(self, at: int, kind: str) -> list[tuple[int, ...]]:
        count, width = _read("<I", self._data, at), struct.calcsize(kind)
        if at + 4 + count * width > len(self._data):
            raise ValueError("a vector is longer than the buffer")
        return list(struct.iter_unpack(kind, self._data[at + 4 : at + 4 + count * width]))

    def _place(self, field: int) -> int | None:
        if field >= self._fields:
            return None
        offset = _read("<H", self._data, self._vtable + 4 + 2 * field)
        return self._at + offset if offset else None

    def _target(self, field: int) -> int | None:
        at = self._place(field)
        return None if at is None else at + _read("<I", self._data, at)


def _read(kind: str, data: bytes, at: int) -> int:
    try:
        value: int = struct.unpack_from(kind, data, at)[0]
    except struct.error as error:
        raise ValueError("a place outside the buffer is named") from error
    return value
