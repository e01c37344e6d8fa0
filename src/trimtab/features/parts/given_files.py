"""Parquet files that stand for a source's history: read where they lie, or converted first, as `ingest` reads them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
from trimtab.features.parts.event_files import EventFiles, literal, parquet, pattern, quoted, value
from trimtab.store.duckdb_opening import open_duckdb

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
# Types of columns that DuckDB reads as the table of conversions does; whatever has another one is converted by that.
_READY: dict[Dtype, set[str]] = {
    "float": {"FLOAT", "DOUBLE", *_INTEGERS},
    "int": _INTEGERS,
    "bool": {"BOOLEAN"},
    "str": {"VARCHAR"},
    "time": {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"},
}
_MADE: dict[Dtype, str] = {  # column types of converted files
    "float": "DOUBLE",
    "int": "BIGINT",
    "bool": "BOOLEAN",
    "str": "VARCHAR",
    "time": "TIMESTAMP WITH TIME ZONE",
}
_RESERVED = ("_id", "_op", "_trimtab_file", "file_row_number")
_INSTEAD = "Leave these rows out, or ingest the files: `trimtab ingest {}` sends such rows to quarantine."


def folder_events(source: Source, path: Path, converted: Path) -> EventFiles:
    """The events in a Parquet file, or in all those of a folder, as history: known at their time plus the delay.

    They become events as they would by `ingest`, with one difference: where that would send a row to quarantine, this
    refuses the files.

    Args:
        source: What they are of.
        path: The file or folder.
        converted: A folder to be made for files that need it; it is used again when it is there, and must stay.

    Raises:
        NotFound: There is no such file.
        Misuse: A column is missing, or a row is no event; the message names it.
        Corrupt: A file is damaged.
    """
    source = msgspec.structs.replace(source, columns=source.declared, hidden=(), first=None)  # no recorded places
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise NotFound(f"events of {source.name!r}: no Parquet file at {path}. Give one, or a folder of some.")
    types, same = _types(source, files, path)
    if not same:
        files = _converted(source, files, list(types), converted)
        types = {name: _MADE[dtypes_of(source)[name]] for name in types}
    _refuse_misfits(source, files, types, path)
    return EventFiles(source=source, select=_select(source, files, types), partitions=tuple(map(str, files)))


def _types(source: Source, files: Sequence[Path], path: Path) -> tuple[dict[str, str], bool]:
    """The columns there are and types of them, and whether all files have just these, which need no conversion."""
    found = parquet_types(files)
    there = dict.fromkeys(name for types in found for name in types)
    for name, dtype in source.columns.items():
        if name not in there:
            raise Misuse(
                f"{path}: source {source.name!r} needs a column {name!r} of {dtype}; there are {', '.join(there)}."
            )
    if special := [name for name in _RESERVED if name in there]:
        raise Misuse(f"{path}: column {special[0]!r} has a meaning of its own in events. Ingest this file instead.")
    dtypes = dtypes_of(source)
    wanted = [{name: kind for name, kind in types.items() if name in dtypes} for types in found]
    ready = all(kind in _READY[dtypes[name]] for name, kind in wanted[0].items())
    merged = {name: kind for types in reversed(wanted) for name, kind in types.items()}
    return merged, ready and all(types == wanted[0] for types in wanted)


def _converted(source: Source, files: Sequence[Path], names: Sequence[str], folder: Path) -> list[Path]:
    """The rows of files by the table of conversions, in files of the same order."""
    if not folder.exists():
        fresh = folder.with_name(folder.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was stopped
        fresh.mkdir(parents=True)
        with open_duckdb() as connection:
            for number, table in enumerate(_tables(source, files, names)):
                connection.register("given", table)
                target = literal(fresh / f"{number:06}.parquet")
                connection.execute(f"COPY (SELECT * FROM given) TO {target} (FORMAT parquet)")
                connection.unregister("given")
        os.rename(fresh, folder)
    return sorted(folder.glob("*.parquet"))


def _tables(source: Source, files: Sequence[Path], names: Sequence[str]) -> Iterator[Columns]:
    """Batches of rows with all these columns; one at least."""
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
    """The query of `EventFiles`."""
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
    names = ", ".join(map(literal, files))  # a file is a partition: sorted, as partitions are
    return (
        f"SELECT {identity} AS id, {hashed} AS h, {time} AS event_at, {known} AS known_at, "
        f'(list_position([{names}], "_trimtab_file") - 1)::SMALLINT AS "partition", '
        f'file_row_number + 1 AS "position", false AS deleted{picked} '
        f"FROM read_parquet([{', '.join(map(pattern, files))}], filename = '_trimtab_file', file_row_number = true, "
        "hive_partitioning = false)"
    )


def _cleaned(dtype: Dtype, name: str, kind: str) -> str:
    """Normalise as ingestion does: NaN is null, -0.0 is 0.0."""
    sql = value(dtype, quoted(name), kind)
    return f"CASE WHEN isnan({sql}) THEN NULL ELSE {sql} + 0.0::DOUBLE END" if dtype == "float" else sql


def _refuse_misfits(source: Source, files: Sequence[Path], types: Mapping[str, str], path: Path) -> None:
    tests = {}
    for name, kind in types.items():
        dtype = dtypes_of(source)[name]
        if name in (source.time, source.key):
            tests[f"{name!r} is null"] = f"{quoted(name)} IS NULL"
        if dtype == "float":
            number = value(dtype, quoted(name))
            tests[f"{name!r} is infinite or beyond {LARGEST:g}"] = f"NOT isnan({number}) AND abs({number}) > {LARGEST}"
        if dtype == "time":
            tests[f"{name!r} is outside the years 1 to 9999"] = _beyond(name, kind)
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
                f"{path}: {what} in {count:,} rows, which is no event of {source.name!r}. "
                f"{_INSTEAD.format(source.name)}"
            )


def _beyond(name: str, kind: str) -> str:
    """SQL for whether a time lies outside the years 1 to 9999, or is infinite."""
    if kind == "TIMESTAMP_NS":  # its years are 1677 to 2262
        return f"NOT isfinite({quoted(name)})"
    bound, zone = ("TIMESTAMPTZ", " 00:00:00+00") if kind.endswith("ZONE") else (kind.split("_")[0], "")
    return f"NOT ({quoted(name)} >= {bound} '0001-01-01{zone}' AND {quoted(name)} < {bound} '10000-01-01{zone}')"
