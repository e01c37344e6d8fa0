"""Read Arrow IPC files and streams, and write streams, with pyarrow (the extra `arrow`, imported at the first use).

The bytes may come from anyone. So their decoded size is computed from headers before pyarrow reads them, and the result
is validated before it is used.  # D0166
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from trimtab.core.columns.arrow_size import MAGIC, MORE, Bounds, TooLarge, TooManyRows, check_size
from trimtab.core.columns.data import ArrowTable, Columns, WrongColumn, read_arrow
from trimtab.core.errors import Misuse, TrimtabError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "NoPyarrow",
    "Repeated",
    "TooLarge",
    "TooManyRows",
    "is_ipc",
    "read_ipc",
    "read_ipc_file",
    "write_ipc_stream",
]


class Repeated(NamedTuple):
    """A column that has one text in all rows."""

    text: str
    rows: int


Values: TypeAlias = "Sequence[str] | Sequence[float] | Sequence[int] | NDArray[Any] | Repeated"

_INDEX = re.compile(r"__index_level_\d+__")  # the name that pandas gives to its index
_LEAST_BYTES = 24 << 20  # decoded data of up to this size are always allowed
# decoded data may have up to this many times the file's size, because Feather compresses repetitive columns well
_TIMES_OF_FILE = 100
_TAKEN = (
    "null bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 string large_string "
    "string_view date32 date64"
)
# types whose values become Python objects of about 100 bytes each
_LOOSE = "decimal time duration interval binary large_binary fixed_size_binary"
_MOST_LOOSE = 250_000  # more of these values are refused, unless the caller names the columns that it wants


class NoPyarrow(Misuse):
    """Raised if Arrow bytes must be read but pyarrow is not installed."""


def is_ipc(data: bytes) -> bool:
    """Return whether bytes begin like an Arrow IPC stream or file."""
    return data[:4] == MORE or data[:6] == MAGIC


def read_ipc_file(path: Path, only: Collection[str] | None = None, *, loose: bool = False) -> ArrowTable:
    """Read the table in an Arrow IPC file (Feather), or in a file that holds an Arrow stream; see `read_ipc`."""
    return read_ipc(path.read_bytes(), f"file {path}", only, loose=loose)


def read_ipc(
    data: bytes,
    what: str,
    only: Collection[str] | None = None,
    *,
    most_rows: int | None = None,
    times: int = _TIMES_OF_FILE,
    loose: bool = False,
) -> ArrowTable:
    """Read a table from the bytes of an Arrow IPC stream or file.

    Args:
        data: The bytes. Their buffers may be compressed with lz4 or zstd.
        what: The name of the bytes in error messages.
        only: The names of the wanted columns; None: all.
        most_rows: The largest allowed number of rows.
        times: The decoded data may have `times` the size of the bytes, plus 24 MB.
        loose: As in `read_arrow`. Columns of lists, structs and the like are only read if `only` names them.

    Raises:
        TooManyRows: The table has more than `most_rows` rows.
        TooLarge: The decoded data would be too large.
        NoPyarrow: pyarrow is not installed.
        Misuse: The bytes are not Arrow data, are damaged, or have a wanted column of a type that cannot be read.
    """
    if not is_ipc(data):
        raise Misuse(
            f"{what}: begins with {data[:8]!r}, which is neither an Arrow IPC stream nor a file. Write it with "
            "pyarrow.ipc.new_stream or with polars' write_ipc_stream, for example."
        )
    if data[:6] == MAGIC and not data.endswith(MAGIC):
        raise Misuse(f"{what}: the Arrow file is cut off. Write it again.")
    pa = _pyarrow(what)
    try:
        check_size(data, what, Bounds(_LEAST_BYTES + times * len(data), most_rows))
        return _read(pa, data, only, loose)
    except TrimtabError:
        raise
    except (
        pa.ArrowException, ValueError, struct.error, ArithmeticError, LookupError, TypeError, OSError, MemoryError,
        NotImplementedError, RecursionError,
    ) as error:  # fmt: skip  # errors that damaged data causes in pyarrow and its extension types
        said = " ".join(str(error).split())[:300]
        raise Misuse(f"{what}: the Arrow data is damaged ({said}). Write it again.") from error


def write_ipc_stream(columns: Mapping[str, Values]) -> bytes:
    """Return the bytes of an Arrow stream that holds the columns as one batch.

    Args:
        columns: The values by name; all columns have the same length. Texts become Utf8, floats Float64, ints Int64. A
            column without values becomes Utf8. An array may have numbers, texts, or texts in UTF-8 (type S).

    >>> written = write_ipc_stream({"id": ["a", "é"], "score": [0.5, 1.0]})
    >>> read_ipc(written, "stream").columns.to_rows()
    [{'id': 'a', 'score': 0.5}, {'id': 'é', 'score': 1.0}]
    """
    pa = _pyarrow("Arrow stream")
    batch = pa.record_batch({name: _array(pa, values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _array(pa: Any, values: Values) -> Any:
    if isinstance(values, Repeated):
        return pa.repeat(values.text, values.rows)
    if not isinstance(values, Sequence):
        return pa.array(values, pa.binary()).cast(pa.string()) if values.dtype.kind == "S" else pa.array(values)
    first = next(iter(values), "")
    if not isinstance(first, str):
        return pa.array(values, pa.int64() if isinstance(first, int) else pa.float64())
    return pa.array([str(text).encode("utf-8", "replace") for text in values], pa.binary()).cast(pa.string())


def _read(pa: Any, data: bytes, only: Collection[str] | None, loose: bool) -> ArrowTable:
    opened = pa.ipc.open_file if data[:6] == MAGIC else pa.ipc.open_stream
    schema = opened(pa.py_buffer(data)).schema
    wanted = [at for at, name in enumerate(schema.names) if only is None or name in only]
    for at in wanted:
        _check_type(pa, schema.field(at), loose, named=only is not None)
    names = tuple(name for name in schema.names if not _INDEX.fullmatch(name))
    if not wanted:
        return ArrowTable(names, Columns({}))
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=wanted)
    table = opened(pa.py_buffer(data), options=options, memory_pool=pa.system_memory_pool()).read_all()
    table.validate(full=True)
    cells = table.num_rows * sum(_is_loose(pa, field.type) for field in table.schema) if loose and only is None else 0
    if cells > _MOST_LOOSE:
        raise TooLarge(
            f"the Arrow data has {cells:,} values of types such as decimal; at most {_MOST_LOOSE:,} are allowed. Send "
            "it in parts."
        )
    found = read_arrow(table.combine_chunks(pa.system_memory_pool()), loose=loose)
    return ArrowTable(names, found.columns, found.loose, found.rows)


def _check_type(pa: Any, field: Any, loose: bool, *, named: bool) -> None:
    """Refuse a column whose type can be read neither into a `Column` nor, with `loose`, as Python objects.

    `named`: whether the caller asked for the column by its name.
    """
    kind = field.type
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    taken = {getattr(pa, name)() for name in _TAKEN.split()}
    if kind in taken or pa.types.is_timestamp(kind) or pa.types.is_decimal(kind):
        return
    shared = pa.types.is_dictionary(field.type)
    if loose and not shared and (_is_loose(pa, kind) or (named and _is_plain(pa, kind))):
        return
    raise WrongColumn(
        f"column {field.name!r} holds {str(field.type)[:100]}; a column can hold numbers, text, booleans, dates and "
        "timestamps. Leave it out, or convert it to one of these.",
        column=field.name,
    )


def _is_loose(pa: Any, kind: Any) -> bool:
    return any(getattr(pa.types, f"is_{name}")(kind) for name in _LOOSE.split())


def _is_plain(pa: Any, kind: Any) -> bool:
    """Return whether each value of this type has bytes of its own in the file, so that decoding does not multiply them.

    In other types, such as dictionaries, several values can share the same bytes.
    """
    shared = "dictionary union run_end_encoded list_view large_list_view binary_view string_view"
    if any(getattr(pa.types, f"is_{name}")(kind) for name in shared.split()):
        return False
    return all(_is_plain(pa, kind.field(at).type) for at in range(kind.num_fields))


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise NoPyarrow(f'{what}: Arrow data needs pyarrow ({error}). Run: pip install "trimtab[arrow]"') from error
    return pyarrow
