"""Compute the decoded size of Arrow IPC data from the headers of its messages, before the data are decoded.

The data are not trusted: a few bytes of a header may stand for any amount of memory. Columns may share one long name,
a dictionary may be copied and extended with every message, and a compressed buffer may claim any length. Headers of
ordinary writers refer to no byte twice, so headers that do this often are refused.  # D0166
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

import msgspec
import numpy as np

from trimtab.core.columns.flatbuffer import FlatTable
from trimtab.core.errors import Misuse

MAGIC = b"ARROW1"
MORE = b"\xff\xff\xff\xff"  # begins each message, except in old versions of the format

_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # codes of the kinds of messages
_TIMESTAMP, _UNION = 10, 14  # codes of the types whose headers also hold a text (the time zone) or a vector of ids
# by the code of the type: how many values its unit, precision or mode can have
_CODES = {3: 3, 8: 2, 9: 4, 10: 4, 11: 3, 14: 2, 18: 4}
_BLOCK_BYTES = 24
_MOST_FIELDS = 10_000  # the largest number of columns, including columns inside of other columns
_MOST_DEPTH = 32
_FIELD_BYTES = 700  # memory for the description of a column, and also for each of its arrays in a batch
_VALUE_BYTES = {
    1: 9,
    5: 72,
    6: 2,
    7: 72,
    20: 72,
    24: 72,
}  # by the code of the type, the bytes of a value in a `Column`; most of these types are texts and decimals
_USUAL_BYTES = 17  # the bytes per value for other types: eight for a number, and the memory for its conversion

_Message: TypeAlias = tuple[FlatTable, memoryview]  # the header and the body of a message


class TooManyRows(Misuse):
    """Raised if the data have more rows than allowed."""


class TooLarge(Misuse):
    """Raised if the decoded data would be larger than allowed."""


class Bounds(msgspec.Struct, frozen=True):
    """The largest decoded size and the largest number of rows that Arrow data may have."""

    decoded_bytes: int
    rows: int | None = None


def check_size(data: bytes, what: str, bounds: Bounds) -> None:
    """Refuse an Arrow IPC stream or file whose decoded data would exceed the bounds.

    Raises:
        TooManyRows: The data have more rows than `bounds` allow.
        TooLarge: The decoded data would take more memory than `bounds` allow.
        ValueError: The headers are damaged.
    """
    view = memoryview(data)
    size = _Size(what, bounds)
    is_file = data[: len(MAGIC)] == MAGIC
    for header, body in _of_file(view, size) if is_file else _of_stream(view):
        size.add(header, body)


class _Size:
    """The memory that all messages so far take when decoded."""

    def __init__(self, what: str, bounds: Bounds) -> None:
        self._what = what
        self._bounds = bounds
        self._bytes = self._rows = 0
        # for each array of a batch, the bytes per value; None until the schema was read
        self._weights: list[int] | None = None
        # the same for the arrays of each dictionary, by the dictionary's id
        self._dictionaries: dict[int, list[int]] = {}
        self._users: dict[int, int] = {}  # for each dictionary, the number of columns that use it
        self._held: dict[int, int] = {}  # for each dictionary, its present size in bytes

    def add(self, message: FlatTable, body: memoryview) -> None:
        kind, header = message.number(1, "<B"), message.table(2)
        if header is None or kind not in (_SCHEMA, _DICTIONARY, _BATCH):
            raise ValueError(f"a message has the unknown kind {kind}")
        _Budget(message).spend_pairs(message, 4)
        if kind == _SCHEMA:
            self.add_schema(header, _Budget(message))
        elif self._weights is None:
            raise ValueError("it does not begin with a schema")
        elif kind == _BATCH:
            self._rows += header.number(0, "<q")
            if self._bounds.rows is not None and self._rows > self._bounds.rows:
                raise TooManyRows(f"{self._what}: more than {self._bounds.rows} rows. Send them in parts.")
            self._take(self._batch(header, body, self._weights))
        else:
            self._add_dictionary(header, body)

    def add_schema(self, schema: FlatTable, budget: _Budget) -> None:
        if self._weights is not None:
            raise ValueError("it has two schemas")
        _check_code(schema.number(0, "<h"), 2)  # the code of the byte order
        budget.spend_pairs(schema, 2)
        self._weights = []
        for field in schema.tables(1):
            self._weights += self._field(field, budget, 0)
        self._take(_FIELD_BYTES * budget.fields)

    def _add_dictionary(self, header: FlatTable, body: memoryview) -> None:
        number, batch = header.number(0, "<q"), header.table(1)
        if batch is None or number not in self._dictionaries:
            raise ValueError("a dictionary belongs to no column")
        size = self._batch(batch, body, self._dictionaries[number])
        # a delta adds values to a dictionary, and copies the earlier ones, because earlier batches may use them
        if header.number(2, "<B"):
            size += self._held.get(number, 0)
        self._held[number] = size
        self._take(size * self._users[number])

    def _batch(self, batch: FlatTable, body: memoryview, weights: list[int]) -> int:
        """Return the memory that a batch takes when decoded."""
        rows, nodes, places = batch.number(0, "<q"), batch.integers(1, 2), batch.integers(2, 2)
        if rows < 0 or len(nodes) != len(weights) or (nodes[:, 0] < 0).any():
            raise ValueError("a batch does not fit its schema")
        begins, lengths = places[:, 0], places[:, 1]
        if (begins < 0).any() or (lengths < 0).any() or (begins > len(body)).any():
            raise ValueError("a buffer lies outside its body")
        if sum(lengths.tolist()) > len(body):
            raise ValueError("the buffers of a batch are longer than the batch")
        compression = batch.table(3)
        if compression is None:
            plain: int = sum(lengths.tolist())
        else:
            _check_code(compression.number(0, "<b"), 2)
            plain = sum(_unpacked(body, at, size) for at, size in places.tolist())
        counts = nodes[:, 0].astype(float)  # floats, because a sum of integers could overflow
        values = int(min(float(counts @ np.array(weights, float)), 1e18))
        return values + 2 * plain + _FIELD_BYTES * (1 + len(nodes))

    def _field(self, field: FlatTable, budget: _Budget, depth: int) -> list[int]:
        """Return the bytes per value for each array that a column has in a batch."""
        budget.spend_field(field, depth)
        kind = field.number(2, "<B")
        weights = [_VALUE_BYTES.get(kind, _USUAL_BYTES)]
        for child in field.tables(5):
            weights += self._field(child, budget, depth + 1)
        dictionary = field.table(4)
        if dictionary is None:
            return weights
        number = dictionary.number(0, "<q")
        self._dictionaries.setdefault(number, weights)
        self._users[number] = self._users.get(number, 0) + 1
        return [_USUAL_BYTES]

    def _take(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._bounds.decoded_bytes:
            raise TooLarge(
                f"{self._what}: decoded, it would take more than {self._bounds.decoded_bytes} bytes, too many for "
                "data of its size. Send it in parts, without compression and without dictionary encoding."
            )


class _Budget:
    """A limit on how many bytes a header may refer to in total: about twice its own size.

    Only a header that refers to the same bytes again and again exceeds it.
    """

    def __init__(self, message: FlatTable) -> None:
        self._left = 2 * message.size + 4_096
        self.fields = 0

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("its header names the same bytes again and again")

    def spend_pairs(self, table: FlatTable, field: int) -> None:
        """Subtract the bytes of a vector of keys and values."""
        for pair in table.tables(field):
            self.spend(8 + pair.length(0) + pair.length(1))

    def spend_field(self, field: FlatTable, depth: int) -> None:
        self.fields += 1
        if self.fields > _MOST_FIELDS or depth > _MOST_DEPTH:
            raise ValueError(f"it has more than {_MOST_FIELDS} columns, or columns nested {_MOST_DEPTH} levels deep")
        number, kind = field.number(2, "<B"), field.table(3)
        if kind is None:
            raise ValueError("a column has no type")
        if number in _CODES:
            # pyarrow would treat an unknown code like the first or the last one
            _check_code(kind.number(0, "<h"), _CODES[number])
        held = kind.length(1) if number in (_TIMESTAMP, _UNION) else 0
        self.spend(16 + field.length(0) + held * (4 if number == _UNION else 1))
        self.spend_pairs(field, 6)


def _check_code(code: int, count: int) -> None:
    if not 0 <= code < count:
        raise ValueError(f"a header has the code {code}; known are the codes 0 to {count - 1}")


def _unpacked(body: memoryview, at: int, size: int) -> int:
    """Return the length after decompression that a compressed buffer claims."""
    if not size:
        return 0
    (plain,) = struct.unpack_from("<q", body, at)
    if plain < -1:
        raise ValueError("a compressed buffer has a negative length")
    return size if plain == -1 else int(plain)


def _of_stream(data: memoryview) -> Iterator[_Message]:
    at = 0
    while at < len(data):
        found = _message(data, at)
        if found is None:
            return  # the mark for the end of the stream
        message, at = found
        yield message


def _of_file(data: memoryview, size: _Size) -> Iterator[_Message]:
    """Yield the messages that the footer of a file lists: first the dictionaries, then the batches."""
    end = len(data) - len(MAGIC) - 4
    (length,) = struct.unpack_from("<i", data, end)
    footer = FlatTable.root(data[max(0, end - length) : end])
    schema = footer.table(1)
    if schema is None:
        raise ValueError("it has no schema")
    _Budget(footer).spend_pairs(footer, 4)
    size.add_schema(schema, _Budget(footer))
    for blocks in (2, 3):
        for at in footer.integers(blocks, _BLOCK_BYTES // 8)[:, 0].tolist():
            if not 0 <= at < len(data):
                raise ValueError("a block lies outside the file")
            found = _message(data, at)
            if found is None:
                raise ValueError("a block has no message")
            yield found[0]


def _message(data: memoryview, at: int) -> tuple[_Message, int] | None:
    """Return the message that begins at byte `at`, and the position after it. None: the stream ends here."""
    (size,) = struct.unpack_from("<i", data, at)
    at += 4
    if size == -1:
        (size,) = struct.unpack_from("<i", data, at)
        at += 4
    if size == 0:
        return None
    if size < 0 or at + size > len(data):
        raise ValueError("it is cut off in a header")
    header = FlatTable.root(data[at : at + size])
    body = header.number(3, "<q")
    begin = at + size
    if body < 0 or begin + body > len(data):
        raise ValueError("it is cut off in a body")
    return (header, data[begin : begin + body]), begin + body
