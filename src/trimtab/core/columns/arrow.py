"""Exchange of tables with other libraries (pandas, polars, ...) through the Arrow PyCapsule interface.

The other libraries are not imported. arro3-core, which comes with deltalake, takes their data over and checks it. The
values are then read from its buffers.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import arro3.core as arro3
import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.arrow_layout import (
    Bytes,
    Piece,
    buffer_bytes,
    is_exact,
    join_columns,
    read_intervals,
    read_piece,
)
from trimtab.core.columns.column import Column, Dtype, WrongColumn, check_once
from trimtab.core.columns.column import column as column_of
from trimtab.core.columns.pandas_frames import is_pandas, read_pandas
from trimtab.core.errors import Misuse

_INDEX = re.compile(r"__index_level_\d+__")  # the name that pandas gives to its index
_TYPES: dict[Dtype, arro3.DataType] = {
    "float": arro3.DataType.float64(),
    "int": arro3.DataType.int64(),
    "bool": arro3.DataType.bool(),
    "str": arro3.DataType.string(),
    "time": arro3.DataType.timestamp("us", tz="UTC"),
}
_Values = TypeVar("_Values")
_LARGE = 500_000_000  # a column with more characters of text gets offsets of 64 bits, because 32 bits may not suffice


class Unread(Misuse):
    """Raised if the data of an object cannot be read. `__cause__` is the reason."""


class Extension(msgspec.Struct, frozen=True):
    """A value whose Arrow extension type decides what its stored form means."""

    type: str
    stored: Any


def read_columns(
    given: Any, only: Collection[str] | None = None, *, loose: bool = False
) -> tuple[tuple[str, ...], dict[str, Column], dict[str, list[Any]], int]:
    """Read a table from another library; see `read_arrow`.

    Return the names of all its columns, the wanted columns, the wanted columns that no `Column` can hold (as Python
    values), and the number of rows.
    """
    try:
        table = arro3.Table.from_arrow(_without_nulls(given))
    except ImportError as error:
        if is_pandas(given):  # pandas itself gives its data only if pyarrow is installed
            return read_pandas(given, only, loose=loose)
        raise Misuse(
            f"table: a {_named(given)} gives its data through a package that is not installed ({error}). Install that "
            "package, or give a list of dicts."
        ) from error
    except (KeyboardInterrupt, SystemExit):
        raise
    # The other library and arro3 raise errors of their own types. A panic of Rust code is not even an `Exception`.
    except BaseException as error:
        raise Unread(_unread(given, error)) from error
    columns: list[list[Column]] = []
    values: dict[str, list[Any]] = {}
    for name, chunked in zip(table.column_names, table.columns, strict=True):
        is_wanted = only is None or name in only
        columns.append(_parts(name, chunked, loose) if is_wanted else [])
        if is_wanted and not columns[-1]:
            values[name] = _python_values(name, chunked)
    return *_joined(table.column_names, columns), values, table.num_rows


def _without_nulls(given: Any) -> Any:
    """Make the Null columns of a polars frame bool, because polars exports Null columns with a wrong buffer."""
    polars = sys.modules.get("polars")
    if polars is not None and isinstance(given, polars.DataFrame) and polars.Null in given.dtypes:
        return given.cast({polars.Null: polars.Boolean})
    return given


def _unread(given: Any, error: BaseException) -> str:
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(given, pandas.DataFrame):
        for name in given.columns:
            kinds = sorted({type(v).__name__ for v in given[name].tolist() if v is not None and v == v})
            if given[name].dtype == object and len(kinds) > 1:
                return (
                    f"table: column {name!r} of the pandas DataFrame holds {' and '.join(kinds)}; a column needs a "
                    'single type. Cast it, or give rows: frame.to_dict("records").'
                )
    return (
        f"table: a {_named(given)} cannot be converted to an Arrow table: {str(error)[:200]}. Give a table or a "
        "record batch of several named columns, or a list of dicts."
    )


def arrow_stream(columns: Mapping[str, Column], requested_schema: object = None) -> object:
    """Return a table's data as a PyCapsule. Times become timestamps in UTC microseconds."""
    arrays = [_array(name, column) for name, column in columns.items()]
    table = arro3.Table.from_arrays(arrays, names=list(columns))
    return table.__arrow_c_stream__(requested_schema)


def arrow_schema(columns: Mapping[str, Column]) -> object:
    """Return a table's schema as a PyCapsule."""
    fields = [arro3.Field(name, _TYPES[column.dtype], nullable=True) for name, column in columns.items()]
    return arro3.Schema(fields).__arrow_c_schema__()


