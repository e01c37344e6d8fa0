"""A DuckDB in memory, for files and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def open_duckdb(config: dict[str, str | bool | int | float | list[str]] | None = None) -> DuckDBPyConnection:
    """A connection that draws no progress bar: DuckDB's goes to standard output after 2 s, between what is read there.

    Args:
        config: Settings of the database.

    >>> with open_duckdb() as connection:
    ...     connection.execute("SELECT current_setting('enable_progress_bar')").fetchone()
    (False,)
    """
    import duckdb

    connection = duckdb.connect(":memory:", config=config or {})
    connection.execute("SET enable_progress_bar = false")
    return connection
