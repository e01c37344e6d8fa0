"""Read rows of a source from files, tables of other libraries, lists of dicts, and streams of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BufferedIOBase, RawIOBase
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias, TypeGuard

import msgspec

from trimtab.core.columns.arrow_ipc import is_ipc, read_ipc, read_ipc_file
from trimtab.core.columns.data import ArrowTable, Columns, read_arrow
from trimtab.core.errors import Misuse
from trimtab.core.shown import shown
from trimtab.events.definitions import Source
from trimtab.events.files.csv_files import read_csv
from trimtab.events.files.opened import NOT_UTF8, encoding_advice, local_file, open_bytes
from trimtab.events.files.unpacked import check_gzip
from trimtab.events.values.fitting import BadRow, FileRows, dtypes_of, fit_rows, fit_table

Format = Literal["csv", "parquet", "ndjson", "arrow"]
OnError = Literal["refuse", "quarantine"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


class ArrowStream(Protocol):
    """A table of another library: polars, pandas, pyarrow or DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class ArrowArray(Protocol):
    """A record batch of another library."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


Table: TypeAlias = Columns | ArrowTable | ArrowStream | ArrowArray
Rows: TypeAlias = str | Path | IO[bytes] | Table | Sequence[Mapping[str, Any]]


def read_rows(
    given: Rows,
    source: Source,
    *,
    on_error: OnError = "refuse",
    file_format: Format | None = None,
    nulls: Sequence[str] = ("",),
) -> FileRows:
    """Read rows of a source from any object that holds rows. Values are converted to the types of the source.

    Times without a time zone are in UTC. If there are `_id`, `_known_at` and `_op`, they are read in addition to the
    declared columns.

    Args:
        given: One of these: the path of a file that ends in .csv, .tsv, .ndjson or .jsonl (also with .gz), .parquet,
            .arrow, .arrows, .feather or .ipc; a table with `__arrow_c_stream__` or `__arrow_c_array__`; `Columns`; a
            list of dicts; an open stream of JSON lines or of Arrow data.
        on_error: What to do with rows that do not fit. "refuse": raise an error that names the first one. "quarantine":
            leave them out, and list them in `bad`.
        file_format: The format of the file, if its name does not say it.
        nulls: Texts that mean null in every column of a CSV file. In columns that are not texts, words such as NA, NaN
            and null always mean null.

    Raises:
        NotFound: The file does not exist.
        Misuse: The rows cannot be read, or lack the source's time or key. If `on_error` is "refuse", also if a row does
            not fit; the message names the file, the line and the column.
    """
    what, rows = _taken(given, source, file_format, nulls)
    if rows.bad and on_error == "refuse":
        more = len(rows.bad) - 1
        also = f" {more} more such rows follow." if more else ""
        raise Misuse(
            f"{what}, {problem_of(rows.bad[0], dtypes_of(source))}{also} Correct the data, or put such rows into "
            "quarantine (on_error='quarantine')."
        )
    return rows


def problem_of(bad: BadRow, dtypes: Mapping[str, str]) -> str:
    """Return a sentence that says which row does not fit, what was found, and what was needed."""
    if bad.reason == "bad_line":
        advice = f" {encoding_advice(bad.file)}" if bad.file and bad.found.startswith(NOT_UTF8) else ""
        return f"{bad.place}: needed a line that fits the header, found {bad.found} (bad_line).{advice}"
    return f"{bad.place}, column {bad.field!r}: needed {dtypes[bad.field]}, found {bad.found} ({bad.reason})."


def read_file(
    path: str | Path,
    source: Source,
    *,
    on_error: OnError = "refuse",
    file_format: Format | None = None,
    nulls: Sequence[str] = ("",),
) -> FileRows:
    """Read a file with events of a source; see `read_rows`."""
    return read_rows(Path(path), source, on_error=on_error, file_format=file_format, nulls=nulls)


def is_table(given: object) -> TypeGuard[Table]:
    """Return whether an object is a table in memory: `Columns`, or a table of another library."""
    arrow = hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__")
    return arrow or isinstance(given, Columns | ArrowTable)


def _taken(given: Any, source: Source, kind: Format | None, nulls: Sequence[str]) -> tuple[str, FileRows]:
    """Return a name for use in errors, and the rows."""
    if isinstance(given, str | Path):
        path = local_file(given)
        return f"file {path}", _read(path, source, kind or _format(path), nulls)
    if isinstance(given, Columns | ArrowTable):
        table = given if isinstance(given, ArrowTable) else ArrowTable(given.names, given)
        return "table", fit_table("table", source, table)
    if is_table(given):
        return "table", fit_table("table", source, read_arrow(given, dtypes_of(source), loose=True))
    if isinstance(given, BufferedIOBase | RawIOBase):
        return "stream", _read_stream(given.read() or b"", source)
    if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray | memoryview):
        return "rows", fit_rows("rows", source, given)
    raise Misuse(
        f"rows: a {type(given).__name__} holds no rows. Give a path, a table (polars, pandas, pyarrow, DuckDB, "
        "Columns) or a list of dicts."
    )


def _read(path: Path, source: Source, kind: Format, nulls: Sequence[str]) -> FileRows:
    if path.suffix == ".gz":
        check_gzip(path)
    if kind == "ndjson":
        with open_bytes(path) as stream:
            rows = _fit_lines(f"file {path}", source, stream, str(path))
        with open_bytes(path) as stream:
            return msgspec.structs.replace(rows, counted=sum(1 for line in _lines(stream) if line.strip()))
    if kind == "csv":
        return read_csv(path, source, nulls)
    if kind == "arrow":
        return fit_table(f"file {path}", source, read_ipc_file(path, dtypes_of(source), loose=True))
    from trimtab.events.files.parquet_files import read_parquet  # imported here, because it loads DuckDB

    return read_parquet(path, source)


def _read_stream(data: bytes, source: Source) -> FileRows:
    if is_ipc(data):
        return fit_table("stream", source, read_ipc(data, "stream", dtypes_of(source), loose=True))
    lines = data.splitlines()
    counted = sum(1 for line in lines if line.strip())
    return msgspec.structs.replace(_fit_lines("stream", source, lines), counted=counted)


def _format(path: Path) -> Format:
    suffixes = [s for s in path.suffixes if s != ".gz"]
    found = _SUFFIXES.get(suffixes[-1].lower()) if suffixes else None
    if found is None:
        raise Misuse(
            f"file {path}: needs a name that ends in {', '.join(_SUFFIXES)}. Convert it, or give its rows as a table."
        )
    return found


def _fit_lines(what: str, source: Source, text: Iterable[bytes], file: str | None = None) -> FileRows:
    """Read JSON lines. Each line is checked by the same rules as a pushed row."""
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate(_lines(text), 1):
        plain = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not plain.strip():
            continue
        try:
            rows.append(decode(plain))
            lines.append(number)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = plain.decode(errors="replace").strip()
            bad.append(BadRow("line", number, {}, "", "bad_line", shown(found)[:200], plain, file))
    return fit_rows(what, source, rows, lines=lines, bad=bad)


def _lines(text: Iterable[bytes]) -> Iterator[bytes]:
    """Split text into lines that end in LF, CRLF or CR. The ends are removed."""
    for line in text:
        yield from line.splitlines() or (b"",)
