"""Open DuckDB in memory, to read and write files and tables."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from trimtab.core.columns.data import Dtype

Config = dict[str, str | bool | int | float | list[str]]
SQL_TYPES: Mapping[Dtype, str] = {  # the types of columns in Parquet files that trimtab writes
    "float": "DOUBLE",
    "int": "BIGINT",
    "bool": "BOOLEAN",
    "str": "VARCHAR",
    "time": "TIMESTAMP WITH TIME ZONE",
}
_SHARED: dict[str, DuckDBPyConnection] = {}  # by process, thread limit, temporary folder and configuration
_MUTEX = threading.Lock()


def open_duckdb(config: Config | None = None) -> DuckDBPyConnection:
    """Return a connection without a progress bar, which would be written to standard output.

    If `OMP_NUM_THREADS` is set, the connection uses at most that number of threads. # D92

    >>> with open_duckdb() as connection:
    ...     connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    (False,)
    """
    import duckdb

    given = dict(config or {})
    # the folder for rows that do not fit into memory; DuckDB's default is the current folder
    given.setdefault("temp_directory", os.path.join(tempfile.gettempdir(), f"trimtab-duckdb-{os.getpid()}"))
    if (allowed := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(allowed):
        given.setdefault("threads", int(allowed))
    connection = duckdb.connect(":memory:", config=given)
    connection.execute("SET enable_progress_bar = false")
    return connection


def shared_duckdb(config: Config | None = None) -> DuckDBPyConnection:
    """Return a connection to a database that this process keeps, because opening one takes 10 ms of processor time.

    Make only temporary tables and views, because all connections would see any others. Files are not cached in memory.
    """
    import duckdb

    kept = f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')} {tempfile.gettempdir()} {config}"
    with _MUTEX:
        try:
            return _SHARED[kept].cursor().execute("SET enable_progress_bar = false")
        except (KeyError, duckdb.FatalException):  # DuckDB closes a database in which it found a fault
            _SHARED[kept] = open_duckdb({**(config or {}), "enable_external_file_cache": False})
            return _SHARED[kept].cursor()


def quoted(name: str) -> str:
    """Return an SQL identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'
