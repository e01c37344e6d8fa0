"""Where the events of a source lie on disk, in the form in which DuckDB reads all of them alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import msgspec

from trimtab.core.columns import Dtype
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.events.conversions import LARGEST
from trimtab.events.definitions import Source
from trimtab.store.duckdb_opening import open_duckdb

_SQL: dict[Dtype, str] = {"float": "DOUBLE", "int": "BIGINT", "bool": "BOOLEAN", "str": "VARCHAR", "time": "BIGINT"}
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_FITS: dict[Dtype, set[str]] = {
    "float": {"FLOAT", "DOUBLE", *_INTEGERS},
    "int": _INTEGERS,
    "bool": {"BOOLEAN"},
    "str": {"VARCHAR"},
    "time": {"BIGINT", "DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"},
}


class EventFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one source in Parquet files: repetitions among them, versions not told apart yet.

    `select` is a query that gives `id` (text) and `h`, alike where ids are (uint64), `event_at`, `known_at`, `position`
    (int64), `partition` (the index into `partitions`), `deleted`, and the source's columns as `c0`, `c1`, ... in
    declared order, times in microseconds.
    """

    source: Source
    select: str
    partitions: tuple[str, ...]  # sorted

    def count(self, connection: duckdb.DuckDBPyConnection) -> int:
        """How many records there are."""
        found = connection.execute(f"SELECT count(*) FROM ({self.select})").fetchone()
        return int(found[0]) if found else 0


_FOR_TWO_THREADS = 256 << 20


def connected(scratch: Path, memory_bytes: int) -> duckdb.DuckDBPyConnection:
    """DuckDB with a limit of memory; what does not fit goes to `scratch`."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": f"{memory_bytes >> 20}MiB",
        "preserve_insertion_order": False,
        "temp_directory": str(scratch),
        "threads": 2 if memory_bytes >= _FOR_TWO_THREADS else 1,  # each holds row groups of its own
    }
    connection = open_duckdb(config)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def table_events(
    source: Source, files: Sequence[Path], partitions: Sequence[str], positions: Mapping[str, int]
) -> EventFiles:
    """The records in a table of record up to some positions.

    Args:
        source: What they are of.
        files: The table's Parquet files.
        partitions: The log's partitions that may be in it.
        positions: P: no record behind them.
    """
    names = tuple(sorted(partitions))
    limits = ", ".join(str(positions.get(name, 0)) for name in names)
    parts = f"[{', '.join(map(literal, names))}]"
    place = f'list_position({parts}, "_partition")'
    there = _described(files, files[0].parent) if files else {}  # a table from before a column was added lacks it
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


def folder_events(source: Source, path: Path) -> EventFiles:
    """The events in a Parquet file, or in all those of a folder, as history: known at their time plus the delay.

    They become events as they would by `ingest`, with one difference: where that would send a row to quarantine, this
    refuses the files.

    Raises:
        NotFound: There is no such file.
        Misuse: A column is missing or of another type, or holds what is no event; the message names it.
    """
    source = msgspec.structs.replace(source, columns=source.declared, hidden=(), first=None)  # no recorded places
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise NotFound(f"events of {source.name!r}: no Parquet file at {path}. Give one, or a folder of some.")
    types = _described(files, path)
    for name, dtype in source.columns.items():
        if types.get(name) not in _FITS[dtype]:
            found = f"it is {types[name]}" if name in types else f"there are {', '.join(types)}"
            raise Misuse(f"{path}: source {source.name!r} needs a column {name!r} of {dtype}; {found}.")
    if special := [name for name in ("_id", "_op", "_trimtab_file", "file_row_number") if name in types]:
        raise Misuse(f"{path}: column {special[0]!r} has a meaning of its own in events. Ingest this file instead.")
    _refuse_misfits(source, files, types, path)
    columns = {name: _cleaned(dtype, name, types[name]) for name, dtype in source.columns.items()}
    time = columns[source.time]
    known = f"{time} + {source.delay_us}"
    if "_known_at" in types:
        known = f"coalesce({value('time', quoted('_known_at'), types['_known_at'])}, {known})"
    struct = ", ".join(f"c{i} := {sql}" for i, sql in enumerate(columns.values()))
    if source.key:
        identity, hashed = f"{columns[source.key]}::VARCHAR", f"hash({columns[source.key]})"
    else:
        identity, hashed = f"md5(to_json(struct_pack({struct}))::VARCHAR)", f"hash({', '.join(columns.values())})"
    picked = "".join(f", {sql} AS c{i}" for i, sql in enumerate(columns.values()))
    names = [str(file) for file in files]  # a file is a partition: sorted, as partitions are
    select = (
        f"SELECT {identity} AS id, {hashed} AS h, {time} AS event_at, {known} AS known_at, "
        f'(list_position([{", ".join(map(literal, names))}], "_trimtab_file") - 1)::SMALLINT AS "partition", '
        f'file_row_number + 1 AS "position", false AS deleted{picked} '
        f"FROM read_parquet([{', '.join(map(_pattern, files))}], filename = '_trimtab_file', file_row_number = true, "
        "hive_partitioning = false)"
    )
    return EventFiles(source=source, select=select, partitions=tuple(names))


def parquet(files: Sequence[Path]) -> str:
    """SQL for the rows of Parquet files."""
    return f"read_parquet([{', '.join(map(_pattern, files))}], hive_partitioning = false, union_by_name = true)"


def value(dtype: Dtype, sql: str, kind: str = "TIMESTAMP WITH TIME ZONE") -> str:
    """SQL for a column's value as it is computed with; `kind` is what the file holds."""
    return f"epoch_us({sql}::TIMESTAMPTZ)" if dtype == "time" and kind != "BIGINT" else f"{sql}::{_SQL[dtype]}"


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """An SQL text."""
    return "'" + str(text).replace("'", "''") + "'"


