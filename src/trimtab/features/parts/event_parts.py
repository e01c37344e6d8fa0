"""Events on disk, split into parts by the hash of their entity, so that parts can be evaluated one after another.

Which version of an event counts can only be decided from all of its versions, and a correction may move an event to
another entity. Therefore versions are resolved first, by id, and only then are events split by entity (D28).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.column import NUMPY_TYPES, masked_column
from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.columns.versions import Versions
from trimtab.events.definitions import Source
from trimtab.features.parts.event_files import EventFiles, literal, parquet
from trimtab.store.durable_files import sync_directory

Array = NDArray[Any]

# the columns of a version next to those of the source (c0, c1, ...)
_OWN = ("event_at", "known_at", "superseded_at", "deleted", '"partition"', '"position"')
_COUNTED = 16  # repeated ids are found by one query per this many parts; each counts an equal share of all ids
_WRITTEN = 4  # this many groups of records with repeated ids are written in one query
TOGETHER = 500_000  # the versions of about this many records are resolved at once


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one source in folders, one for each part. Events without an entity are left out."""

    source: Source
    by: tuple[str, ...]  # the source's columns that identify the entity
    names: tuple[str, ...]  # all columns in the files, including those in `by`
    parts: int
    partitions: tuple[str, ...]
    folder: Path

    def files(self, part: int | None = None) -> list[Path]:
        """Return the files of one part, or of all parts if `part` is None."""
        return sorted(self.folder.glob(f"part={'*' if part is None else part}/*.parquet"))


