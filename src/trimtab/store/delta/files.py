"""The Parquet files of a `DeltaTable`: written and read by DuckDB, and named by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.column import NUMPY_TYPES, masked_column
from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.store.duckdb_opening import SQL_TYPES, quoted, shared_duckdb
from trimtab.store.durable_files import narrow, sync_directory

# newer files may have additional columns
_OPTIONS = "hive_partitioning = false, union_by_name = true"
# Matches messages about a full disk from the operating system, DuckDB and Delta's library. The numbers are the error
# codes for a file that is too large, a full disk and an exceeded quota.
DISK_FULL = re.compile(r"(os error |\[?Errno |\"errno\":\s*\")(27|28|122)\b|No space left|Disk quota|File too large")
_NAME = re.compile(r"(\d{20})-[0-9a-f]{16}-([0-9a-f]{64})\.parquet")


class ParquetFiles:
    """The Parquet files in a table's directory.

    A name is `order-random-hash.parquet`. `order` is the number of the append, so names sort in the order of the rows.
    `random` makes names differ if two writers append equal rows at once, because two commits must not share a file.
    `hash` is that of the bytes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._duckdb = shared_duckdb({"autoinstall_known_extensions": False})
        self._sound: set[str] = set()  # files whose hash this process has checked
        # the columns of each file, which never change
        self._known_columns: dict[str, frozenset[str]] = {}
        self._mutex = threading.Lock()

    def write(self, rows: Columns, order: int) -> str:
        """Write `rows` to a new, synced file, and return the file's name."""
        data: dict[str, NDArray[Any]] = {}
        picks = []
        for i, (name, column) in enumerate(rows.by_name.items()):
            data[f"c{i}"] = column.values
            value = f"make_timestamptz(c{i})" if column.dtype == "time" else f"c{i}"
            if column.dtype == "float":
                value = f"CASE WHEN isnan(c{i}) THEN NULL ELSE c{i} END"
            elif column.valid is not None:
                data[f"v{i}"] = column.valid
                value = f"CASE WHEN v{i} THEN {value} END"
            picks.append(f"CAST({value} AS {SQL_TYPES[column.dtype]}) AS {quoted(name)}")
        with self._cursor() as cursor:
            cursor.register("incoming", data)
            return self._keep(cursor, f"SELECT {', '.join(picks)} FROM incoming", order)

    def rewrite(self, names: Sequence[str], order: int, where: str = "true", values: Sequence[Any] = ()) -> str:
        """Write a new, synced file with those rows of the named files that fulfil `where`, and return its name.

        `values` are the parameters of `where`. Without them, the rows are copied in pieces. With them, all rows are in
        memory at once, because COPY takes no parameters.
        """
        with self._cursor() as cursor:
            if not values:
                return self._keep(cursor, self._select("*", names, where), order)
            cursor.execute("CREATE TEMP TABLE chosen AS " + self._select("*", names, where), list(values))
            name = self._keep(cursor, "SELECT * FROM chosen ORDER BY rowid", order)
            cursor.execute("DROP TABLE chosen")
            return name

    def read(self, names: Sequence[str], dtypes: Mapping[str, Dtype], condition: str = "true") -> Columns:
        """Return the rows of the named files that fulfil a condition, in their order, with the columns of `dtypes`."""
        if not names:
            return Columns({name: Column(d, np.empty(0, NUMPY_TYPES[d])) for name, d in dtypes.items()})
        # files from before a column was added do not have it
        there = set().union(*map(self._columns_of, names))
        picks = [
            (f"epoch_us({given})" if dtype == "time" else given) + f" AS c{i}"
            for i, (name, dtype) in enumerate(dtypes.items())
            for given in (quoted(name) if name in there else f"NULL::{SQL_TYPES[dtype]}",)
        ]
        with self._cursor() as cursor:
            found = cursor.execute(self._select(", ".join(picks), names, condition)).fetchnumpy()
        return Columns({name: masked_column(dtype, found[f"c{i}"]) for i, (name, dtype) in enumerate(dtypes.items())})

    def count(self, name: str, where: str = "true", values: Sequence[Any] = ()) -> int:
        """Return the number of rows of a file that fulfil `where`."""
        with self._cursor() as cursor:
            row = cursor.execute(self._select("count(*)", [name], where), list(values)).fetchone()
        return int(row[0]) if row is not None else 0

    def matching(self, names: Sequence[str], condition: str) -> int:
        """Return the number of rows of the named files that fulfil an SQL condition.

        In the condition, the table `rows` holds all rows of these files.
        """
        if not names:
            return 0
        with self._cursor() as cursor, self._as_rows(cursor, names):
            row = cursor.execute(f"SELECT count(*) FROM rows WHERE {condition}").fetchone()
        return int(row[0]) if row is not None else 0

    def without(self, names: Sequence[str], condition: str) -> list[tuple[str, int, str, int]]:
        """For each named file with rows that fulfil an SQL condition, write a copy without these rows.

        In the condition, the table `rows` holds all rows of the named files. The new files are synced; the old ones
        stay. Return for each copied file its name, the number of rows left out, the name of the new file ("" if no row
        is left), and the number of its rows.
        """
        made: list[tuple[str, int, str, int]] = []
        if not names:
            return made
        with self._cursor() as cursor, self._as_rows(cursor, names):
            cursor.execute(
                "CREATE TEMP TABLE gone AS SELECT parse_filename(filename) AS file, file_row_number AS number "
                f"FROM rows WHERE {condition}"
            )
            found = cursor.execute("SELECT file, count(*) FROM gone GROUP BY file ORDER BY file").fetchall()
            for name, gone in found:
                stay = f"filename = ? AND file_row_number NOT IN (SELECT number FROM gone WHERE file = {_text(name)})"
                cursor.execute(
                    "CREATE OR REPLACE TEMP TABLE chosen AS SELECT * EXCLUDE (filename, file_row_number) FROM rows "
                    f"WHERE {stay} ORDER BY file_row_number",
                    [str(self.directory / name)],
                )
                left = cursor.table("chosen").shape[0]
                new = self._keep(cursor, "SELECT * FROM chosen ORDER BY rowid", order_of(name)) if left else ""
                made.append((name, gone, new, left))
        return made

    def check(self, name: str) -> None:
        """Compare the bytes of a file with the hash in its name. Each process does this once per file.

        Raises:
            Corrupt: The bytes differ, or the file does not exist any more. The message names the file.
        """
        if name in self._sound:
            return
        match, path = _NAME.fullmatch(name), self.directory / name
        if match is None:
            raise Corrupt(f"{path}: not a file of a trimtab table. Restore the table's _delta_log from a copy.")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise Corrupt(f"{path}: this data file is gone. Restore it from a copy.") from None
        except OSError as error:
            raise Unavailable(f"{path}: cannot be read ({error}). Check access and the disk, and try again.") from error
        if found != match[2]:
            raise Corrupt(f"{path}: its bytes do not match its hash. Restore it from a copy.")
        self._sound.add(name)

    def on_disk(self) -> list[str]:
        """Return the names of all data files in the directory, even if no version of the table needs them."""
        return sorted(name for name in os.listdir(self.directory) if _NAME.fullmatch(name))

    def remove(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)
        self._sound.discard(name)

    def sweep(self, old: Set[str], known: Set[str], untouched_s: float) -> int:
        """Remove files that are not needed, and return the number of bytes freed.

        Files in `old` are removed. Files that the table's log does not name (those not in `known`) are removed if they
        were last written before the time `untouched_s`, because no process is writing them any more.
        """
        freed = 0
        for name in os.listdir(self.directory):
            path = self.directory / name
            ours = _NAME.fullmatch(name) is not None or (name.startswith("_") and name.endswith(".new"))
            if ours and (name in old or (name not in known and path.stat().st_mtime < untouched_s)):
                freed += path.stat().st_size
                self.remove(name)
        sync_directory(self.directory)
        return freed

    def close(self) -> None:
        self._duckdb.close()

    def _columns_of(self, name: str) -> frozenset[str]:
        if name not in self._known_columns:
            self.check(name)
            with self._cursor() as cursor:
                path = _literal(self.directory / name, pattern=True)
                found = cursor.execute(f"DESCRIBE SELECT * FROM read_parquet({path})").fetchall()
            self._known_columns[name] = frozenset(str(row[0]) for row in found)
        return self._known_columns[name]

    def _select(self, what: str, names: Sequence[str], where: str = "true") -> str:
        for name in names:
            self.check(name)
        paths = ", ".join(_literal(self.directory / name, pattern=True) for name in sorted(names))
        return f"SELECT {what} FROM read_parquet([{paths}], {_OPTIONS}) AS rows WHERE {where}"

    @contextlib.contextmanager
    def _as_rows(self, cursor: duckdb.DuckDBPyConnection, names: Sequence[str]) -> Iterator[None]:
        """Make the rows of the named files available as the view `rows` of this cursor.

        In addition to the columns, the view has `filename` and `file_row_number`.
        """
        for name in names:
            self.check(name)
        paths = ", ".join(_literal(self.directory / name, pattern=True) for name in sorted(names))
        options = f"{_OPTIONS}, filename = true, file_row_number = true"
        cursor.execute(f"CREATE TEMP VIEW rows AS SELECT * FROM read_parquet([{paths}], {options})")
        try:
            yield
        finally:
            for thing in ("VIEW rows", "TABLE gone", "TABLE chosen"):
                cursor.execute(f"DROP {thing.split()[0]} IF EXISTS {thing.split()[1]}")

    def _keep(self, cursor: duckdb.DuckDBPyConnection, query: str, order: int) -> str:
        temporary = self.directory / f"_{uuid.uuid4().hex}.new"
        try:
            cursor.execute(f"COPY ({query}) TO {_literal(temporary)} (FORMAT parquet, COMPRESSION zstd)")
            narrow(temporary)
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            name = f"{order:020}-{os.urandom(8).hex()}-{digest}.parquet"
            temporary.rename(self.directory / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(self.directory)
        return name

    def _cursor(self) -> _Cursor:
        return _Cursor(self._duckdb, self._mutex, self.directory)


class _Cursor:
    """A DuckDB cursor that converts DuckDB's errors to trimtab's."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mutex: threading.Lock, what: Path) -> None:
        with mutex:
            self._cursor = connection.cursor()
        self._what = what

    def __enter__(self) -> duckdb.DuckDBPyConnection:
        return self._cursor

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        self._cursor.close()
        if isinstance(error, duckdb.IOException | OSError) and DISK_FULL.search(str(error)):
            raise Unavailable(
                f"{self._what}: the disk is full. Nothing was lost; free some space and do this again."
            ) from error
        if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException | OSError):
            raise Unavailable(f"{self._what}: {error}. Check free space, memory and access, and try again.") from error
        if isinstance(error, duckdb.InvalidInputException):
            raise Misuse(f"{self._what}: {error}. Give text that can be encoded as UTF-8.") from error


def order_of(name: str) -> int:
    """Return the number of the append that wrote a file."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def same_as_one_of(rows: Columns) -> tuple[str, list[Any]]:
    """Return an SQL condition that is true for rows that equal one of `rows`, and the values of its parameters."""
    made = ", ".join(f'unnest(?::{SQL_TYPES[c.dtype]}[]) AS "@{i}"' for i, c in enumerate(rows.by_name.values()))
    equal = " AND ".join(f'wanted."@{i}" = {quoted(name)}' for i, name in enumerate(rows.names))
    return f"EXISTS (SELECT 1 FROM (SELECT {made}) wanted WHERE {equal})", [c.to_list() for c in rows.by_name.values()]


def _literal(path: Path, *, pattern: bool = False) -> str:
    """Return a path as an SQL text literal.

    If `pattern` is True, characters that DuckDB would read as wildcards (* ? [) are escaped.
    """
    return _text(re.sub(r"([*?\[])", r"[\1]", str(path)) if pattern else str(path))


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def runs(names: Sequence[str], sizes: Mapping[str, int], target_bytes: int) -> Iterator[list[str]]:
    """Yield groups of neighbouring files to merge. A group has at most the target size, or is a single larger file."""
    run: list[str] = []
    total = 0
    for name in sorted(names):
        if run and total + sizes[name] > target_bytes:
            yield run
            run, total = [], 0
        run.append(name)
        total += sizes[name]
    if run:
        yield run