def _numbered(source: Source) -> enumerate[tuple[str, Dtype]]:
    return enumerate(source.columns.items())


def _nothing(source: Source) -> str:
    columns = "".join(f", NULL::{_SQL[dtype]} AS c{i}" for i, (_, dtype) in _numbered(source))
    return (
        "SELECT '' AS id, 0::UBIGINT AS h, 0::BIGINT AS event_at, 0::BIGINT AS known_at, 0::SMALLINT AS \"partition\", "
        f'0::BIGINT AS "position", false AS deleted{columns} WHERE false'
    )


def _cleaned(dtype: Dtype, name: str, kind: str) -> str:
    """As ingestion has it: NaN is null, -0.0 is 0.0."""
    sql = value(dtype, quoted(name), kind)
    return f"CASE WHEN isnan({sql}) THEN NULL ELSE {sql} + 0.0::DOUBLE END" if dtype == "float" else sql


def _refuse_misfits(source: Source, files: Sequence[Path], types: Mapping[str, str], path: Path) -> None:
    tests = {}
    for name, dtype in source.columns.items():
        if name in (source.time, source.key):
            tests[f"{name!r} is null"] = f"{quoted(name)} IS NULL"
        if dtype == "float":
            number = value(dtype, quoted(name))
            tests[f"{name!r} is infinite or beyond {LARGEST:g}"] = f"NOT isnan({number}) AND abs({number}) > {LARGEST}"
        if dtype == "time" and types[name] not in ("BIGINT", "DATE"):
            tests[f"{name!r} is infinite"] = f"NOT isfinite({quoted(name)})"
    counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test in tests.values())
    try:
        with open_duckdb() as connection:
            found = connection.execute(f"SELECT {counts} FROM {parquet(files)}").fetchone()
    except duckdb.Error as error:
        raise Corrupt(f"{path}: {str(error).splitlines()[0]} Restore that file from a copy.") from error
    assert found is not None  # an aggregate gives one row
    for what, count in zip(tests, found, strict=True):
        if count:
            raise Misuse(
                f"{path}: {what} in {count:,} rows, which is no event of {source.name!r}. Leave these rows out, or "
                f"ingest the files: `trimtab ingest {source.name}` sends such rows to quarantine."
            )


def _described(files: Sequence[Path], path: Path) -> dict[str, str]:
    try:
        with open_duckdb() as connection:
            described = connection.execute(f"DESCRIBE SELECT * FROM {parquet(files)}").fetchall()
    except duckdb.Error as error:
        raise Misuse(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return {str(name): str(kind) for name, kind, *_ in described}


def _pattern(path: Path) -> str:
    """A path as text, where DuckDB would take * ? [ for more than themselves."""
    return literal(re.sub(r"([*?\[])", r"[\1]", str(path)))
