"""Files with the events of a source, as DuckDB queries that all have the same columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.events.definitions import Source
from trimtab.store.duckdb_opening import Config, open_duckdb, quoted, shared_duckdb

_SQL: dict[Dtype, str] = {"float": "DOUBLE", "int": "BIGINT", "bool": "BOOLEAN", "str": "VARCHAR", "time": "BIGINT"}


class EventFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The records of one source in Parquet files. Repetitions and versions are not resolved yet.

    `select` is a query with these columns: `id` (text); `h` (uint64), equal for equal ids; `event_at`, `known_at` and
    `position` (int64); `partition` (index into `partitions`); `deleted`; and the source's columns as `c0`, `c1`, ... in
    declared order. Times are in microseconds.
    """

    source: Source
    select: str
    partitions: tuple[str, ...]  # sorted
    content_ids: bool = False  # whether an id is a hash of the values, so that records with equal ids have equal values

    def count(self, connection: duckdb.DuckDBPyConnection) -> int:
        """The number of records."""
        ((count,),) = connection.execute(f"SELECT count(*) FROM ({self.select})").fetchall()
        return int(count)


_FOR_TWO_THREADS = 256 << 20


def connected(scratch: Path, memory_bytes: int, *, ordered: bool = False) -> duckdb.DuckDBPyConnection:
    """Open DuckDB with a memory limit. Data that do not fit are written to the folder `scratch`.

    `ordered`: whether the rows of a query are in the order of the rows in the files.
    """
    config: Config = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "arrow_output_version": "1.4",  # texts as views, which are read faster
        "produce_arrow_string_view": True,
        "memory_limit": f"{memory_bytes >> 20}MiB",
        "preserve_insertion_order": ordered,
        "temp_directory": str(scratch),
        # each thread holds row groups of its own, so a second thread needs more memory
        "threads": 2 if memory_bytes >= _FOR_TWO_THREADS else 1,
    }
    return open_duckdb(config).execute("SET TimeZone = 'UTC'")


def table_events(
    source: Source, files: Sequence[Path], partitions: Sequence[str], positions: Mapping[str, int]
) -> EventFiles:
    """Select the records in a table of record (a permanent copy of the log), up to some positions.

    Args:
        files: The Parquet files of the table.
        partitions: The partitions of the log that may be in the table.
        positions: For each partition, the last position to select.
    """
    names = tuple(sorted(partitions))
    limits = ", ".join(str(positions.get(name, 0)) for name in names)
    parts = f"[{', '.join(map(literal, names))}]"
    place = f'list_position({parts}, "_partition")'
    # a table that was written before a column was added does not have the column
    there = _described(files, files[0].parent) if files else {}
    picked = {
        name: value(d, quoted(name)) if name in there else f"NULL::{_SQL[d]}" for name, d in source.columns.items()
    }
    columns = "".join(f", {sql} AS c{i}" for i, sql in enumerate(picked.values()))
    where = f'"_position" <= list_extract([{limits}], {place})' if names else "false"
    select = (
        f'SELECT "_id" AS id, hash("_id") AS h, epoch_us("_event_at") AS event_at, epoch_us("_known_at") AS known_at, '
        f'({place} - 1)::SMALLINT AS "partition", "_position" AS "position", "_op" = \'delete\' AS deleted{columns} '
        f"FROM {parquet(files)} WHERE {where}"
    )
    return EventFiles(source=source, select=select if files else _nothing(source), partitions=names)


def parquet(files: Sequence[Path]) -> str:
    """Return the SQL for the rows of Parquet files."""
    return f"read_parquet([{', '.join(map(pattern, files))}], hive_partitioning = false, union_by_name = true)"


def value(dtype: Dtype, sql: str, kind: str = "TIMESTAMP WITH TIME ZONE") -> str:
    """Return the SQL for a column's value as it is used in computations. `kind` is its type in the file."""
    # DuckDB's own conversion would round to the nearest microsecond instead of down
    if dtype == "time" and kind == "TIMESTAMP_NS":
        return f"((epoch_ns({sql}) - (epoch_ns({sql}) % 1000 + 1000) % 1000) // 1000)"
    return f"epoch_us({sql}::TIMESTAMPTZ)" if dtype == "time" else f"{sql}::{_SQL[dtype]}"


def literal(text: str | Path) -> str:
    """Return a text in quotes, for use in SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def _nothing(source: Source) -> str:
    columns = "".join(f", NULL::{_SQL[dtype]} AS c{i}" for i, (_, dtype) in enumerate(source.columns.items()))
    return (
        "SELECT '' AS id, 0::UBIGINT AS h, 0::BIGINT AS event_at, 0::BIGINT AS known_at, 0::SMALLINT AS \"partition\", "
        f'0::BIGINT AS "position", false AS deleted{columns} WHERE false'
    )


def _described(files: Sequence[Path], path: Path) -> dict[str, str]:
    """Return the columns of Parquet files with their DuckDB types. `path` names the files in errors."""
    try:
        with shared_duckdb() as connection:
            described = connection.execute(f"DESCRIBE SELECT * FROM {parquet(files)}").fetchall()
    except duckdb.Error as error:
        raise Misuse(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return {str(name): str(kind) for name, kind, *_ in described}


def pattern(path: Path) -> str:
    """Return a path as text, with the wildcards * ? [ escaped for DuckDB."""
    return literal(re.sub(r"([*?\[])", r"[\1]", str(path)))
