"""Write tables of features to files, one block of rows after another.

A file is either written completely or not at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Conflict, Unavailable
from trimtab.features.parts.event_files import literal, parquet
from trimtab.store.duckdb_opening import quoted, shared_duckdb
from trimtab.store.durable_files import publish

# Rows in a Parquet row group. Callers make blocks of whole groups, so the groups of a table, and thus the bytes of its
# file, do not depend on the size of the blocks.
GROUP_ROWS = 122_880

_SQL: dict[Dtype, str] = {"float": "DOUBLE", "int": "BIGINT", "bool": "BOOLEAN", "str": "VARCHAR"}
Block = Callable[[slice], "tuple[Columns, dict[str, int]]"]  # computes a block's table, and counts by feature


def write_table(
    out: Path, scratch: Path | None, cuts: Sequence[slice], block: Block, counts: Mapping[str, int]
) -> dict[str, int]:
    """Write blocks of rows as one Parquet or CSV file, and return the sum of each count over the blocks.

    Equal tables give byte-identical files.

    Args:
        scratch: A folder for finished blocks, so that a stopped run can resume; None: a stopped run begins again.
        cuts: The range of rows of each block.
        block: Computes the table and the counts of one block.
        counts: The names of the counts, each with the value zero.

    Raises:
        Conflict: The file exists.
        Unavailable: A file cannot be written, for lack of space or access.
    """
    try:
        with tempfile.TemporaryDirectory(dir=scratch) as temporary:
            folder = Path(temporary) if scratch is None else scratch / "blocks"
            folder.mkdir(exist_ok=True)
            files = []
            total = dict(counts)
            for cut in cuts:
                noted = folder / f"{cut.start:012}.json"
                if not noted.exists():
                    table, more = block(cut)
                    for start in range(0, max(table.rows, 1), GROUP_ROWS):
                        group = table.take(slice(start, start + GROUP_ROWS))
                        _write_group(group, _group(folder, cut.start + start))
                    noted.with_suffix(".new").write_bytes(msgspec.json.encode(more))
                    noted.with_suffix(".new").rename(noted)
                more = msgspec.json.decode(noted.read_bytes(), type=dict[str, int])
                total = {name: count + more[name] for name, count in total.items()}
                files += [_group(folder, start) for start in range(cut.start, max(cut.stop, 1), GROUP_ROWS)]
            _put_together(files, out)
    except (duckdb.IOException, OSError) as error:
        raise Unavailable(f"{out}: {error}. Check free space and access, and run this again.") from error
    return total


def _group(folder: Path, start: int) -> Path:
    return folder / f"{start:012}.parquet"


def _write_group(table: Columns, path: Path) -> None:
    arrays: dict[str, Any] = {}
    picks = []
    for n, (name, column) in enumerate(table.by_name.items()):
        arrays[f"c{n}"] = np.ma.masked_array(column.values, mask=~column.present())
        sql = f"make_timestamptz(c{n})" if column.dtype == "time" else f"c{n}::{_SQL[column.dtype]}"
        picks.append(f"{sql} AS {quoted(name)}")
    with _connected() as connection:
        connection.register("written", arrays)
        connection.execute(f"COPY (SELECT {', '.join(picks)} FROM written) TO {literal(path)} (FORMAT parquet)")


def _put_together(files: Sequence[Path], out: Path) -> None:
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    manner = "FORMAT csv, HEADER" if out.suffix == ".csv" else "FORMAT parquet, COMPRESSION zstd"
    try:
        with _connected() as connection:
            connection.execute(f"COPY (SELECT * FROM {parquet(files)}) TO {literal(partial)} ({manner})")
        if out.exists():
            raise Conflict(f"{out} exists by now and is not overwritten. Remove it, and run this again.")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        publish(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def _connected() -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection of one thread that keeps the order of rows: equal tables give equal bytes."""
    return shared_duckdb({"threads": 1, "preserve_insertion_order": True}).execute("SET TimeZone = 'UTC'")
