"""A data file as the project's sources will read it, with the counts from which the roles of columns are guessed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.start.init.file.kinds import Choices, Kind, check_doubts, kind_of_column, null_words
from trimtab.app.start.init.file.texts import MOST_BAD, connect, load_texts, one, quoted
from trimtab.app.start.init.file.times import UNITS
from trimtab.core.closing import Closing
from trimtab.core.columns.data import Column, Columns, Dtype
from trimtab.core.errors import Misuse, NotFound
from trimtab.events.definitions import Source
from trimtab.events.files.files import problem_of, read_rows
from trimtab.events.formats.reading import Reading
from trimtab.events.values.fitting import BadRow, FileRows
from trimtab.store.regular_file import regular_file

_CLOCK = re.compile(r"\d{1,2}:\d\d(:\d\d([.,]\d+)?)?\s*([AaPp]\.?[Mm]\.?)?")
_PART = 100_000  # how many rows are handed to DuckDB at a time


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One column: its type, its format, and what is known of its values."""

    name: str
    kind: Kind
    present: int  # the number of rows with a value
    distinct: int  # the number of different values
    sample: str  # the first value

    @property
    def dtype(self) -> Dtype | None:
        """The type of the column; None if events cannot hold it."""
        return self.kind.dtype

    @property
    def is_clock(self) -> bool:
        """Whether the values are texts of a time of day, such as "17:54" or "5:54:10 PM"."""
        return self.dtype == "str" and all(map(_CLOCK.fullmatch, (self.sample, *self.kind.examples)))


class DataTable(Closing):
    """A file as the DuckDB table `data`, read by the rules that the project's sources will declare.

    In addition to the file's columns, the table has "@line", the row's line (or index) in the file, and "@same", which
    is equal for rows that are equal in all columns.
    """

    def __init__(self, file: Path, choices: Choices | None = None) -> None:
        if file.is_dir():
            raise Misuse(f"{file} is a folder, needed a file. Give the path of one CSV or Parquet file.")
        regular_file(file)
        self.file = file
        self.connection = connect()
        self.merged: set[str] = set()  # the columns in which spellings were merged
        self.constants: dict[str, str] = {}  # columns that are not in the file, each with the value of all rows
        try:
            self._load(choices or Choices())
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Release the data."""
        self.connection.close()

    def one(self, sql: str) -> tuple[Any, ...]:
        """Return the first row of the result of a query that always has one."""
        return one(self.connection, sql)

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of the result of a query."""
        return list(self.connection.execute(sql).fetchall())

    def values(self, name: str, limit: int) -> list[tuple[Any, int]]:
        """Return the most frequent finite values of a column, each with its count."""
        q = quoted(name)
        finite = f"isfinite({q})" if self.columns[name].dtype in ("float", "time") else f"{q} IS NOT NULL"
        sql = f"SELECT {q}, count(*) AS n FROM data WHERE {finite} GROUP BY 1 ORDER BY n DESC, 1 LIMIT {limit}"
        return [(value, int(n)) for value, n in self.all(sql)]

    def as_time(self, name: str) -> str | None:
        """Convert a column of numbers to times, and return the unit of the numbers; None if it has times already.

        Raises:
            Misuse: The column holds no times.
        """
        profile = self.columns[name]
        if profile.dtype == "time":
            return None
        if not profile.present:
            raise Misuse(f"column {name!r} has no value in any row, needed times. Choose another column.")
        if profile.dtype not in ("int", "float"):
            raise Misuse(
                f"column {name!r}: {profile.sample!r} is no time in a known format. Choose another --time, "
                'or give its format, for example --time-format "%d.%m.%Y %H:%M".'
            )
        q = quoted(name)
        low, high = self.one(f"SELECT min(abs({q})), max(abs({q})) FROM data WHERE {q} <> 0")
        fit = [unit for unit, us in UNITS.items() if low is not None and 1e14 <= float(high) * us < 1e16]
        if not fit:
            raise Misuse(
                f"column {name!r}: {profile.sample!r} is no time: as seconds, milliseconds or microseconds since "
                "1970 it would be before 1973 or after 2286. Choose another --time."
            )
        time = f"make_timestamp(({q} * {UNITS[fit[0]]})::BIGINT)::TIMESTAMPTZ"
        self.connection.execute(f"ALTER TABLE data ALTER {q} TYPE TIMESTAMPTZ USING {time}")
        self.columns[name] = self._profile(name, Kind(dtype="time", time_format=fit[0], examples=profile.kind.examples))
        return fit[0]

    def merge(self, name: str) -> None:
        """Merge spellings that differ only in case and spaces, in a column of texts.

        Raises:
            Misuse: The column holds no texts.
        """
        profile = self.columns[name]
        if profile.dtype != "str":
            raise Misuse(f"--merge {name!r}: the column is {profile.dtype or 'a list'}, needed text. Leave it out.")
        q = quoted(name)
        one_spelling = f"lower(trim(regexp_replace({q}, '\\s+', ' ', 'g')))"
        self.connection.execute(f"UPDATE data SET {q} = {one_spelling}")
        self.merged.add(name)
        self.columns[name] = self._profile(name, msgspec.structs.replace(profile.kind, variants=()))

    def add_constant(self, name: str) -> None:
        """Add a column that has the text "all" in each row."""
        self.connection.execute(f"ALTER TABLE data ADD COLUMN {quoted(name)} VARCHAR DEFAULT 'all'")
        self.constants[name] = "all"
        self.columns[name] = self._profile(name, Kind(dtype="str"))

    def _load(self, choices: Choices) -> None:
        found = load_texts(self.file, self.connection)
        self.left_out = found.left_out
        self.delimiter = found.delimiter
        for given in (*choices.times, *choices.numbers, *choices.categories):
            if given not in found.dtypes:
                raise NotFound(f"no column {given!r}. {columns_in_words(self.file, given, list(found.dtypes))}")
        for given in choices.categories:
            if found.dtypes[given] != "str":
                kind = found.dtypes[given] or "a list"
                raise Misuse(f"--category {given!r}: {self.file.name} holds it as {kind}. Write it as text.")
        self.kinds = {
            name: self._kind(name, choices) if dtype == "str" else Kind(dtype=dtype)
            for name, dtype in found.dtypes.items()
        }
        self.connection.execute("DROP TABLE raw; DROP TABLE IF EXISTS texts; DROP TABLE IF EXISTS filled")
        check_doubts(self.kinds, str(self.file))
        self.nulls = null_words(self.kinds)
        readable = {name: kind for name, kind in self.kinds.items() if kind.dtype is not None}
        source = _source(readable, self.delimiter, self.nulls)
        rows = read_rows(self.file, source, on_error="quarantine")
        self.bad = rows.bad
        self._check_bad(rows, source)
        self._make(rows)
        self.rows = rows.columns.rows
        self.columns = {name: self._profile(name, kind) for name, kind in self.kinds.items()}

    def _kind(self, name: str, choices: Choices) -> Kind:
        """Return the type of a text column. Texts in Parquet are numbers only in special formats, and never bools."""
        kind = kind_of_column(self.connection, name, choices)
        if self.file.suffix.lower() == ".parquet" and kind.dtype in ("int", "float", "bool"):
            return kind if kind.number_format else msgspec.structs.replace(kind, dtype="str")
        return kind

    def _check_bad(self, rows: FileRows, source: Source) -> None:
        if not rows.columns.rows + len(rows.bad):
            raise Misuse(f"file {self.file}: found no rows below its header. Give a file with data.")
        if len(rows.bad) <= MOST_BAD * (rows.columns.rows + len(rows.bad)):
            return
        mixed = next((name for name, kind in self.kinds.items() if kind.mixed), None)
        if mixed is not None:
            raise Misuse(mixed_times(self.file, mixed, self.kinds[mixed], rows.bad))
        shown = "; ".join(problem_of(bad, source.declared) for bad in rows.bad[:3])
        raise Misuse(
            f"file {self.file}: {len(rows.bad):,} of {rows.columns.rows + len(rows.bad):,} rows do not fit. {shown} "
            "Correct them, or give the format or the words for null (--time-format, --number, --nulls)."
        )

    def _make(self, rows: FileRows) -> None:
        columns = rows.columns
        kept: NDArray[Any] = np.arange(columns.rows) if rows.kept is None else rows.kept
        for start in range(0, max(1, columns.rows), _PART):
            part = columns.take(slice(start, start + _PART))
            lines = Column("int", kept[start : start + _PART].astype(np.int64) + 1)
            self.connection.register("part", Columns({**part.by_name, "@line": lines}))
            names = ", ".join(map(quoted, part.names)) or "1"
            made = f'SELECT *, hash({names}) AS "@same" FROM part'
            self.connection.execute(f"INSERT INTO data {made}" if start else f"CREATE TABLE data AS {made}")
            self.connection.unregister("part")

    def _profile(self, name: str, kind: Kind) -> Profile:
        if kind.dtype is None:
            return Profile(name=name, kind=kind, present=self.rows, distinct=self.rows, sample="")
        q = quoted(name)
        present, distinct, sample = self.one(
            f"SELECT count({q}), count(DISTINCT {q}), first({q}) FILTER ({q} IS NOT NULL) FROM data"
        )
        return Profile(name=name, kind=kind, present=int(present), distinct=int(distinct), sample=str(sample)[:80])


