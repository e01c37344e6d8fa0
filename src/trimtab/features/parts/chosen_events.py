"""Choose the events on disk whose hash is in a list, and all versions of their ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import duckdb

from trimtab.features.parts.event_files import EventFiles, literal, parquet

_HASHED_BYTES = 64  # about how much memory DuckDB needs for each hash that rows are compared with


def with_hashes(
    rows: str, hashes: Sequence[Path], to: Path, connection: duckdb.DuckDBPyConnection, memory_bytes: int
) -> list[Path]:
    """Write the rows of a query whose column `h` is among the given hashes, and return the files.

    If the hashes do not fit in memory, they are divided into parts. The query runs once for each part.

    Args:
        hashes: Parquet files with the hashes, in a column `h`.
        to: The start of the paths of the files to write.
        memory_bytes: The memory for the hashes of one part.
    """
    found = connection.execute(f"SELECT count(*) FROM {parquet(hashes)}").fetchone()
    parts = max(1, math.ceil((found[0] if found else 0) * _HASHED_BYTES / memory_bytes))
    written = [to.with_name(f"{to.name}-{part:05}.parquet") for part in range(parts)]
    for part, file in enumerate(written):
        mine = f"(SELECT h FROM {parquet(hashes)} WHERE h % {parts} = {part})"
        connection.execute(
            f"COPY (SELECT r.* FROM ({rows}) r SEMI JOIN {mine} s ON r.h = s.h WHERE r.h % {parts} = {part}) "
            f"TO {literal(file)} (FORMAT parquet)"
        )
    return written


def with_all_versions(
    events: EventFiles, ids: Sequence[Path], folder: Path, connection: duckdb.DuckDBPyConnection, memory_bytes: int
) -> EventFiles:
    """Write all records of some ids. (Which version of an id counts depends on all its versions.)

    Args:
        events: All records of a source.
        ids: Parquet files with the hashes of the ids, in a column `h`. A hash may occur several times.
        folder: An existing folder for files. The result reads from them, so keep them.
        memory_bytes: As for `with_hashes`.
    """
    records = with_hashes(events.select, ids, folder / "records", connection, memory_bytes)
    return EventFiles(source=events.source, select=f"SELECT * FROM {parquet(records)}", partitions=events.partitions)
