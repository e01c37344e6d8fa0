"""Open DuckDB in memory, to read and write files and tables."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from trimtab.core.columns.data import Dtype

Config = dict[str, str | bool | int | float | list[str]]

SQL_TYPES: Mapping[Dtype, str] = {  # of the columns in Parquet files that trimtab writes
    "float": "DOUBLE",
    "int": "BIGINT",
    "bool": "BOOLEAN",
    "str": "VARCHAR",
    "time": "TIMESTAMP WITH TIME ZONE",
}
_SHARED: dict[tuple[int, str], DuckDBPyConnection] = {}  # by the process and the settings
_MUTEX = threading.Lock()


def open_duckdb(config: Config | None = None) -> DuckDBPyConnection:
    """Return a connection without a progress bar, which would be written to standard output.

    If `OMP_NUM_THREADS` is set, the connection uses at most that number of threads. # D92

    >>> with open_duckdb() as connection:
    ...     connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    (False,)
    """
    import duckdb

    connection = duckdb.connect(":memory:", config=_completed(config))
    connection.execute("SET enable_progress_bar = false")
    return connection


def shared_duckdb(config: Config | None = None) -> DuckDBPyConnection:
    """Return a connection to a database that this process keeps, because opening one takes 10 ms of processor time.

    Use it to read and write files. Tables and views must be temporary, because others would see them.

    >>> with shared_duckdb() as connection, shared_duckdb() as other:
    ...     _ = connection.execute("CREATE TEMP TABLE t AS SELECT 1")
    ...     other.execute("SELECT count(*) FROM duckdb_tables() WHERE database_name = 'memory'").fetchone()
    (0,)
    """
    import duckdb

    # a file that was replaced must not be read from memory
    completed = _completed({"enable_external_file_cache": False, **(config or {})})
    kept = (os.getpid(), str(sorted(completed.items())))
    with _MUTEX:
        if kept in _SHARED:
            connection = _SHARED[kept].cursor()
            with contextlib.suppress(duckdb.FatalException):  # DuckDB closes a database in which it found a fault
                connection.execute("SET enable_progress_bar = false")
                return connection
        _SHARED[kept] = open_duckdb(completed)
        connection = _SHARED[kept].cursor()
    connection.execute("SET enable_progress_bar = false")
    return connection


def _completed(config: Config | None) -> Config:
    given = dict(config or {})
    # the folder for rows that do not fit into memory; DuckDB's default is the current folder
    given.setdefault("temp_directory", os.path.join(tempfile.gettempdir(), f"trimtab-duckdb-{os.getpid()}"))
    if (allowed := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(allowed):
        given.setdefault("threads", int(allowed))
    return given


def quoted(name: str) -> str:
    """Return an SQL identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'
