"""Tables from other libraries and back, through the Arrow PyCapsule interface: none of them is imported here.

arro3-core, which comes with deltalake, checks what a producer gives and owns it; the buffers are then read where they
lie.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import arro3.core as arro3
import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.arrow_layout import Bytes, Piece, buffer_bytes, join_columns, read_piece
from trimtab.core.columns import Column, Columns, Dtype, WrongColumn
from trimtab.core.errors import Misuse
from trimtab.core.shown import shown

_INDEX = re.compile(r"__index_level_\d+__")  # how pandas names the numbers of its rows
_TYPES: dict[Dtype, arro3.DataType] = {
    "float": arro3.DataType.float64(),
    "int": arro3.DataType.int64(),
    "bool": arro3.DataType.bool(),
    "str": arro3.DataType.string(),
    "time": arro3.DataType.timestamp("us", tz="UTC"),
}
_LARGE_BYTES = 500_000_000  # texts beyond may need offsets of 64 bits


def is_arrow(given: object) -> bool:
    """Whether an object gives its data through the Arrow PyCapsule interface."""
    return hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__")


class ArrowTable(msgspec.Struct, frozen=True, eq=False):
    """What was read of a table."""

    names: tuple[str, ...]  # of all its columns
    columns: Columns  # those that were wanted


def read_arrow(given: Any, only: Collection[str] | None = None) -> ArrowTable:
    """The table that an object gives, see `Columns.from_arrow`; `only` names the columns that are wanted."""
    try:
        table = arro3.Table.from_arrow(given)
    except ImportError as error:
        raise Misuse(
            f"table: a {_named(given)} gives its data through a package that is missing ({error}). Install that "
            "package, or give a list of dicts."
        ) from error
    except Exception as error:  # whatever the producer raises: its own kinds of error, or arro3's
        raise Misuse(
            f"table: a {_named(given)} gives no table ({shown(error)[:200]}). Give a table or a record batch: several "
            "named columns, not a single one."
        ) from error
    names = table.column_names
    return table_of(names, [_parts(n, c, only) for n, c in zip(names, table.columns, strict=True)])


def arrow_stream(columns: Columns, requested_schema: object = None) -> object:
    """A capsule of a table's data; times are timestamps of microseconds in UTC."""
    arrays = [_array(name, column) for name, column in columns.by_name.items()]
    table = arro3.Table.from_arrays(arrays, names=list(columns.names))
    return table.__arrow_c_stream__(requested_schema)


def arrow_schema(columns: Columns) -> object:
    """A capsule of a table's schema."""
    fields = [arro3.Field(name, _TYPES[column.dtype], nullable=True) for name, column in columns.by_name.items()]
    return arro3.Schema(fields).__arrow_c_schema__()


def table_of(names: Sequence[str], parts: Sequence[Sequence[Column]]) -> ArrowTable:
    """A table of the parts of each of its columns, those without parts left out, and the row numbers of pandas.

    Raises:
        Misuse: Two columns have one name.
    """
    kept = [name for name in names if not _INDEX.fullmatch(name)]
    twice, times = next(iter(Counter(kept).most_common(1)), ("", 0))
    if times > 1:
        raise WrongColumn(f"table: column {twice!r} comes twice. Rename or remove one.", column=twice)
    found = {n: join_columns(p) for n, p in zip(names, parts, strict=True) if p and not _INDEX.fullmatch(n)}
    return ArrowTable(tuple(kept), Columns(found))


def _parts(name: str, chunked: arro3.ChunkedArray, only: Collection[str] | None) -> list[Column]:
    """At least one, so that a column without rows has a type; none of a column that is not wanted."""
    if only is not None and name not in only:
        return []
    return [_read(name, array) for array in chunked.chunks] or [_read_nothing(name, chunked.field)]


class _Schema(ctypes.Structure):
    """`ArrowSchema` of the C data interface, as far as it is read."""


_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_void_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.c_void_p),
    ("dictionary", ctypes.POINTER(_Schema)),
]


class _Array(ctypes.Structure):
    """`ArrowArray` of the C data interface, as far as it is read."""


_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.c_void_p),
    ("dictionary", ctypes.POINTER(_Array)),
]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _read(name: str, array: arro3.Array) -> Column:
    """The values of one array, copied: its memory may go afterwards."""
    schema, data = array.__arrow_c_array__()  # they own the memory until this returns
    piece = _piece(
        name,
        _Schema.from_address(_pointer(schema, b"arrow_schema")),
        _Array.from_address(_pointer(data, b"arrow_array")),
    )
    return read_piece(piece)


def _read_nothing(name: str, field: arro3.Field) -> Column:
    owner = field.__arrow_c_schema__()
    return read_piece(_no_rows(name, _Schema.from_address(_pointer(owner, b"arrow_schema"))))


def _no_rows(name: str, schema: Any) -> Piece:
    dictionary = read_piece(_no_rows(name, schema.dictionary[0])) if schema.dictionary else None
    return Piece(name, schema.format.decode(), 0, (), 0, dictionary)


def _piece(name: str, schema: Any, array: Any) -> Piece:
    kind = schema.format.decode()
    dictionary = read_piece(_piece(name, schema.dictionary[0], array.dictionary[0])) if array.dictionary else None
    places = [array.buffers[i] for i in range(array.n_buffers)]
    end = array.offset + array.length
    sizes = buffer_bytes(kind, end)
    buffers = [_bytes(place, size) for place, size in zip(places, sizes, strict=False)]
    if kind in ("u", "U") and len(places) == 3:
        offsets = buffers[1]
        last = 0 if offsets is None else int(np.frombuffer(offsets, "<i4" if kind == "u" else "<i8")[end])
        buffers.append(_bytes(places[2], last))
    elif kind == "vu" and len(places) > 3:
        held = _bytes(places[-1], 8 * (len(places) - 3))
        lengths = [] if held is None else np.frombuffer(held, "<i8").tolist()
        buffers += [_bytes(place, size) for place, size in zip(places[2:-1], lengths, strict=True)]
    return Piece(name, kind, array.length, buffers, array.offset, dictionary)


def _bytes(place: int | None, size: int) -> Bytes | None:
    if not place or not size:
        return None
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(place)), np.uint8)


def _array(name: str, column: Column) -> arro3.Array:
    kind = _TYPES[column.dtype]
    if column.dtype == "str":
        texts = column.to_list()
        if sum(len(text) for text in texts if text is not None) > _LARGE_BYTES:
            kind = arro3.DataType.large_string()
        try:
            return arro3.Array(texts, kind)
        except UnicodeEncodeError as error:
            raise Misuse(f"column {name!r}: a text has no UTF-8 form ({error.reason}). Mend it.") from error
    if column.valid is None:
        values: NDArray[Any] = np.ascontiguousarray(column.values)
        return arro3.Array.from_numpy(values).cast(kind)
    plain = arro3.DataType.int64() if column.dtype == "time" else kind
    return arro3.Array(column.to_list(), plain).cast(kind)


def _named(given: object) -> str:
    kind = type(given)
    return f"{kind.__module__.partition('.')[0]} {kind.__name__}"
