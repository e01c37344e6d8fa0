"""Parquet: DuckDB unpacks it into Arrow batches, so that its values are those of every Arrow table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from trimtab.core.arrow import read_arrow
from trimtab.core.columns import ArrowTable, Dtype
from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.events.fitting import FileRows, fit_table, wanted_columns
from trimtab.store.duckdb_opening import open_duckdb

# Nothing that DuckDB would find out from a path or a column's name.
_AS_IT_IS = "hive_partitioning=false, union_by_name=false, binary_as_string=false"


def read_parquet(path: Path, source: Source) -> FileRows:
    """The rows of a Parquet file; see `read_file`."""
    what = f"file {path}"
    with _opened(path) as (connection, scan):
        names = [str(name) for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()]
        wanted = wanted_columns(what, source, names)
        columns = ", ".join(map(_name, wanted))
        (rows,) = connection.execute(f"SELECT num_rows FROM parquet_file_metadata({_path(path)})").fetchall()[0]
        found = read_arrow(connection.sql(f"SELECT {columns} FROM {scan}"), loose=True)
    return fit_table(what, source, ArrowTable(tuple(names), found.columns, found.loose, rows))


def parquet_columns(path: Path) -> dict[str, Dtype]:
    """The columns of a Parquet file and what each holds.

    Raises:
        Misuse: It cannot be read, or a column holds what no column of ours can.
    """
    with _opened(path) as (connection, scan):
        none = read_arrow(connection.sql(f"SELECT * FROM {scan} LIMIT 0")).columns
    return {name: column.dtype for name, column in none.by_name.items()}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A connection, and the SQL that scans the file."""
    offline: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        with open_duckdb(offline) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection, f"read_parquet({_path(path)}, {_AS_IT_IS})"
    except duckdb.Error as error:
        raise Misuse(
            f"file {path}: cannot be read as Parquet ({str(error).strip().splitlines()[0]}). Is it what its name says, "
            "and whole? Write it again."
        ) from error


def _path(path: Path) -> str:
    """The path as DuckDB takes it literally."""
    text = "".join(f"[{c}]" if c in "*?[" else c for c in str(path.absolute()))
    return "'" + text.replace("'", "''") + "'"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
