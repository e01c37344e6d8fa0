"""Parquet files as the history of a source. If needed, they are converted first, by the rules of `ingest`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import msgspec

from trimtab.core.columns.data import Column, Columns, Dtype, column
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.events.definitions import Source
from trimtab.events.files.files import problem_of
from trimtab.events.files.parquet_files import parquet_batches, parquet_types
from trimtab.events.values.conversions import LARGEST
from trimtab.events.values.fitting import dtypes_of
from trimtab.features.parts.event_files import EventFiles, literal, parquet, pattern, value
from trimtab.store.duckdb_opening import SQL_TYPES, quoted, shared_duckdb

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
# For each declared type, the types of Parquet columns from which DuckDB reads the same values as ingestion. If a column
# has another type, all files are converted first, as ingestion does it.
_READY: dict[Dtype, set[str]] = {
    "float": {"FLOAT", "DOUBLE", *_INTEGERS},
    "int": _INTEGERS,
    "bool": {"BOOLEAN"},
    "str": {"VARCHAR"},
    "time": {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"},
}
_RESERVED = ("_id", "_op", "_trimtab_file", "file_row_number")
_INSTEAD = "Leave these rows out, or ingest the files: `trimtab ingest {}` sends such rows to quarantine."


def folder_events(source: Source, path: Path, converted: Path) -> EventFiles:
    """Read the events in a Parquet file, or in all Parquet files of a folder, as history.

    An event became known at its event time plus the source's delay. The events are those that `ingest` would make, with
    one exception: if `ingest` would set a row aside as invalid, all files are refused.

    Args:
        converted: The folder for converted files, which is created if files need a conversion. If it exists, it is
            reused. Keep it as long as the events are read.

    Raises:
        NotFound: There is no such file.
        Misuse: A column is missing, or a row is not an event. The message says which.
        Corrupt: A file is damaged.
    """
    # earlier columns of the source only matter for events that are already in the log
    source = msgspec.structs.replace(source, columns=source.declared, hidden=(), first=None)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise NotFound(
            f"events of {source.name!r}: no Parquet file at {path}. Give a Parquet file, or a folder of Parquet files."
        )
    types, same = _types(source, files, path)
    if not same:
        files = _converted(source, files, list(types), converted)
        types = {name: SQL_TYPES[dtypes_of(source)[name]] for name in types}
    _refuse_misfits(source, files, types, path)
    return EventFiles(
        source=source,
        select=_select(source, files, types),
        partitions=tuple(map(str, files)),
        content_ids=not source.key,
    )


def _types(source: Source, files: Sequence[Path], path: Path) -> tuple[dict[str, str], bool]:
    """Return the columns with their types, and whether all files have exactly these types and need no conversion."""
    found = parquet_types(files)
    there = dict.fromkeys(name for types in found for name in types)
    for name, dtype in source.columns.items():
        if name not in there:
            raise Misuse(
                f"{path}: source {source.name!r} needs a column {name!r} of {dtype}; found the columns "
                f"{', '.join(there)}."
            )
    if special := [name for name in _RESERVED if name in there]:
        raise Misuse(
            f"{path}: the name {special[0]!r} is reserved when events are read directly from files. Use "
            "`trimtab ingest`, or rename the column."
        )
    dtypes = dtypes_of(source)
    wanted = [{name: kind for name, kind in types.items() if name in dtypes} for types in found]
    ready = all(kind in _READY[dtypes[name]] for name, kind in wanted[0].items())
    merged = {name: kind for types in reversed(wanted) for name, kind in types.items()}
    return merged, ready and all(types == wanted[0] for types in wanted)


def _converted(source: Source, files: Sequence[Path], names: Sequence[str], folder: Path) -> list[Path]:
    """Convert the rows as ingestion does. Return new files that have the rows in the given order."""
    if not folder.exists():
        fresh = folder.with_name(folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)  # an interrupted run may have left it
        fresh.mkdir(parents=True)
        with shared_duckdb() as connection:
            for number, table in enumerate(_tables(source, files, names)):
                connection.register("given", table)
                target = literal(fresh / f"{number:06}.parquet")
                connection.execute(f"COPY (SELECT * FROM given) TO {target} (FORMAT parquet)")
                connection.unregister("given")
        os.rename(fresh, folder)
    return sorted(folder.glob("*.parquet"))


def _tables(source: Source, files: Sequence[Path], names: Sequence[str]) -> Iterator[Columns]:
    """Yield the rows in batches that have all columns. There is at least one batch."""
    dtypes = dtypes_of(source)
    some = False
    for file in files:
        for rows in parquet_batches(file, source):
            if rows.bad:
                raise Misuse(f"file {file}, {problem_of(rows.bad[0], dtypes)} {_INSTEAD.format(source.name)}")
            some = True
            yield Columns({name: _or_null(rows.columns, name, dtypes[name]) for name in names})
    if not some:
        yield Columns({name: column(dtypes[name], []) for name in names})


def _or_null(columns: Columns, name: str, dtype: Dtype) -> Column:
    return columns[name] if name in columns else column(dtype, [None] * columns.rows)


def _select(source: Source, files: Sequence[Path], types: Mapping[str, str]) -> str:
    """Return the query for `EventFiles.select`."""
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
    names = ", ".join(map(literal, files))  # each file counts as a partition, and partitions are sorted
    return (
        f"SELECT {identity} AS id, {hashed} AS h, {time} AS event_at, {known} AS known_at, "
        f'(list_position([{names}], "_trimtab_file") - 1)::SMALLINT AS "partition", '
        f'file_row_number + 1 AS "position", false AS deleted{picked} '
        f"FROM read_parquet([{', '.join(map(pattern, files))}], filename = '_trimtab_file', file_row_number = true, "
        "hive_partitioning = false)"
    )


def _cleaned(dtype: Dtype, name: str, kind: str) -> str:
    """Return the SQL that cleans a value as ingestion does: NaN becomes null, and -0.0 becomes 0.0."""
    sql = value(dtype, quoted(name), kind)
    return f"CASE WHEN isnan({sql}) THEN NULL ELSE {sql} + 0.0::DOUBLE END" if dtype == "float" else sql


def _refuse_misfits(source: Source, files: Sequence[Path], types: Mapping[str, str], path: Path) -> None:
    listed = ", ".join(map(pattern, files))
    # files usually state the least and the greatest value of each row group, so that the values need not be read
    stated = [f"TRY_CAST(stats_{which}_value AS DOUBLE)" for which in ("min", "max")]
    within = (
        f"SELECT path_in_schema FROM parquet_metadata([{listed}]) GROUP BY 1 "
        f"HAVING bool_and(coalesce({stated[0]} >= -{LARGEST} AND {stated[1]} <= {LARGEST}, false))"
    )
    try:
        with shared_duckdb() as connection:
            usual = {name for (name,) in connection.execute(within).fetchall()}
            tests = _tests(source, types, usual)
            counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test in tests.values())
            (found,) = connection.execute(f"SELECT {counts} FROM {parquet(files)}").fetchall()
    except duckdb.Error as error:
        raise Corrupt(f"{path}: {str(error).splitlines()[0]} Restore that file from a copy.") from error
    for what, count in zip(tests, found, strict=True):
        if count:
            raise Misuse(
                f"{path}: {what} in {count:,} rows, which cannot be events of {source.name!r}. "
                f"{_INSTEAD.format(source.name)}"
            )


def _tests(source: Source, types: Mapping[str, str], usual: Collection[str]) -> dict[str, str]:
    """Return SQL tests, each true for values that no event has. The numbers in the columns `usual` are known to fit."""
    tests = {}
    for name, kind in types.items():
        dtype = dtypes_of(source)[name]
        if name in (source.time, source.key):
            tests[f"{name!r} is null"] = f"{quoted(name)} IS NULL"
        if dtype == "float" and name not in usual:
            number = value(dtype, quoted(name))
            tests[f"{name!r} is infinite or beyond {LARGEST:g}"] = f"NOT isnan({number}) AND abs({number}) > {LARGEST}"
        if dtype == "time":
            tests[f"{name!r} is outside the years 1 to 9999"] = _beyond(name, kind)
    return tests


def _beyond(name: str, kind: str) -> str:
    """Return the SQL that is true if a time is infinite, or outside of the years 1 to 9999."""
    if kind == "TIMESTAMP_NS":  # this type only covers the years 1677 to 2262
        return f"NOT isfinite({quoted(name)})"
    bound, zone = ("TIMESTAMPTZ", " 00:00:00+00") if kind.endswith("ZONE") else (kind.split("_")[0], "")
    return f"NOT ({quoted(name)} >= {bound} '0001-01-01{zone}' AND {quoted(name)} < {bound} '10000-01-01{zone}')"
