"""Arrow IPC streams written, for tables of texts, numbers and moments without nulls: what answers are made of.

The form is that of Arrow's `Message.fbs` and `Schema.fbs`: a schema, one batch, an end. No writer of it is among what
trimtab installs, and this much of it is small (D97).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

Values: TypeAlias = "Sequence[str] | Sequence[float] | Sequence[int]"

_MORE = b"\xff\xff\xff\xff"
_V5 = 4
_SCHEMA, _BATCH = 1, 3  # kinds of messages
_INT, _FLOAT, _TEXT = 2, 3, 5  # kinds of types
_DOUBLE = 2
_MOST_BYTES = 2**31 - 1  # of the texts of a column


def write_ipc_stream(columns: Mapping[str, Values]) -> bytes:
    """The bytes of a stream that holds one batch.

    Args:
        columns: By name, as many values each: str as Utf8, float as Float64, int as Int64.

    Raises:
        OverflowError: The texts of a column have more than 2 GiB.

    >>> from trimtab.core.arrow_ipc import read_ipc_stream
    >>> read_ipc_stream(write_ipc_stream({"id": ["a", "é"], "score": [0.5, 1.0]})).columns.to_rows()
    [{'id': 'a', 'score': 0.5}, {'id': 'é', 'score': 1.0}]
    """
    rows = len(next(iter(columns.values()), ()))
    fields = [_field(name, values) for name, values in columns.items()]
    schema = _Table([(1, fields)])
    body = bytearray()
    places: list[tuple[int, int]] = []
    for values in columns.values():
        for part in _buffers(values):
            places.append((len(body), len(part)))
            body += part + bytes(-len(part) % 8)
    nodes = _Structs(b"".join(struct.pack("<qq", rows, 0) for _ in columns), len(columns))
    buffers = _Structs(b"".join(struct.pack("<qq", *place) for place in places), len(places))
    batch = _Table([(0, _Number("<q", rows)), (1, nodes), (2, buffers)])
    return _message(_SCHEMA, schema, b"") + _message(_BATCH, batch, bytes(body)) + _MORE + bytes(4)


def _buffers(values: Values) -> list[bytes]:
    """The buffers of a column: which are there (left out: all), then offsets and texts, or numbers."""
    kind = _kind(values)
    if kind != _TEXT:
        return [b"", np.array(values, np.int64 if kind == _INT else np.float64).tobytes()]
    parts = [str(text).encode("utf-8", "replace") for text in values]
    ends = np.cumsum([0, *map(len, parts)])
    if ends[-1] > _MOST_BYTES:
        raise OverflowError("the texts of a column have more than 2 GiB")
    return [b"", ends.astype(np.int32).tobytes(), b"".join(parts)]


def _kind(values: Values) -> int:
    first = next(iter(values), "")
    return _TEXT if isinstance(first, str) else _INT if isinstance(first, int) else _FLOAT


def _field(name: str, values: Values) -> _Table:
    kind = _kind(values)
    about = {
        _TEXT: _Table([]),
        _INT: _Table([(0, _Number("<i", 64)), (1, _Number("<B", 1))]),
        _FLOAT: _Table([(0, _Number("<h", _DOUBLE))]),
    }[kind]
    return _Table([(0, name), (2, _Number("<B", kind)), (3, about), (5, [])])


def _message(kind: int, header: _Table, body: bytes) -> bytes:
    parts: _Fields = [(0, _Number("<h", _V5)), (1, _Number("<B", kind)), (2, header), (3, _Number("<q", len(body)))]
    flat = _flat(_Table(parts))
    return _MORE + struct.pack("<i", len(flat)) + flat + body


# -- FlatBuffers: a table before all that it points to, so that every offset points forward --------------------------


class _Number:
    """A number of a struct format."""

    def __init__(self, form: str, value: int) -> None:
        self.form, self.value = form, value
        self.size = struct.calcsize(form)


class _Structs:
    """A vector of structs of two int64 each."""

    def __init__(self, data: bytes, count: int) -> None:
        self.data, self.count = data, count


class _Table:
    """Fields by their number in the schema; those with a value alone."""

    def __init__(self, fields: _Fields) -> None:
        self.fields = fields


_Fields: TypeAlias = "Sequence[tuple[int, _Number | _Structs | _Table | str | Sequence[_Table]]]"


def _flat(root: _Table) -> bytes:
    """The bytes of a buffer, padded to eight."""
    out = bytearray(4)
    _point(out, 0, _put_table(out, root))
    return bytes(out + bytes(-len(out) % 8))


def _put_table(out: bytearray, table: _Table) -> int:
    """Append a table and all that it points to; where it begins."""
    count = 1 + max((number for number, _ in table.fields), default=-1)
    size, places = 4, {}
    for number, value in sorted(table.fields, key=lambda field: -_width(field[1])):
        size += -size % _width(value)
        places[number] = size
        size += _width(value)
    vtable_bytes = 4 + 2 * count
    out += bytes(-len(out) % 8)
    out += bytes(-vtable_bytes % 8)  # so that the table begins at a multiple of 8
    vtable = len(out)
    out += struct.pack("<HH", vtable_bytes, size) + b"".join(struct.pack("<H", places.get(n, 0)) for n in range(count))
    at = len(out)
    out += struct.pack("<i", at - vtable) + bytes(size - 4)
    for number, value in table.fields:
        place = at + places[number]
        if isinstance(value, _Number):
            struct.pack_into(value.form, out, place, value.value)
        else:
            _point(out, place, _put(out, value))
    return at


def _put(out: bytearray, value: _Structs | _Table | str | Sequence[_Table]) -> int:
    if isinstance(value, _Table):
        return _put_table(out, value)
    if isinstance(value, _Structs):
        out += bytes((4 - len(out)) % 8)
        at = len(out)
        out += struct.pack("<I", value.count) + value.data
        return at
    out += bytes(-len(out) % 4)
    at = len(out)
    if isinstance(value, str):
        text = value.encode("utf-8", "replace")
        out += struct.pack("<I", len(text)) + text + b"\0"
        return at
    out += struct.pack("<I", len(value)) + bytes(4 * len(value))
    for number, one in enumerate(value):
        _point(out, at + 4 + 4 * number, _put_table(out, one))
    return at


def _point(out: bytearray, place: int, to: int) -> None:
    struct.pack_into("<I", out, place, to - place)


def _width(value: object) -> int:
    return value.size if isinstance(value, _Number) else 4
