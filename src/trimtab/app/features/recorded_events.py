"""Events in the files of tables of record, for computations that do not fit into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from trimtab.app.features.materialising import SPARED_H, copy_to_tables, writing_tables
from trimtab.app.system import System
from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.features.parts.event_files import EventFiles, parquet, table_events
from trimtab.store.duckdb_opening import shared_duckdb
from trimtab.store.ports import Prunable, Table

_SMALL_BYTES = 8 << 20
_MOST_SMALL = 64  # if a table has more small files, they are merged


@runtime_checkable
class _InFiles(Protocol):
    def files(self) -> list[Path]: ...


def recorded_events(system: System, source: Source) -> EventFiles:
    """Copy new records of the log to the tables of record, and return the files with all records of a source.

    Raises:
        Conflict: Another process holds the tables.
        Misuse: The tables are not in files of this machine.
    """
    copy_to_tables(system)
    merge_files(system)
    table = system.state.tables(system.sources, make=False)[source.name]
    positions = system.state.events.positions()  # not below those of the table, which was filled from the log
    for partition, last in reached_in(table).items():  # adds partitions that are gone from the log
        positions.setdefault(partition, last)
    return table_events(source, table_files(table), list(positions), positions)


def merge_files(system: System) -> None:
    """Merge the files of tables that have many small ones. A table gets one more whenever events are copied to it."""
    for table in system.state.tables(system.sources, make=False).values():
        small = sum(file.stat().st_size < _SMALL_BYTES for file in table_files(table))
        if small > _MOST_SMALL and isinstance(table, Prunable):
            with writing_tables(system.state):
                table.compact()
                table.vacuum(SPARED_H)


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