def _joined(names: Sequence[str], parts: Sequence[Sequence[Column]]) -> tuple[tuple[str, ...], dict[str, Column]]:
    """Join the parts of each column. Return all names, and the columns that have parts, without pandas' index.

    Raises:
        WrongColumn: Two columns have the same name.
    """
    kept = [name for name in names if not _INDEX.fullmatch(name)]
    check_once(kept)
    found = {n: join_columns(p) for n, p in zip(names, parts, strict=True) if p and not _INDEX.fullmatch(n)}
    return tuple(kept), found


def _parts(name: str, chunked: arro3.ChunkedArray, loose: bool) -> list[Column]:
    """Return the chunks of a column as columns. If there is no chunk, return one column without rows.

    With `loose`, the result is empty if no `Column` can hold the values exactly.
    """
    kind = _extension(chunked)
    if kind == "arrow.uuid" and not loose:
        return [column_of("str", [None if v is None else str(v) for v in _python_values(name, chunked)])]
    if kind not in ("", "arrow.json"):
        if not loose:
            raise WrongColumn(
                f"column {name!r} holds values of the Arrow extension type {kind!r}; a column can hold numbers, text, "
                "booleans, dates and timestamps. Leave it out, or convert it to one of these.",
                column=name,
            )
        return []
    owner = chunked.field.__arrow_c_schema__()
    schema = _Schema.from_address(_pointer(owner, b"arrow_schema"))
    held = (schema.dictionary[0] if schema.dictionary else schema).format.decode()
    if loose and not is_exact(held):
        return []
    parts = [_of_array(name, array, read_piece) for array in chunked.chunks] or [_read_nothing(name, chunked.field)]
    # unsigned integers that do not fit in an int column became floats, which are not exact
    beyond = loose and held == "L" and any(part.dtype == "float" for part in parts)
    return [] if beyond else parts


def _extension(chunked: arro3.ChunkedArray) -> str:
    return (chunked.field.metadata or {}).get(b"ARROW:extension:name", b"").decode()


def _python_values(name: str, chunked: arro3.ChunkedArray) -> list[Any]:
    """Return the values of a column as Python objects. Values of an extension type become `Extension` objects."""
    if "Interval" in str(chunked.type):  # arro3 cannot convert intervals
        raw = [value for array in chunked.chunks for value in _of_array(name, array, read_intervals)]
        return [None if value is None else Extension("interval", value) for value in raw]
    try:
        values: list[Any] = list(chunked.to_pylist())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of arro3 is not an `Exception`
        raise WrongColumn(
            f"column {name!r} holds {chunked.type}, which cannot be read ({str(error)[:100]}). Leave it out, or "
            "convert it to numbers, text, booleans, dates or timestamps.",
            column=name,
        ) from error
    kind = _extension(chunked)
    if kind == "arrow.uuid":
        return [None if value is None else UUID(bytes=value) for value in values]
    return [None if value is None else Extension(kind, value) for value in values] if kind else values


class _Schema(ctypes.Structure):
    """The `ArrowSchema` struct of Arrow's C data interface, with only the fields that are read here."""


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
    """The `ArrowArray` struct of Arrow's C data interface, with only the fields that are read here."""


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


def _of_array(name: str, array: arro3.Array, read: Callable[[Piece], _Values]) -> _Values:
    """Return what `read` makes of an array. `read` must copy the values: the array's memory may be freed afterwards."""
    schema, data = array.__arrow_c_array__()  # these two objects keep the memory until this function returns
    piece = _piece(
        name,
        _Schema.from_address(_pointer(schema, b"arrow_schema")),
        _Array.from_address(_pointer(data, b"arrow_array")),
    )
    return read(piece)


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
        if sum(map(len, filter(None, texts))) > _LARGE:
            kind = arro3.DataType.large_string()
        try:
            return arro3.Array(texts, kind)
        except UnicodeEncodeError as error:
            raise Misuse(
                f"column {name!r}: a text cannot be encoded as UTF-8 ({error.reason}). Remove its unpaired surrogates."
            ) from error
    if column.valid is None:
        values: NDArray[Any] = np.ascontiguousarray(column.values)
        return arro3.Array.from_numpy(values).cast(kind)
    plain = arro3.DataType.int64() if column.dtype == "time" else kind
    return arro3.Array(column.to_list(), plain).cast(kind)


def _named(given: object) -> str:
    kind = type(given)
    return f"{kind.__module__.partition('.')[0]} {kind.__name__}"
