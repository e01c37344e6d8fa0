"""Fit tables and rows to the columns that a source declares, and list the rows that do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.arrow_layout import floats_of
from trimtab.core.columns.data import ArrowTable, Column, Columns, Dtype, WrongColumn, column
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.time import EARLIEST_US, LATEST_US, format_time
from trimtab.events.definitions import Source
from trimtab.events.formats.column_formats import ColumnFormat
from trimtab.events.formats.reading import DELIMITERS, made_keys
from trimtab.events.values.checks import (
    EXTRA,
    LAST_OF_OTHER_UNITS_US,
    Report,
    check,
    other_unit,
    typed_time,
    value_shown,
)
from trimtab.events.values.conversions import TYPED, WRITTEN, Kind, Reason


class BadRow(msgspec.Struct, frozen=True):
    """A row of a file or table that does not fit: where it is, its values, and why it does not fit."""

    unit: Literal["line", "row"]  # "line" only for text files
    number: int  # beginning with 1
    # by column: the value as it came; for a CSV file, the converted value if it could be converted
    row: dict[str, Any]
    field: str
    reason: Reason
    found: str
    line: bytes | None = None  # the line itself, if it could not be split into fields
    file: str | None = None  # the file that has this line

    @property
    def place(self) -> str:
        """The place of the row for messages, such as "line 7"."""
        return f"{self.unit} {self.number}"


class FileRows(msgspec.Struct, frozen=True, eq=False):
    """The rows that were read from a file or table, and the rows that do not fit."""

    columns: Columns
    ignored: tuple[str, ...]  # columns of the file or table that the source does not declare
    absent: tuple[str, ...]  # declared columns that the file or table does not have; they are null
    bad: tuple[BadRow, ...] = ()
    # for each row in `columns`, its index in the file or table; None: the same index
    kept: NDArray[Any] | None = None
    counted: int | None = None  # the number of rows in the file or table; None: unknown

    def __post_init__(self) -> None:
        if self.counted not in (None, self.columns.rows + len(self.bad)):
            raise Corrupt(
                f"rows: there are {self.counted:,}, but {self.columns.rows:,} were read and {len(self.bad):,} "
                "refused. Nothing was taken. Please report this as a bug of trimtab."
            )


def dtypes_of(source: Source) -> dict[str, Dtype]:
    """Return all columns that rows of a source may have, with their types."""
    return source.declared | EXTRA


def wanted_columns(what: str, source: Source, found: Sequence[str]) -> dict[str, Dtype]:
    """Return the columns in `found` to read, with their types. `what` names the file or table in errors.

    Raises:
        Misuse: A column name occurs twice, or the source's time or key is missing.
    """
    twice = {name for name, times in Counter(found).items() if times > 1 and name}
    if twice:
        raise Misuse(f"{what}: the header has {', '.join(sorted(twice))} more than once. Rename or remove one.")
    reading = source.reading
    made_of = tuple(name for name in reading.key_of if name not in reading.constants) if source.key not in found else ()
    for name in filter(None, (source.time, *(made_of or (source.key,)))):
        if name not in found:
            role = "time" if name == source.time else "part of the key" if made_of else "key"
            raise WrongColumn(
                f"{what}: needs column {name!r} ({role} of source {source.name!r}), found "
                f"{', '.join(found) or 'no columns'}.{separator_hint(source.reading.delimiter, found)}",
                column=name,
            )
    return {name: dtype for name, dtype in dtypes_of(source).items() if name in found}


def file_rows(
    source: Source,
    found: Sequence[str],
    wanted: Mapping[str, Dtype],
    columns: Columns,
    bad: Sequence[BadRow],
    kept: NDArray[Any] | None = None,
    counted: int | None = None,
) -> FileRows:
    """Return the result of reading a file with the columns `found`, of which `wanted` were read.

    Constants that the source declares, and keys that it makes of other columns, are added to rows that lack them.
    """
    columns = with_keys(source, _with_constants(source, columns))
    ignored = tuple(name for name in found if name not in wanted)
    absent = tuple(name for name in source.declared if name not in wanted and name not in columns)
    return FileRows(columns, ignored, absent, tuple(sorted(bad, key=lambda b: b.number)), kept, counted)


def _with_constants(source: Source, columns: Columns) -> Columns:
    made = {}
    for name, value in source.reading.constants.items():
        given = columns[name].to_list() if name in columns else [None] * columns.rows
        made[name] = column("str", [value if old is None else old for old in given])
    return Columns({**columns.by_name, **made}) if made else columns


def with_keys(source: Source, columns: Columns) -> Columns:
    """Return a table in which rows without a key have the key that the source makes of other columns."""
    of, name = source.reading.key_of, source.key
    if not of or name is None or any(part not in columns for part in of):
        return columns
    given = columns[name].to_list() if name in columns else [None] * columns.rows
    if None not in given and name in columns:
        return columns
    made = made_keys({part: columns[part].to_list() for part in of}, source.declared, of)
    keys = [new if old is None else old for old, new in zip(given, made, strict=True)]
    return Columns({**columns.by_name, name: column("str", keys)})


def fit_table(what: str, source: Source, table: ArrowTable) -> FileRows:
    """Convert a table to the declared columns of a source, by the rules in `conversions.py`.

    Args:
        what: The name of the table in errors.
        table: The table. Those of its columns that the source declares must have been read.

    Raises:
        Misuse: The table lacks the time or the key.
    """
    wanted = wanted_columns(what, source, table.names)
    problems = _Problems()
    fitted = {}
    for name, dtype in wanted.items():
        report, written = problems.of(name), source.format(name)
        if name in table.loose:
            fitted[name] = column(dtype, check(dtype, table.loose[name], report, written))
        else:
            fitted[name] = _fit(table.columns[name], dtype, report, written)
    columns = Columns(fitted)
    if not problems.by_row:
        return file_rows(source, table.names, wanted, columns, [], None, table.rows)
    bad = []
    for row in sorted(problems.by_row):
        name, reason, found = problems.by_row[row]
        raw = {n: _raw_value(source, table, n, row) for n in wanted}
        bad.append(BadRow("row", row + 1, raw, name, reason, value_shown(found, reason, source.format(name))))
    kept = np.delete(np.arange(columns.rows), sorted(problems.by_row))
    return file_rows(source, table.names, wanted, columns.take(kept), bad, kept, table.rows)


def _raw_value(source: Source, table: ArrowTable, name: str, row: int) -> Any:
    """Return a value as it came, for storage. A time becomes a text if its number would later be misread."""
    if name in table.loose:
        return table.loose[name][row]
    found = table.columns[name]
    (value,) = found.take(slice(row, row + 1)).to_list()
    number = dtypes_of(source)[name] == "time" and name not in source.declared_formats
    return value if value is None or found.dtype != "time" or number else time_text(value)


def fit_rows(
    what: str,
    source: Source,
    rows: Sequence[Mapping[str, Any]],
    *,
    lines: Sequence[int] | None = None,
    bad: Sequence[BadRow] = (),
) -> FileRows:
    """Convert dicts to a table, by the same rules as pushed rows.

    Args:
        what: The name of the rows in errors.
        lines: The line number of each row, if the rows come from a text file.
        bad: Lines that are not JSON objects.

    Raises:
        Misuse: A row is not a dict, or no row has the time or the key.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise Misuse(f"{what}: row {number} is a {type(row).__name__}. Give one mapping for each row.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    bare = bool(rows) and all(row.get("_op") == "delete" for row in rows)  # only deletions, which only need the key
    if bare and source.time not in names:
        names.append(source.time)
    wanted = wanted_columns(what, source, names) if rows else source.declared
    problems = _Problems()
    values = {
        name: check(dtype, [row.get(name) for row in rows], problems.of(name), source.format(name))
        for name, dtype in wanted.items()
    }
    for name in (name for name, dtype in wanted.items() if dtype == "time" and name not in source.declared_formats):
        for at, row in enumerate(rows):
            if other_unit(row.get(name)):
                problems.of(name)(at, "bad_time", row[name])
    more = []
    for at, (name, reason, value) in sorted(problems.by_row.items()):
        raw = raw_row(source, {n: rows[at].get(n) for n in wanted})
        place: tuple[Literal["line", "row"], int] = ("row", at + 1) if lines is None else ("line", lines[at])
        more.append(BadRow(*place, raw, name, reason, value_shown(value, reason, source.format(name))))
    good = np.array([at for at in range(len(rows)) if at not in problems.by_row], np.int64)
    columns = Columns({name: column(dtype, values[name]) for name, dtype in wanted.items()}).take(good)
    kept = good if lines is None else np.array(lines, np.int64)[good] - 1
    fitted = file_rows(source, names, wanted, columns, [*bad, *more], kept, len(rows) + len(bad))
    return msgspec.structs.replace(fitted, absent=()) if bare else fitted


def raw_row(source: Source, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as it came. Python dates and times in columns with a declared format become ISO 8601 texts."""
    return {n: typed_time(value) if n in source.declared_formats else value for n, value in row.items()}


def time_text(us: int) -> str:
    """Return a time as ISO 8601 text; outside of the years 1 to 9999 as "123 us", which no time format accepts."""
    return format_time(us) if EARLIEST_US <= us <= LATEST_US else f"{us} us"


class _Problems:
    """Collects the first problem of each row: the column, the reason, and what was found."""

    def __init__(self) -> None:
        self.by_row: dict[int, tuple[str, Reason, object]] = {}

    def of(self, name: str) -> Report:
        """Return a function that records problems of one column."""

        def report(row: int, reason: Reason, found: object) -> None:
            self.by_row.setdefault(row, (name, reason, found))

        return report


_KINDS: dict[Dtype, Kind] = {"float": "float", "int": "int", "bool": "bool", "str": "text", "time": "datetime"}


def _fit(found: Column, dtype: Dtype, report: Report, written: ColumnFormat | None) -> Column:
    """Convert a column by the rules in `conversions.py`."""
    kind = _KINDS[found.dtype]
    if found.dtype == dtype and not (written is not None and kind == "text"):
        return found
    if not found.present().any():
        return column(dtype, [None] * len(found))
    if written is not None and (kind == "text" or (written.times is not None and kind in WRITTEN)):
        return column(dtype, check(dtype, found.to_list(), report, written))
    rule = TYPED[dtype][kind]
    if isinstance(rule, str):
        values = found.to_list()
        for row in np.flatnonzero(found.present()).tolist():
            report(row, rule, time_text(values[row]) if found.dtype == "time" else values[row])
        return column(dtype, [None] * len(found))
    if (found.dtype, dtype) == ("int", "float"):
        return floats_of(found)
    if (found.dtype, dtype) == ("int", "time"):
        _report_units(found.values, found.present(), report)
        return Column("time", found.values, found.valid)
    return column(dtype, check(dtype, found.to_list(), report))


def _report_units(values: NDArray[Any], there: NDArray[Any], report: Report) -> None:
    """Report integer times that are probably seconds or milliseconds. # D178"""
    for row in np.flatnonzero(there & (values >= 0) & (values < LAST_OF_OTHER_UNITS_US)).tolist():
        if other_unit(values[row]):
            report(row, "bad_time", int(values[row]))


def separator_hint(declared: str | None, found: Sequence[str]) -> str:
    """Return advice if a header has only one column, because another character may separate the fields."""
    seen = max(DELIMITERS, key=found[0].count) if len(found) == 1 else ""
    if not seen or seen not in found[0]:
        return ""
    usual = f"the source declares {declared!r}" if declared else "the source declares no delimiter, which means commas"
    return f" The file seems to be separated by {seen!r}; {usual}{'' if declared else ' (in a .tsv file tabs)'}."
