"""Read Parquet files. DuckDB reads them as Arrow data, so values are treated like those of other Arrow tables."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import arro3.core as arro3
import duckdb
import msgspec

from trimtab.core.columns.arrow import Extension, Unread
from trimtab.core.columns.data import ArrowTable, Dtype, read_arrow
from trimtab.core.columns.flatbuffer import FlatTable
from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.events.files.unpacked import check_table
from trimtab.events.values.fitting import FileRows, fit_table, wanted_columns
from trimtab.store.duckdb_opening import Config, quoted, shared_duckdb

_DURATION = 18  # the code of the type Duration in Arrow's schema
# with these options, DuckDB adds no columns from the path, and does not read binary columns as texts
_AS_IT_IS = "hive_partitioning=false, union_by_name=false, binary_as_string=false"


def read_parquet(path: Path, source: Source) -> FileRows:
    """Read the rows of a Parquet file; see `read_file`."""
    what = f"file {path}"
    with _opened(path) as (connection, scan):
        names = [str(name) for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()]
        wanted = wanted_columns(what, source, names)
        columns = ", ".join(map(quoted, wanted))
        (rows,) = connection.execute(f"SELECT num_rows FROM parquet_file_metadata({_path(path)})").fetchall()[0]
        check_table(path, rows, wanted)
        found = read_arrow(connection.sql(f"SELECT {columns} FROM {scan}"), loose=True)
        kinds = _extensions(connection, path)
    return fit_table(what, source, _extended(tuple(names), found, kinds, rows))


def parquet_batches(path: Path, source: Source) -> Iterator[FileRows]:
    """Yield the rows of a Parquet file in batches, each as `read_parquet` would return it.

    Raises:
        Misuse: The file cannot be read, or lacks the time or key.
    """
    what = f"file {path}"
    with _opened(path) as (connection, scan):
        names = tuple(str(name) for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall())
        kinds = _extensions(connection, path)
        columns = ", ".join(map(quoted, wanted_columns(what, source, names)))
        done = 0
        for batch in arro3.RecordBatchReader.from_stream(connection.sql(f"SELECT {columns} FROM {scan}")):
            found = read_arrow(batch, loose=True)
            rows = fit_table(what, source, _extended(names, found, kinds, batch.num_rows))
            bad = tuple(msgspec.structs.replace(one, number=one.number + done) for one in rows.bad)
            yield msgspec.structs.replace(rows, bad=bad)
            done += batch.num_rows


def parquet_types(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Return for each Parquet file the type of each column: that from `_extensions` if it has one, or DuckDB's.

    Raises:
        Misuse: A file cannot be read.
    """
    found = []
    with _connected() as connection:
        for path in paths:
            with _named(path):
                described = connection.execute(f"DESCRIBE SELECT * FROM {_scan(path)}").fetchall()
                plain = {str(name): str(kind) for name, kind, *_ in described}
                found.append(plain | _extensions(connection, path))
    return found


def _extended(names: tuple[str, ...], found: ArrowTable, kinds: Mapping[str, str], rows: int) -> ArrowTable:
    """Return a table in which the values of the columns in `kinds` (see `_extensions`) are `Extension` objects."""
    extended = {
        name: [None if value is None else Extension(kind, value) for value in found.columns[name].to_list()]
        for name, kind in kinds.items()
        if name in found.columns
    }
    plain = found.columns.select([name for name in found.columns.names if name not in extended])
    return ArrowTable(names, plain, {**found.loose, **extended}, rows)


def parquet_columns(path: Path) -> dict[str, Dtype]:
    """Return the columns of a Parquet file, with the type that each would have in a source.

    Raises:
        Misuse: The file cannot be read, or has a column of a type that a source cannot have.
    """
    with _opened(path) as (connection, scan):
        none = read_arrow(connection.sql(f"SELECT * FROM {scan} LIMIT 0")).columns
    return {name: column.dtype for name, column in none.by_name.items()}


def _extensions(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    """Return the types that a file's Arrow schema has and DuckDB ignores, by column: extension types and "duration".

    JSON and UUID are left out, because their values become texts anyway.
    """
    pairs = connection.execute(f"SELECT key, value FROM parquet_kv_metadata({_path(path)})").fetchall()
    stored = next((value for key, value in pairs if bytes(key) == b"ARROW:schema"), None)
    found: dict[str, str] = {}
    if stored is None:
        return found
    try:
        schema = FlatTable.root(base64.b64decode(stored)[8:]).table(2)
        for field in () if schema is None else schema.tables(1):
            said = {pair.text(0): pair.text(1) for pair in field.tables(6)}
            # in Parquet itself, a duration is an integer
            duration = "duration" if field.number(2, "<B") == _DURATION else ""
            found[field.text(0)] = said.get("ARROW:extension:name", duration)
    except ValueError as error:
        raise Misuse(f"file {path}: its Arrow schema is damaged ({error}). Write it again.") from error
    return {name: kind for name, kind in found.items() if kind not in ("", "arrow.json", "arrow.uuid")}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """Open a connection for the block. Return the connection and the SQL that scans the file."""
    with _named(path), _connected() as connection:
        yield connection, _scan(path)


def _connected() -> duckdb.DuckDBPyConnection:
    offline: Config = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "arrow_output_version": "1.4",  # texts as views, which are read faster
        "produce_arrow_string_view": True,
    }
    return shared_duckdb(offline).execute("SET TimeZone = 'UTC'")


def _scan(path: Path) -> str:
    return f"read_parquet({_path(path)}, {_AS_IT_IS})"


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Convert DuckDB's errors in the block to errors that name the file."""
    try:
        yield
    except (duckdb.Error, Unread) as error:
        said = str(error.__cause__ if isinstance(error, Unread) else error).strip().splitlines()[0]
        raise Misuse(
            f"file {path}: cannot be read as Parquet ({said}). Check whether it is a Parquet file and complete, or "
            "write it again."
        ) from error


def _path(path: Path) -> str:
    """Return the path, with characters escaped that DuckDB would interpret."""
    text = "".join(f"[{c}]" if c in "*?[" else c for c in str(path.absolute()))
    return "'" + text.replace("'", "''") + "'"
