"""A CSV or Parquet file as a typed table, with the counts from which the roles of columns are guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.time import ISO_8601
from trimtab.events.files.csv_files import csv_header, read_texts
from trimtab.events.files.opened import open_text
from trimtab.store.duckdb_opening import open_duckdb
from trimtab.store.regular_file import regular_file

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NULL_WORDS = ("", "na", "n/a", "nan", "nat", "null", "none")  # texts that count as null if the column is not text
_RESERVED = ("_id", "_known_at", "_op")  # names that the fields of an event use
_DELIMITERS = ",;\t|"
_TEXT_FILES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
# Common formats other than ISO 8601. Day-first and month-first are separate, so that doubtful times are noticed.
_TIME_FORMATS = [
    *(f"{day}{clock}" for day in ("%d.%m.%Y", "%Y/%m/%d", "%d-%m-%Y") for clock in ("", " %H:%M", " %H:%M:%S")),
    *(f"{day}{clock}" for day in ("%b %d, %Y", "%d %b %Y", "%Y%m%d") for clock in ("", " %H:%M", " %H:%M:%S")),
    "%Y-%m-%d %H:%M:%S.%f %z",
    "%Y-%m-%d %H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %z",
]
_DAY_FIRST = ["%d/%m/%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S"]
_MONTH_FIRST = ["%m/%d/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p", "%m/%d/%Y %I:%M:%S %p"]


class Profile(msgspec.Struct, frozen=True):
    """One column: its name in the file, its type, and what is known of its values."""

    name: str
    dtype: Dtype | None  # None if events cannot hold the type, such as a list or a struct
    present: int  # the number of rows with a value
    distinct: int  # the number of different values
    sample: str  # the first value


class DataTable:
    """A file as the DuckDB table `data`, with column names that a source may declare."""

    def __init__(self, file: Path) -> None:
        if file.is_dir():
            raise Misuse(f"{file} is a folder, needed a file. Give the path of one CSV or Parquet file.")
        regular_file(file)
        import duckdb

        self.file = file
        self._error = duckdb.Error
        offline: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        self.connection: DuckDBPyConnection = open_duckdb(offline)
        self.connection.execute("SET TimeZone = 'UTC'")
        self.renamed: dict[str, str] = {}
        try:
            self._types = self._load()
            self.rows = int(self.one("SELECT count(*) FROM data")[0])
            if not self.rows:
                raise Misuse(f"file {file}: found no rows below its header. Give a file with data.")
            self.columns = {name: self._profile(name) for name in self._types}
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Release the data."""
        self.connection.close()

    def __enter__(self) -> DataTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def one(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...]:
        """Return the first row of the result of a query."""
        row: tuple[Any, ...] | None = self.connection.execute(sql, list(values)).fetchone()
        assert row is not None  # aggregates always give a row
        return row

    def values(self, name: str, limit: int) -> list[tuple[Any, int]]:
        """Return the most frequent finite values of a column, each with its count."""
        q = quoted(name)
        finite = f"isfinite({q})" if self.columns[name].dtype in ("float", "time") else f"{q} IS NOT NULL"
        sql = f"SELECT {q}, count(*) AS n FROM data WHERE {finite} GROUP BY 1 ORDER BY n DESC, 1 LIMIT {limit}"
        return [(value, int(n)) for value, n in self.connection.execute(sql).fetchall()]

    def as_time(self, name: str, time_format: str | None) -> str | None:
        """Convert a column to times and say how it was read. Return None if the column held times already.

        Raises:
            Misuse: Most values of the column are no times, or the order of day and month is unclear.
        """
        profile = self.columns[name]
        if profile.dtype == "time":
            return None
        q, how = quoted(name), "ISO 8601"
        if profile.dtype == "str":
            time, how = self._text_as_time(name, time_format)
        elif profile.dtype in ("int", "float"):
            low, high = self.one(f"SELECT min(abs({q})), max(abs({q})) FROM data WHERE {q} <> 0")
            units = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
            fit = [(u, f) for u, f in units.items() if low is not None and 1e14 <= float(high) * f < 1e16]
            if not fit:
                raise Misuse(
                    f"column {name!r}: {profile.sample!r} is no time: as seconds, milliseconds or microseconds since "
                    "1970 it would be before 1973 or after 2286. Choose another --time."
                )
            unit, factor = fit[0]
            time, how = f"make_timestamp(({q} * {factor})::BIGINT)::TIMESTAMPTZ", f"{unit} since 1970"
        else:
            raise Misuse(f"column {name!r} is {profile.dtype}, needed a time. Choose another --time.")
        self.connection.execute(f"ALTER TABLE data ALTER {q} TYPE TIMESTAMPTZ USING {_dated(time)}")
        self._types[name] = "time"
        self.columns[name] = self._profile(name)
        return how

    def holds_times(self, name: str) -> bool:
        """Return whether most values of a text column are times in a known format."""
        formats = _time_formats(name).values()
        counts = self.one(f"SELECT {', '.join(f'count({form})' for form in formats)} FROM data")
        return bool(2 * max(counts) > self.columns[name].present)

    def _text_as_time(self, name: str, time_format: str | None) -> tuple[str, str]:
        t, formats = f"trim({quoted(name)})", _time_formats(name)
        if time_format is not None:
            formats = {f"the format {time_format}": f"try_strptime({t}, {literal(time_format)})::TIMESTAMPTZ"}
        try:
            counts = self.one(f"SELECT {', '.join(f'count({form})' for form in formats.values())} FROM data")
        except self._error as error:
            raise Misuse(f"--time-format {time_format!r}: {_first_line(error)}") from error
        best = max(counts)
        fit = [how for how, count in zip(formats, counts, strict=True) if count == best]
        if 2 * best <= self.columns[name].present:
            raise Misuse(
                f"column {name!r}: {self.columns[name].sample!r} is no time in a known format. Choose another --time, "
                'or give its format, for example --time-format "%d.%m.%Y %H:%M".'
            )
        if len(fit) > 1 and fit[0] == "day/month/year":
            raise Misuse(
                f"column {name!r}: {self.columns[name].sample!r} may have the day or the month first. Give its format: "
                '--time-format "%d/%m/%Y" or "%m/%d/%Y" (and %H:%M:%S for hours).'
            )
        return formats[fit[0]], fit[0]

    # --- loading

    def _load(self) -> dict[str, Dtype | None]:
        if self.file.name.lower().endswith(_TEXT_FILES):
            return self._load_csv()
        if self.file.suffix.lower() == ".parquet":
            return self._load_parquet()
        raise Misuse(f"file {self.file}: needs a name that ends in {', '.join(_TEXT_FILES)} or .parquet.")

    def _load_parquet(self) -> dict[str, Dtype | None]:
        path = _no_glob(self.file)
        try:
            self.connection.execute("CREATE TABLE raw AS SELECT * FROM read_parquet(?)", [path])
        except self._error as error:
            self._refuse(error)
        types = {str(row[0]): str(row[1]) for row in self.connection.execute("DESCRIBE raw").fetchall()}
        casts = {name: _parquet_cast(quoted(name), kind) for name, kind in types.items()}
        return self._make(casts)

    def _load_csv(self) -> dict[str, Dtype | None]:
        given, delimiter = _header(self.file)
        names = _apart(given)
        self.renamed = {old: new for old, new in zip(given, names, strict=True) if old != new}
        self.connection.execute(f"CREATE TABLE raw ({', '.join(f'{quoted(name)} VARCHAR' for name in names)})")
        for part in read_texts(self.file, delimiter, names):
            self.connection.register("part", part)
            self.connection.execute("INSERT INTO raw SELECT * FROM part")
            self.connection.unregister("part")
        return self._make({name: self._csv_cast(name) for name in names})

    def _csv_cast(self, name: str) -> tuple[Dtype | None, str]:
        q = quoted(name)
        t = f"trim({q})"
        there = f"{q} IS NOT NULL AND lower({t}) NOT IN ({', '.join(map(literal, NULL_WORDS))})"
        kinds = {
            "bool": f"lower({t}) IN ('true', 'false')",
            "int": f"regexp_full_match({t}, '[+-]?(0|[1-9][0-9]*)') AND TRY_CAST({t} AS BIGINT) IS NOT NULL",
            # Digits with leading zeros, or more digits than 64 bits hold, are codes and not numbers.
            "float": f"TRY_CAST({t} AS DOUBLE) IS NOT NULL AND NOT regexp_matches({t}, '^[+-]?(0[0-9]|[0-9]{{19}})|_')",
            "time": f"regexp_full_match({t}, {literal(ISO_8601)}) AND TRY_CAST({t} AS TIMESTAMPTZ) IS NOT NULL",
        }
        tests = ", ".join(f"coalesce(bool_and({test}) FILTER ({there}), false)" for test in kinds.values())
        fit = dict(zip(kinds, self.one(f"SELECT {tests} FROM raw"), strict=True))
        value = f"CASE WHEN {there} THEN {t} END"
        casts: Mapping[Dtype, str] = {
            "bool": f"TRY_CAST({value} AS BOOLEAN)",
            "int": f"TRY_CAST({value} AS BIGINT)",
            "float": f"TRY_CAST({value} AS DOUBLE)",
            "time": _dated(f"TRY_CAST({value} AS TIMESTAMPTZ)"),
        }
        return next(((kind, cast) for kind, cast in casts.items() if fit[kind]), ("str", q))

    def _make(self, casts: Mapping[str, tuple[Dtype | None, str]]) -> dict[str, Dtype | None]:
        """Create the table `data` from `raw`. Columns that are named like a field of an event are renamed."""
        taken = {name.lower() for name in casts}
        new = {name: unique(name.lstrip("_"), taken) for name in casts if name in _RESERVED}
        self.renamed |= new
        selected = ", ".join(f"{sql} AS {quoted(new.get(name, name))}" for name, (_, sql) in casts.items())
        self.connection.execute(f"CREATE TABLE data AS SELECT {selected} FROM raw; DROP TABLE raw")
        return {new.get(name, name): dtype for name, (dtype, _) in casts.items()}

    def _profile(self, name: str) -> Profile:
        q = quoted(name)
        present, distinct, sample = self.one(
            f"SELECT count({q}), count(DISTINCT {q}), first({q}) FILTER ({q} IS NOT NULL) FROM data"
        )
        return Profile(name, self._types[name], int(present), int(distinct), str(sample)[:80])

    def _refuse(self, error: Exception) -> NoReturn:
        text = str(error)
        line = re.search(r"Line: (\d+)", text)
        where = f", line {line[1]}" if line else ""
        what = _first_line(error)
        reason = next(
            (found for found in text.splitlines() if found.startswith(("Expected", "Invalid unicode", "Value"))), what
        )
        raise Misuse(f"file {self.file}{where}: cannot be read: {reason.strip()} Correct the file.") from error


