"""Read tables of requests from files, columns, Arrow tables or rows. All rows and columns are kept."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trimtab.core.columns.arrow_ipc import read_ipc_file
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Misuse
from trimtab.core.shown import count_of
from trimtab.events.definitions import Source
from trimtab.events.files.csv_files import csv_header
from trimtab.events.files.files import Rows, is_table, problem_of, read_rows
from trimtab.events.files.opened import local_file, open_bytes
from trimtab.events.files.parquet_files import parquet_columns
from trimtab.events.formats.reading import Reading
from trimtab.events.values.fitting import FileRows, separator_hint

_PYTHON: dict[type, Dtype] = {bool: "bool", int: "int", float: "float", str: "str", dt.datetime: "time"}


def request_table(
    given: Rows, declared: Mapping[str, Dtype], times: str | None = None, rules: Source | None = None
) -> Columns:
    """Return a table with all rows and columns of the input. Declared columns are converted to their declared types.

    Args:
        given: A file, a table of any library, or a list of dicts: see `read_rows`.
        declared: The columns that must exist, with their types. All other columns keep their types; in a CSV file,
            these are texts.
        times: The name of a column whose texts or integers are read as times, if there is such a column.
        rules: A source whose rules of reading apply, such as its formats of times.

    Raises:
        NotFound: The file does not exist.
        Misuse: A needed column is missing or has another type, or some column has an unsupported type. The message
            names the column.
    """
    is_text = isinstance(given, str | Path) and bool({".csv", ".tsv"} & set(Path(given).suffixes))
    delimiters = [rules.reading.delimiter] if is_text and rules is not None and rules.reading.delimiter else []
    rows, wanted = read_loosely(given, lambda names: declared, times, "requests", delimiters, rules=rules)
    if rows.bad:
        more = len(rows.bad) - 1
        also = f" There {'is' if more == 1 else 'are'} {count_of(more, 'other problem')}." if more else ""
        raise Misuse(f"requests, {problem_of(rows.bad[0], wanted)}{also} Correct it, or leave such rows out.")
    return rows.columns.select(wanted)


def read_loosely(
    given: Rows,
    needed: Callable[[Mapping[str, Dtype]], Mapping[str, Dtype]],
    times: str | None,
    what: str,
    delimiters: Iterable[str] = (),
    hint: str = "",
    rules: Source | None = None,
) -> tuple[FileRows, dict[str, Dtype]]:
    """Return the rows of the input, and the types of all columns. Rows that cannot be converted are in `bad`.

    Args:
        given, times, rules: As for `request_table`.
        needed: Returns the columns that are needed, given those of the input.
        what: The name of the rows in errors, such as "requests".
        delimiters: If a CSV file lacks a needed column, it is read again with each of these, until it has all.
        hint: A sentence for the error about a missing column.
    """
    table, found = _with_columns(given, what)
    declared = needed(found)
    constants = {} if rules is None else rules.reading.constants
    used = None
    for delimiter in delimiters:
        if not declared.keys() <= found.keys() | constants.keys():
            found = dict.fromkeys(csv_header(Path(str(given)), delimiter), "str")
            declared = needed(found)
            used = delimiter
    if isinstance(table, list) and not table:  # an empty table
        columns = Columns.of({name: (dtype, []) for name, dtype in declared.items()})
        return FileRows(columns, (), ()), dict(declared)
    for name, dtype in declared.items():
        if name not in found and name not in constants:
            hint = separator_hint(used, [*found]) or hint
            raise Misuse(f"{what}: column {name!r} of {dtype} is missing. There are {', '.join(found)}.{hint}")
    wanted = {name: declared.get(name, dtype) for name, dtype in {**found, **declared}.items()}
    if times in found and found[times] in ("str", "int"):
        wanted[times] = "time"
    source = Source(name=what, time="", columns=wanted, reads=Reading(delimiter=used))
    if rules is not None:
        numbers = {name: form for name, form in rules.reading.number_formats.items() if name in declared}
        made = {name: text for name, text in constants.items() if name in wanted}
        reading = Reading(delimiter=used, nulls=rules.reading.nulls, number_formats=numbers, constants=made)
        formats = {name: form for name, form in rules.declared_formats.items() if name in declared}
        source = msgspec.structs.replace(source, reads=reading, time_formats=formats)
    return read_rows(table, source, on_error="quarantine"), wanted


def _with_columns(given: Rows, what: str) -> tuple[Rows, dict[str, Dtype]]:
    """Return the input, and the types of its columns. Of Parquet and CSV files, only the header is read here."""
    if isinstance(given, str | Path):
        path = local_file(given)
        ending = next((s for s in reversed(path.suffixes) if s != ".gz"), "").lower()
        if ending == ".parquet":
            return path, parquet_columns(path)
        if ending in (".csv", ".tsv"):
            return path, dict.fromkeys(csv_header(path), "str")
        if ending in (".ndjson", ".jsonl"):
            return _with_columns(_lines(path), what)
        if ending in (".arrow", ".arrows", ".feather", ".ipc"):
            return _with_columns(read_ipc_file(path).columns, what)
        raise Misuse(f"file {path}: needs a name that ends in .parquet, .csv, .tsv, .ndjson, .arrow or .feather.")
    if is_table(given):
        table = given if isinstance(given, Columns) else Columns.from_arrow(given)
        return table, {name: column.dtype for name, column in table.by_name.items()}
    if isinstance(given, Sequence):
        rows = [row for row in given if isinstance(row, Mapping)]
        if len(rows) == len(given):
            names = dict.fromkeys(name for row in rows for name in row)
            return rows, {name: _of_values(name, what, [row.get(name) for row in rows]) for name in names}
    raise Misuse(f"{what}: found an object of type {type(given).__name__}. Give a file, a table, or a list of dicts.")


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                rows += [msgspec.json.decode(line, type=dict[str, Any])] if line.strip() else []
            except msgspec.DecodeError as error:
                raise Misuse(f"file {path}, line {number}: {error}. Each line must be a JSON object.") from error
    return rows


def _of_values(name: str, what: str, values: Sequence[Any]) -> Dtype:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return "float"
    if len(kinds) > 1 or not kinds <= _PYTHON.keys():
        shown = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise Misuse(f"{what}: column {name!r} holds {shown}. Give numbers, texts, truth values or datetimes.")
    return _PYTHON[kinds.pop()] if kinds else "str"
