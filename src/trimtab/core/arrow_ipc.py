"""Arrow's own files and streams of bytes: read here, in Python, because they come from strangers over the network.

Of two readers that were tried, one ended the whole process at a damaged body, and one read beyond its buffers (D20).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np

from trimtab.core.arrow import ArrowTable, table_of
from trimtab.core.arrow_layout import Bytes, Piece, join_columns, read_piece
from trimtab.core.columns import Column
from trimtab.core.errors import Misuse, TrimtabError
from trimtab.core.flatbuffer import FlatTable
from trimtab.core.lz4 import decompress_lz4

_MAGIC = b"ARROW1"
_MORE = b"\xff\xff\xff\xff"  # begins every message
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # kinds of messages
_UNITS = "smun"
_INT = 2
_PLAIN = {1: "n", 4: "z", 5: "u", 6: "b", 9: "tt", 11: "ti", 12: "+l", 13: "+s", 14: "+u", 15: "w:", 16: "+w", 17: "+m"}
_PLAIN |= {18: "tD", 19: "Z", 20: "U", 21: "+L", 22: "+r", 23: "vz", 24: "vu", 25: "+vl", 26: "+vL"}
_BUFFERS = {"n": 0, "u": 3, "U": 3, "z": 3, "Z": 3, "+s": 1, "+w": 1, "+r": 0, "+vl": 3, "+vL": 3}  # others: 2
_MOST_FIELDS = 10_000  # columns, those inside of others too
_LZ4 = 0
_BLOCK = "<qi4xq"  # where a message begins, how long it and its body are
_T = TypeVar("_T")
_Message: TypeAlias = tuple[int, FlatTable, Bytes]  # kind, header, body


class _Field(msgspec.Struct, frozen=True):
    """A column of the schema."""

    name: str
    format: str
    dictionary: int | None = None  # its number: the buffers hold indices
    words: str = ""  # the format of the dictionary's values
    children: tuple[_Field, ...] = ()  # read past


def is_ipc(data: bytes) -> bool:
    """Whether bytes begin as an Arrow IPC stream or file does."""
    return data[:4] == _MORE or data[:6] == _MAGIC


def read_ipc_file(path: Path, only: Collection[str] | None = None) -> ArrowTable:
    """The table of an Arrow IPC file (Feather) or of a file that holds a stream, see `read_ipc`."""
    return read_ipc(path.read_bytes(), f"file {path}", only)


def read_ipc(data: bytes, what: str, only: Collection[str] | None = None) -> ArrowTable:
    """The table of the bytes of an Arrow IPC stream or file.

    Args:
        data: The bytes, uncompressed or with lz4.
        what: Names them in errors.
        only: The columns that are wanted; left out, all.

    Raises:
        Misuse: They are none, are damaged, or have a wanted column that no table can have.
    """
    return _read(data, what, only, None, lz4=True)


def read_ipc_stream(body: bytes, only: Collection[str] | None = None, *, most_rows: int | None = None) -> ArrowTable:
    """The table of an Arrow IPC stream that was sent; uncompressed, so that little cannot stand for much.

    Raises:
        TooManyRows: There are more than `most_rows`.
        Misuse: It is none, is damaged, compressed, or has a wanted column that no table can have.
    """
    return _read(body, "body", only, most_rows, lz4=False)


class TooManyRows(Misuse):
    """More rows than are taken at once."""


def _read(data: bytes, what: str, only: Collection[str] | None, most_rows: int | None, *, lz4: bool) -> ArrowTable:
    is_file = data[:6] == _MAGIC
    if is_file and not data.endswith(_MAGIC):
        raise Misuse(f"{what}: the Arrow file is cut off. Write it anew.")
    if not is_ipc(data):
        raise Misuse(
            f"{what}: begins with {data[:8]!r}, which is neither an Arrow IPC stream nor a file. Write it with "
            "pyarrow.ipc.new_stream or with polars' write_ipc_stream, for example."
        )
    reader = _Reader(data, what, only, most_rows, lz4)
    try:
        return reader.read(reader.file_messages() if is_file else reader.stream_messages())
    except TrimtabError:
        raise
    except (ValueError, struct.error, OverflowError, MemoryError, RecursionError) as error:  # what damage leads to
        raise Misuse(f"{what}: the Arrow data is damaged ({error}). Write it anew.") from error


class _Reader:
    """The messages of a stream, one after the other."""

    def __init__(self, data: bytes, what: str, only: Collection[str] | None, most_rows: int | None, lz4: bool) -> None:
        self._data = data
        self._bytes: Bytes = np.frombuffer(data, np.uint8)
        self._what = what
        self._only = only
        self._most_rows = most_rows
        self._lz4 = lz4
        self._dictionaries: dict[int, Column] = {}
        self._rows = 0

    def read(self, messages: Iterator[_Message]) -> ArrowTable:
        kind, header, _ = next(messages, (0, None, None))
        if kind != _SCHEMA or header is None:
            raise ValueError("it does not begin with a schema")
        if header.number(0, "<h") != 0:
            raise Misuse(f"{self._what}: the Arrow data is big-endian. Write it on a little-endian machine.")
        left = count(_MOST_FIELDS, -1)
        fields = [_field(table, left) for table in header.tables(1)]
        parts: list[list[Column]] = [[] for _ in fields]
        for kind, header, body in messages:
            if kind == _DICTIONARY:
                self._take_dictionary(header, body, fields)
            elif kind == _BATCH:
                self._count(header.number(0, "<q"))
                for column, piece in zip(parts, self._pieces(header, body, fields), strict=True):
                    if self._wants(piece.name):
                        column.append(read_piece(piece))
        for column, field in zip(parts, fields, strict=True):
            if not column and self._wants(field.name):  # no batch: the column has a type all the same
                words = read_piece(Piece(field.name, field.words, 0, ())) if field.words else None
                column.append(read_piece(Piece(field.name, field.format, 0, (), 0, words)))
        return table_of([field.name for field in fields], parts)

    def _wants(self, name: str) -> bool:
        return self._only is None or name in self._only

    def stream_messages(self) -> Iterator[_Message]:
        """One message behind the other."""
        at = 0
        while at < len(self._data):
            found = self._message(at)
            if found is None:
                return  # the end is marked
            message, at = found
            yield message

    def file_messages(self) -> Iterator[_Message]:
        """Those that the end of the file names."""
        end = len(self._data) - 10
        (length,) = struct.unpack_from("<i", self._data, end)
        footer = FlatTable.root(self._data[max(0, end - length) : end])
        yield _SCHEMA, _told(footer.table(1)), self._bytes[:0]
        for at, _, _ in (*footer.structs(2, _BLOCK), *footer.structs(3, _BLOCK)):
            yield _told(self._message(at))[0]

    def _message(self, at: int) -> tuple[_Message, int] | None:
        """The message that begins at a byte, and where it ends."""
        if at < 0 or self._data[at : at + 4] != _MORE:
            raise ValueError(f"no message begins at byte {at}")
        (length,) = struct.unpack_from("<i", self._data, at + 4)
        if length == 0:
            return None
        begin = at + 8 + length
        if length < 0 or begin > len(self._data):
            raise ValueError("it is cut off in a message")
        message = FlatTable.root(self._data[at + 8 : begin])
        body = message.number(3, "<q")
        if body < 0 or begin + body > len(self._data):
            raise ValueError("it is cut off in a body")
        found = message.number(1, "<B"), _told(message.table(2)), self._bytes[begin : begin + body]
        return found, begin + body

    def _count(self, rows: int) -> None:
        self._rows += rows
        if rows < 0:
            raise ValueError(f"a batch of {rows} rows")
        if self._most_rows is not None and self._rows > self._most_rows:
            raise TooManyRows(f"{self._what}: more than {self._most_rows} rows. Send them in parts.")

    def _take_dictionary(self, header: FlatTable, body: Bytes, fields: Sequence[_Field]) -> None:
        number = header.number(0, "<q")
        field = next((f for f in fields if f.dictionary == number), None)
        if field is None or not self._wants(field.name):
            return
        (piece,) = self._pieces(_told(header.table(1)), body, [_Field(field.name, field.words)])
        words = read_piece(piece)
        grows = header.number(2, "<B") and number in self._dictionaries
        self._dictionaries[number] = join_columns([self._dictionaries[number], words]) if grows else words

    def _pieces(self, batch: FlatTable, body: Bytes, fields: Sequence[_Field]) -> Iterator[Piece]:
        """One array for each of `fields`."""
        rows, places = batch.number(0, "<q"), batch.structs(2, "<qq")
        if rows > 8 * len(self._data) or sum(length for _, length in places) > len(body):
            raise ValueError("a batch claims more than it holds")
        compression = batch.table(3)
        codec = None if compression is None else compression.number(0, "<b")
        if codec is not None and not (self._lz4 and codec == _LZ4):
            raise Misuse(
                f"{self._what}: the Arrow data is compressed. Write it uncompressed" + (" or with lz4." * self._lz4)
            )
        nodes, bounds, counts = iter(batch.structs(1, "<qq")), iter(places), iter(batch.structs(4, "<q"))
        for field in fields:
            node, spans = _spans(field, nodes, bounds, counts)
            if node[0] != rows:
                raise ValueError(f"column {field.name!r} has {node[0]} of {rows} rows")
            if self._wants(field.name):
                buffers = [self._buffer(body, offset, length, codec) for offset, length in spans]
                yield Piece(field.name, field.format, rows, buffers, 0, self._words(field))
            else:
                yield Piece(field.name, field.format, 0, ())

    def _words(self, field: _Field) -> Column | None:
        if field.dictionary is None:
            return None
        if field.dictionary not in self._dictionaries:
            raise ValueError(f"the dictionary of column {field.name!r} is missing")
        return self._dictionaries[field.dictionary]

    def _buffer(self, body: Bytes, offset: int, length: int, codec: int | None) -> Bytes | None:
        if offset < 0 or length < 0 or offset + length > len(body):
            raise ValueError("a buffer lies outside its body")
        data = body[offset : offset + length]
        if codec is None or not length:
            return data if length else None
        (plain,) = struct.unpack_from("<q", data[:8].tobytes())
        if plain == -1:  # packing would have made it larger
            return data[8:]
        return np.frombuffer(decompress_lz4(data[8:].tobytes(), plain), np.uint8)


def _spans(
    field: _Field,
    nodes: Iterator[tuple[int, ...]],
    bounds: Iterator[tuple[int, ...]],
    counts: Iterator[tuple[int, ...]],
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Rows and nulls of a column, and where its buffers lie; those of its children are read past."""
    node = _told(next(nodes, None))
    wanted = _BUFFERS.get(field.format, 2)
    if field.format in ("vu", "vz"):
        wanted += _told(next(counts, None))[0]
    spans = list(islice(bounds, wanted))
    if wanted < 0 or len(spans) < wanted:
        raise ValueError(f"column {field.name!r} lacks a buffer")
    for child in field.children:
        _spans(child, nodes, bounds, counts)
    return node, spans