def columns_in_words(file: Path, wanted: str, names: Sequence[str]) -> str:
    """Return a sentence with the columns of a file. "Did you mean ...?" comes first if one is similar to `wanted`."""
    folded = {name.casefold(): name for name in names}
    near = [f"Did you mean {folded[one]!r}? " for one in get_close_matches(wanted.casefold(), folded, n=1)]
    return f"{''.join(near)}{file.name} has {', '.join(names)}."


def mixed_times(file: Path, name: str, kind: Kind, bad: Sequence[BadRow]) -> str:
    """Return the message about a column whose texts write times in several ways, with line numbers."""
    lines: dict[str, list[str]] = {}
    of_text = {text: form for form, texts in kind.mixed.items() for text in texts}
    for row in bad:
        form = of_text.get(str(row.row.get(name)).strip())
        if form is not None:
            lines.setdefault(form, []).append(str(row.number))
    counts = Counter({form: len(found) for form, found in lines.items()})
    others = "; ".join(
        f"{n:,} rows are written as {form}, for example {kind.mixed[form][0]!r}: {bad[0].unit} "
        f"{', '.join(lines[form][:8])}{', ...' * (n > 8)}"
        for form, n in counts.most_common()
    )
    return (
        f"file {file}, column {name!r}: found times in several formats. Most are written as "
        f"{kind.time_format or 'ISO 8601'}; {others}. Write all of them in one format, or leave those rows out."
    )


def _source(kinds: Mapping[str, Kind], delimiter: str | None, nulls: Sequence[str]) -> Source:
    reading = Reading(
        number_formats={name: kind.number_format for name, kind in kinds.items() if kind.number_format is not None},
        nulls=tuple(nulls),
        delimiter=delimiter,
    )
    return Source(
        name="data",
        time="",
        columns={name: kind.dtype for name, kind in kinds.items() if kind.dtype is not None},
        time_formats={name: kind.time_format for name, kind in kinds.items() if kind.time_format is not None},
        reads=reading,
    )
