"""Events in the files of tables of record, for computations that do not fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from trimtab.core.errors import Misuse
from trimtab.features.parts.event_files import parquet
from trimtab.store.duckdb_opening import shared_duckdb
from trimtab.store.ports import Table


@runtime_checkable
class _InFiles(Protocol):
    def files(self) -> list[Path]: ...


def table_files(table: Table) -> list[Path]:
    """Return the Parquet files of a table of record.

    Raises:
        Misuse: The table is not in files of this machine.
    """
    if not isinstance(table, _InFiles):
        raise Misuse(
            f"{type(table).__name__}: its rows are not in files of this machine, and this history does not fit into "
            "memory. Raise features.memory_bytes, or give the events as Parquet files."
        )
    return table.files()


def reached_in(table: Table) -> dict[str, int]:
    """Return for each partition the last position that a table of record has."""
    files = table_files(table)
    if not files:
        return {}
    with shared_duckdb() as connection:
        query = f'SELECT "_partition", max("_position") FROM {parquet(files)} GROUP BY 1'
        return {str(name): int(last) for name, last in connection.execute(query).fetchall()}