def settle(
    events: EventFiles, folder: Path, connection: duckdb.DuckDBPyConnection, parts: int = 1, together: int = TOGETHER
) -> str:  # fmt: skip
    """Return a query for the versions of all events, with `superseded_at` (when the next version became known).

    A record whose id occurs once is the only version of its event. Only the other records are processed in Python. In
    the queries, `h` is the hash of the id.

    Args:
        folder: The folder for files that the query needs. Existing files are reused. Keep the folder as long as the
            query is used.
        parts: How many parts the events will be split into. With more parts, ids are counted by more queries.
        together: About how many records are resolved at once, in memory with all columns.
    """
    recurring = [folder / f"recurring-{turn:05}.parquet" for turn in range(-(-parts // _COUNTED))]
    if not folder.exists():
        fresh = _fresh(folder)
        for turn, file in enumerate(recurring):
            connection.execute(
                f"COPY (SELECT h, count(*) AS n FROM ({events.select}) WHERE h % {len(recurring)} = {turn} GROUP BY 1 "
                f"HAVING count(*) > 1) TO {literal(fresh / file.name)} (FORMAT parquet)"
            )
        _settle_recurring(events, fresh, connection, together)
        _keep(fresh, folder)
    columns = _columns(range(len(events.source.columns)))
    own = ", ".join(name if name != "superseded_at" else f"{NEVER_US} AS superseded_at" for name in _OWN)
    single = f"SELECT {own}{columns} FROM ({events.select}) r"
    settled = sorted(folder.glob("settled-*.parquet"))
    if not settled:
        return single
    single += f" ANTI JOIN {parquet(recurring)} s ON r.h = s.h"
    return f"{single} UNION ALL SELECT {', '.join(_OWN)}{columns} FROM {parquet(settled)}"


def split(
    settled: str, events: EventFiles, by: tuple[str, ...], names: Sequence[str], parts: int, folder: Path,
    connection: duckdb.DuckDBPyConnection,
) -> Split:  # fmt: skip
    """Split versions by entity, unless the folder already exists. If `by` is empty, all versions are in one part.

    Args:
        settled: The query that `settle` returned.
        events: The records that were passed to `settle`.
        by: The columns that identify the entity.
        names: The other columns to keep.
        folder: The folder for the parts.
    """
    columns = list(events.source.columns)
    kept = tuple(name for name in columns if name in {*by, *names})
    if not folder.exists():
        fresh = _fresh(folder)
        keys = [f"c{columns.index(name)}" for name in by]
        there = " AND ".join(f"{key} IS NOT NULL" for key in keys) or "true"
        part = f"hash({', '.join(keys)}) % {parts}" if keys else "0"
        connection.execute(
            f"COPY (SELECT {', '.join(_OWN)}{_columns(columns.index(name) for name in kept)}, "
            f"{part} AS part FROM ({settled}) WHERE {there}) "
            f"TO {literal(fresh)} (FORMAT parquet, PARTITION_BY (part), OVERWRITE_OR_IGNORE)"
        )
        _keep(fresh, folder)
    return Split(
        source=events.source, by=by, names=kept, parts=parts, partitions=events.partitions, folder=folder
    )  # fmt: skip


def frame_of_part(split: Split, part: int, connection: duckdb.DuckDBPyConnection) -> EventFrame:
    """Return the events of one part, in no particular order."""
    files = split.files(part)
    columns = {name: (list(split.source.columns).index(name), split.source.columns[name]) for name in split.names}
    texts = {name: _texts(connection, files, i) for name, (i, dtype) in columns.items() if dtype == "str"}
    picks = ", ".join(_OWN)
    for name, (i, _) in columns.items():
        picks += f", enum_code(c{i}::texts{i})::BIGINT AS c{i}" if texts.get(name) is not None else f", c{i}"
    if not files:
        return _empty(split)
    found = connection.execute(f"SELECT {picks} FROM {parquet(files)}").fetchnumpy()
    taken = {name: _column(dtype, found.pop(f"c{i}"), texts.get(name)) for name, (i, dtype) in columns.items()}
    own = [np.ma.getdata(found[name.strip('"')]) for name in _OWN]
    event_at, known_at, superseded_at, deleted, partition, position = own
    return EventFrame(
        split.source.name, Columns(taken), event_at, known_at, superseded_at, deleted.astype(bool), partition,
        position, split.partitions,
    )  # fmt: skip


def parts_of(keys: Sequence[Column], parts: int, connection: duckdb.DuckDBPyConnection) -> Array:
    """Return the part of each entity in `keys`. It is arbitrary if a key is null."""
    columns: dict[str, Array] = {f"k{n}": key.values for n, key in enumerate(keys)}
    sql = ", ".join(f"k{n}::{'VARCHAR' if key.dtype == 'str' else 'BIGINT'}" for n, key in enumerate(keys))
    connection.register("entities", columns | {"n": np.arange(len(keys[0]))})
    found = connection.execute(f"SELECT (hash({sql}) % {parts})::INTEGER AS part, n FROM entities").fetchnumpy()
    connection.unregister("entities")
    out = np.empty(len(keys[0]), np.int32)
    out[found["n"]] = found["part"]
    return out


def entities_of(
    split: Split, known_by_us: int | None, connection: duckdb.DuckDBPyConnection
) -> list[Column]:  # fmt: skip
    """Return the distinct entities with a record that was known at `known_by_us` (None: at any time), in order."""
    columns = list(split.source.columns)
    keys = [f"c{columns.index(name)}" for name in split.by]
    dtypes = [split.source.columns[name] for name in split.by]
    files = split.files()
    if not files:
        return [Column(dtype, np.empty(0, object if dtype == "str" else np.int64)) for dtype in dtypes]
    known = "true" if known_by_us is None else f"known_at <= {known_by_us}"
    found = connection.execute(
        f"SELECT DISTINCT {', '.join(keys)} FROM {parquet(files)} WHERE {known} ORDER BY {', '.join(keys)}"
    ).fetchnumpy()
    return [
        Column(dtype, np.ma.getdata(found[key]).astype(object if dtype == "str" else np.int64))
        for key, dtype in zip(keys, dtypes, strict=True)
    ]


def _settle_recurring(
    events: EventFiles, folder: Path, connection: duckdb.DuckDBPyConnection, together: int
) -> None:  # fmt: skip
    """Resolve the versions of ids that occur more than once, some of these ids at a time."""
    recurring = parquet(sorted(folder.glob("recurring-*.parquet")))
    found = connection.execute(f"SELECT sum(n) FROM {recurring}").fetchone()
    groups = -(-int((found and found[0]) or 0) // together)
    for first in range(0, groups, _WRITTEN):
        these = f"h % {groups} BETWEEN {first} AND {first + _WRITTEN - 1}"
        by_id = folder / "by_id"
        connection.execute(
            f"COPY (SELECT *, h % {groups} AS g FROM (SELECT * FROM ({events.select}) WHERE {these}) r "
            f"SEMI JOIN (SELECT h FROM {recurring} WHERE {these}) s ON r.h = s.h) "
            f"TO {literal(by_id)} (FORMAT parquet, PARTITION_BY (g))"
        )
        for group in range(first, first + _WRITTEN):
            if files := sorted(by_id.glob(f"g={group}/*.parquet")):
                _settle_group(events, files, folder / f"settled-{group:05}.parquet", connection)
        shutil.rmtree(by_id, ignore_errors=True)


def _settle_group(
    events: EventFiles, files: Sequence[Path], to: Path, connection: duckdb.DuckDBPyConnection
) -> None:  # fmt: skip
    rows = connection.execute(f"SELECT * EXCLUDE (h) FROM {parquet(files)}").fetchnumpy()
    versions = Versions(events.source, list(events.partitions))
    versions.add_table(as_recorded(events.source, events.partitions, rows))
    _write(versions.frame(), to, connection)


def as_recorded(source: Source, partitions: tuple[str, ...], rows: dict[str, Array]) -> Columns:
    """Return records with the columns of a table of record (a permanent copy of the log)."""
    names, places = np.array(partitions, object), rows["partition"]
    table = {
        "_id": Column("str", np.ma.getdata(rows["id"])),
        "_event_at": Column("time", np.ma.getdata(rows["event_at"])),
        "_known_at": Column("time", np.ma.getdata(rows["known_at"])),
        "_op": Column("str", np.where(np.ma.getdata(rows["deleted"]), "delete", "upsert").astype(object)),
        "_partition": Column("str", names[np.ma.getdata(places)]),
        "_position": Column("int", np.ma.getdata(rows["position"])),
    }
    for i, (name, dtype) in enumerate(source.columns.items()):
        table[name] = masked_column(dtype, rows[f"c{i}"])
    return Columns(table)


def _write(frame: EventFrame, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    arrays: dict[str, Any] = {
        "event_at": frame.event_at_us,
        "known_at": frame.known_at_us,
        "superseded_at": frame.superseded_at_us,
        "deleted": frame.deleted,
        "partition": frame.partition,
        "position": frame.position,
    }
    picks = ", ".join(_OWN)
    for i, column in enumerate(frame.columns.by_name.values()):
        arrays[f"c{i}"], arrays[f"v{i}"] = column.values, column.present()
        kind = {"float": "DOUBLE", "bool": "BOOLEAN", "str": "VARCHAR"}.get(column.dtype, "BIGINT")
        picks += f", CASE WHEN v{i} THEN c{i}::{kind} END AS c{i}"
    connection.register("settled", arrays)
    connection.execute(f"COPY (SELECT {picks} FROM settled) TO {literal(path)} (FORMAT parquet)")
    connection.unregister("settled")


def _texts(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], column: int) -> Array | None:
    """Return the distinct texts of a column; None: there are none.

    Create the DuckDB type `texts<column>`, which numbers these texts.
    """
    if not files:
        return None
    query = f"SELECT DISTINCT c{column} FROM {parquet(files)} WHERE c{column} IS NOT NULL"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE distinct_texts AS {query}")
    found = connection.execute("SELECT count(*) FROM distinct_texts").fetchone()
    if not found or not found[0]:
        return None
    connection.execute(f"CREATE OR REPLACE TYPE texts{column} AS ENUM (SELECT * FROM distinct_texts)")
    listed = connection.execute(f"SELECT unnest(enum_range(NULL::texts{column})) AS text").fetchnumpy()
    return np.ma.getdata(listed["text"]).astype(object)


def _column(dtype: Dtype, found: Array, texts: Array | None) -> Column:
    if texts is not None:  # `found` has the numbers of the texts
        found = np.ma.masked_array(texts[np.ma.filled(found, 0)], np.ma.getmask(found))
    return masked_column(dtype, found)


def _empty(split: Split) -> EventFrame:
    columns = {
        name: Column(split.source.columns[name], np.empty(0, NUMPY_TYPES[split.source.columns[name]]))
        for name in split.names
    }
    none = np.empty(0, np.int64)
    return EventFrame(
        split.source.name, Columns(columns), none, none, none, np.empty(0, bool), none.astype(np.int16), none,
        split.partitions,
    )  # fmt: skip


def _columns(numbers: Any) -> str:
    return "".join(f", c{i}" for i in numbers)


def _fresh(folder: Path) -> Path:
    """Return an empty folder to write to, for `_keep` to rename when it is complete. Remains of a crash are removed."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def _keep(fresh: Path, folder: Path) -> None:
    """Give a folder its final name, after all of its contents are on the disk."""
    for path in fresh.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_directory(path)
    sync_directory(fresh)
    fresh.rename(folder)
    sync_directory(folder.parent)