def quoted(name: str) -> str:
    """Return the name of a column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def unique(name: str, taken: Mapping[str, object] | set[str]) -> str:
    """Return `name`, with a number appended if the name is taken.

    >>> unique("id", {"id", "id_2"})
    'id_3'
    """
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _apart(names: Sequence[str]) -> list[str]:
    """Return names that differ even without regard to case, as SQL needs them."""
    out: list[str] = []
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            number = next(n for n in range(2, len(names) + 2) if f"{name}_{n}".lower() not in taken)
            out.append(f"{name}_{number}")
            taken.add(out[-1].lower())
        else:
            out.append(name)
        seen.add(out[-1].lower())
    return out


def _time_formats(name: str) -> dict[str, str]:
    """Return for each format the SQL that reads the time of a text column, which is null for other texts."""
    t = f"trim({quoted(name)})"
    return {
        "ISO 8601": f"CASE WHEN regexp_full_match({t}, {literal(ISO_8601)}) THEN TRY_CAST({t} AS TIMESTAMPTZ) END",
        "usual formats": f"try_strptime({t}, {_list(_TIME_FORMATS)})::TIMESTAMPTZ",
        "day/month/year": f"try_strptime({t}, {_list(_DAY_FIRST)})::TIMESTAMPTZ",
        "month/day/year": f"try_strptime({t}, {_list(_MONTH_FIRST)})::TIMESTAMPTZ",
    }


def _header(file: Path) -> tuple[list[str], str]:
    with open_text(file) as stream:
        line = next((line for line in stream if line.strip("\r\n")), "")
    delimiter = max(_DELIMITERS, key=line.count) if any(map(line.count, _DELIMITERS)) else ","
    names = csv_header(file, delimiter)
    empty = [str(number) for number, name in enumerate(names, 1) if not name.strip()]
    if empty == ["1"]:  # the column is an index without a name
        names[0], empty = unique("row_number", set(names)), []
    twice = sorted({name for name in names if names.count(name) > 1})
    if empty or twice:
        found = f"{', '.join(map(repr, twice))} more than once" if twice else f"no name for column {', '.join(empty)}"
        raise Misuse(f"file {file}: its first line has {found}. Give every column its own name.")
    if all(re.fullmatch(r"[-+.\d\s:/]+", name) for name in names):
        raise Misuse(
            f"file {file}: its first line ({', '.join(names)[:80]}) holds values, needed column names. Add a header."
        )
    return names, delimiter


def _dated(time: str) -> str:
    """Return SQL for a time that is null outside the years 1 to 9999, which events can hold."""
    low, high = "TIMESTAMPTZ '0001-01-01 00:00:00Z'", "TIMESTAMPTZ '9999-12-31 23:59:59Z'"
    return f"CASE WHEN {time} BETWEEN {low} AND {high} THEN {time} END"


def _parquet_cast(q: str, kind: str) -> tuple[Dtype | None, str]:
    if kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"):
        return "int", f"{q}::BIGINT"
    if kind in ("FLOAT", "DOUBLE", "UBIGINT", "HUGEINT", "UHUGEINT") or kind.startswith("DECIMAL"):
        return "float", f"CASE WHEN NOT isnan({q}::DOUBLE) THEN {q}::DOUBLE END"
    if kind == "BOOLEAN":
        return "bool", q
    if kind == "VARCHAR" or kind == "UUID" or kind.startswith("ENUM"):
        return "str", f"{q}::VARCHAR"
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        return "time", _dated(f"{q}::TIMESTAMPTZ")
    return None, q


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(literal, texts))}]"


def _no_glob(path: Path) -> str:
    """Return the path in a form that DuckDB takes literally."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path.absolute()))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
