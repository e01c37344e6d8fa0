"""A small part of the events on disk: all records of the ids of which a query chooses one."""

from __future__ import annotations

from pathlib import Path

import duckdb

from trimtab.features.parts.event_files import EventFiles, literal, parquet


def with_all_versions(
    events: EventFiles, chosen: str, folder: Path, connection: duckdb.DuckDBPyConnection
) -> EventFiles:
    """Write all records of some ids to a file, because which version of an id counts depends on all its versions.

    Args:
        events: All records of a source.
        chosen: A query over `events.select` for the column `h`: the ids whose records are wanted, any number of times.
            Other ids of the same hash may be written as well.
        folder: An empty folder, which the result is read from and which must be kept.
        connection: The DuckDB connection.
    """
    ids, records = folder / "ids.parquet", folder / "records.parquet"
    connection.execute(f"COPY ({chosen}) TO {literal(ids)} (FORMAT parquet)")
    connection.execute(
        f"COPY (SELECT r.* FROM ({events.select}) r SEMI JOIN {parquet([ids])} s ON r.h = s.h) "
        f"TO {literal(records)} (FORMAT parquet)"
    )
    return EventFiles(
        source=events.source, select=f"SELECT * FROM {parquet([records])}", partitions=events.partitions
    )  # fmt: skip