def _field(table: FlatTable, left: Iterator[int]) -> _Field:
    """A column; `left` counts how many more there may be, since a few bytes could name one child many times."""
    if next(left) <= 0:
        raise ValueError(f"it has more than {_MOST_FIELDS} columns")
    kind = _format(table.number(2, "<B"), table.table(3))
    children = tuple(_field(child, left) for child in table.tables(5))
    dictionary = table.table(4)
    if dictionary is None:
        return _Field(table.text(0), kind, children=children)
    index = dictionary.table(1)
    indices = "i" if index is None else _format(_INT, index)
    return _Field(table.text(0), indices, dictionary.number(0, "<q"), kind)


def _format(number: int, told: FlatTable | None) -> str:
    """The format string of the C data interface."""
    kind = _told(told)
    if number == _INT:
        signed = {8: "c", 16: "s", 32: "i", 64: "l"}.get(kind.number(0, "<i"), "?")
        return signed if kind.number(1, "<B") else signed.upper()
    if number == 3:
        return "efg"[kind.number(0, "<h") % 3]
    if number == 7:
        return f"d:{kind.number(0, '<i')},{kind.number(1, '<i')},{kind.number(2, '<i', 128)}"
    if number == 8:
        return "tdm" if kind.number(0, "<h", 1) else "tdD"
    if number == 10:
        return f"ts{_UNITS[kind.number(0, '<h') % 4]}:{kind.text(1)}"
    return _PLAIN.get(number, "?")


def _told(found: _T | None) -> _T:
    if found is None:
        raise ValueError("something that is needed is missing")
    return found
