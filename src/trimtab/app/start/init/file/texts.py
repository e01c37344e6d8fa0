"""The texts of a file's columns, as they are in the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.events.files.csv_files import csv_header, read_texts
from trimtab.events.files.opened import check_utf8, open_text
from trimtab.events.formats.reading import DELIMITERS
from trimtab.store.duckdb_opening import open_duckdb

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TEXT_FILES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
RESERVED = ("_id", "_known_at", "_op")  # names that the fields of an event use
MOST_BAD = 0.01  # with a greater share of rows that do not fit, `trimtab ingest` would fail
_OFFLINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_INTS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")


class FileColumns(msgspec.Struct, frozen=True):
    """The columns of a file, with their types in the file. (Texts may later turn out to be numbers or times.)"""

    dtypes: dict[str, Dtype | None]  # by column; "str" for texts, None if events cannot hold the type
    left_out: dict[str, str]  # columns that a source cannot declare, each with the reason
    delimiter: str | None  # the sign between the fields; None: the usual one (a comma; in .tsv, a tab)


def connect() -> DuckDBPyConnection:
    """Return a connection that loads no extensions. Its times are UTC."""
    connection = open_duckdb(_OFFLINE)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def load_texts(file: Path, connection: DuckDBPyConnection) -> FileColumns:
    """Load the text columns of a file as the table `raw`.

    Raises:
        Misuse: The file cannot be read, or its first line is no header or has a name twice.
    """
    if file.name.lower().endswith(TEXT_FILES):
        return _load_csv(file, connection)
    if file.suffix.lower() == ".parquet":
        return _load_parquet(file, connection)
    raise Misuse(f"file {file}: needs a name that ends in {', '.join(TEXT_FILES)} or .parquet.")


def quoted(name: str) -> str:
    """Return the name of a column as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def one(connection: DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """Return the first row of the result of a query that always has one."""
    row: tuple[Any, ...] | None = connection.execute(sql).fetchone()
    assert row is not None
    return row


def _load_csv(file: Path, connection: DuckDBPyConnection) -> FileColumns:
    names, delimiter = _header(file)
    check_utf8(file, MOST_BAD)
    left_out = _undeclarable(names)
    kept = [name for name in names if name not in left_out]
    # In SQL, names that differ only in case are equal, so columns are numbered while they are loaded.
    numbered = [f"c{place}" for place in range(len(names))]
    connection.execute(f"CREATE TABLE raw ({', '.join(f'{quoted(name)} VARCHAR' for name in kept)})")
    chosen = ", ".join(f"c{names.index(name)}" for name in kept)
    for part in read_texts(file, delimiter, numbered):
        connection.register("part", part)
        connection.execute(f"INSERT INTO raw SELECT {chosen} FROM part")
        connection.unregister("part")
    usual = "\t" if ".tsv" in file.suffixes else ","
    return FileColumns(dict.fromkeys(kept, "str"), left_out, None if delimiter == usual else delimiter)


def _load_parquet(file: Path, connection: DuckDBPyConnection) -> FileColumns:
    path = "".join(f"[{c}]" if c in "*?[" else c for c in str(file.absolute()))  # so that DuckDB takes it literally
    scan = f"read_parquet({literal(path)}, hive_partitioning=false)"
    try:
        types = {str(row[0]): str(row[1]) for row in connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()}
        left_out = _undeclarable(list(types))
        dtypes = {name: _parquet_dtype(kind) for name, kind in types.items() if name not in left_out}
        chosen = [f"{quoted(name)}::VARCHAR AS {quoted(name)}" for name, dtype in dtypes.items() if dtype == "str"]
        connection.execute(f"CREATE TABLE raw AS SELECT {', '.join(chosen) or '1 AS nothing'} FROM {scan}")
    except connection_error() as error:
        said = str(error).strip().splitlines()[0]
        raise Misuse(f"file {file}: cannot be read: {said} Correct the file.") from error
    return FileColumns(dtypes, left_out, None)


def connection_error() -> type[Exception]:
    """Return the class of DuckDB's errors."""
    import duckdb

    return duckdb.Error


def _parquet_dtype(kind: str) -> Dtype | None:
    if kind in _INTS:
        return "int"
    if kind in ("FLOAT", "DOUBLE", "UBIGINT", "HUGEINT", "UHUGEINT") or kind.startswith("DECIMAL"):
        return "float"
    if kind == "BOOLEAN":
        return "bool"
    if kind == "VARCHAR" or kind == "UUID" or kind.startswith("ENUM"):
        return "str"
    return "time" if kind == "DATE" or kind.startswith("TIMESTAMP") else None


def _header(file: Path) -> tuple[list[str], str]:
    with open_text(file) as stream:
        line = next((line for line in stream if line.strip("\r\n")), "")
    delimiter = max(DELIMITERS, key=line.count) if any(map(line.count, DELIMITERS)) else ","
    names = csv_header(file, delimiter)
    twice = sorted({name for name in names if name.strip() and names.count(name) > 1})
    if twice:
        raise Misuse(
            f"file {file}: its first line has {', '.join(map(repr, twice))} more than once. Give every column its own "
            "name."
        )
    if all(re.fullmatch(r"[-+.\d\s:/]*", name) for name in names):
        raise Misuse(
            f"file {file}: its first line ({', '.join(names)[:80]}) holds values, needed column names. Add a header."
        )
    return names, delimiter


def _undeclarable(names: Sequence[str]) -> dict[str, str]:
    """Return the columns whose names a source cannot declare, each with the reason."""
    found: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip():
            found[name] = "has no name"
        elif name.startswith("_"):
            found[name] = "begins with an underscore, as the fields of events do; rename it in the file to use it"
        elif name.casefold() in seen:
            found[name] = f"differs from {seen[name.casefold()]!r} in case alone; rename it in the file to use it"
        else:
            seen[name.casefold()] = name
    return found
