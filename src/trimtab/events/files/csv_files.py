"""Read CSV files. Python's csv module splits the records, and `values/conversions.py` has the rules for values.  # D160

No line is lost: each line that is not blank becomes part of a row, or is listed as bad.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns, Dtype, column, float_column
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.shown import shown
from trimtab.core.time import EARLIEST_US
from trimtab.events.definitions import Source
from trimtab.events.files.opened import NOT_UTF8, count_lines, encoding_advice, open_text
from trimtab.events.formats.column_formats import ColumnFormat
from trimtab.events.values.checks import is_utf8, time_shown, value_shown
from trimtab.events.values.conversions import INT_MAX, INT_MIN, LARGEST, NULL_WORDS, Reason, Refused, of_text
from trimtab.events.values.fitting import BadRow, FileRows, file_rows, time_text, wanted_columns

_CHUNK = 1_000  # how many lines are read as text at a time
_TOGETHER = 50_000  # how many rows `read_texts` returns at a time
_LONGEST = 1 << 24  # the largest length of a field in characters
_OPEN = "a quote that is not closed"


def read_csv(path: Path, source: Source, nulls: Sequence[str]) -> FileRows:
    """Read the rows of a CSV file with a header; see `read_file`.

    Fields are separated by the source's delimiter; without one, by commas, or by tabs in .tsv files. Fields may be
    quoted, with quotes in them doubled. Lines end in LF, CRLF or CR. Blank lines are not rows.
    """
    what = f"file {path}"
    with open_text(path) as stream:
        records = _Records(path, stream, source.reading.delimiter or _usual_delimiter(path))
        names = records.header()
        wanted = wanted_columns(what, source, names)
        columns = _ColumnParts(names, wanted, nulls, source)
        bad: list[BadRow] = []
        kept: list[NDArray[Any]] = []
        for part in records.parts(len(names)):
            bad += [
                BadRow("line", number, _fields(names, wanted, values), "", "bad_line", found, line, str(path))
                for number, line, values, found in part.bad
            ]
            good, misfits = columns.add(part.rows)
            bad += [
                BadRow("line", part.lines[row], values, field, reason, found)
                for row, (values, field, reason, found) in misfits.items()
            ]
            kept.append(np.array(part.lines, np.int64)[good] - 1)
    table = columns.table()
    lines = count_lines(path)
    if records.lines != lines:
        raise Corrupt(
            f"{what}: found {lines:,} lines, but only {records.lines:,} were read. Nothing was taken. Please report "
            "this as a bug of trimtab."
        )
    all_kept = np.concatenate(kept) if kept else np.empty(0, np.int64)
    return file_rows(source, [n for n in names if n], wanted, table, bad, all_kept, records.count)


def csv_header(path: Path, delimiter: str | None = None) -> list[str]:
    """Return the names in the first record of a file. By default, fields are separated as in `read_csv`."""
    with open_text(path) as stream:
        return _Records(path, stream, delimiter or _usual_delimiter(path)).header()


def _usual_delimiter(path: Path) -> str:
    return "\t" if ".tsv" in path.suffixes else ","


def read_texts(path: Path, delimiter: str, names: Sequence[str]) -> Iterator[Columns]:
    """Read all columns of a CSV file as text, about 50,000 rows at a time. Lines that do not fit are left out.

    Args:
        names: The names of the columns, which replace those of the header.
    """
    with open_text(path) as stream:
        records = _Records(path, stream, delimiter)
        width = len(records.header())
        texts: list[list[str]] = [[] for _ in names]
        for part in records.parts(width):
            for column_texts, more in zip(texts, zip(*part.rows, strict=True), strict=bool(part.rows)):
                column_texts.extend(more)
            if len(texts[0]) >= _TOGETHER:
                yield _text_columns(names, texts)
                texts = [[] for _ in names]
        yield _text_columns(names, texts)


def _text_columns(names: Sequence[str], texts: Sequence[list[str]]) -> Columns:
    arrays = [np.empty(len(one), object) for one in texts]
    for array, one in zip(arrays, texts, strict=True):
        array[:] = one
    return Columns({name: Column("str", array) for name, array in zip(names, arrays, strict=True)})


class _Part:
    """Some records of a file: rows with the right number of fields, their line numbers, and bad records."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.lines: list[int] = []
        # for each bad record: the number of its line, the line's bytes, its fields, and what is wrong
        self.bad: list[tuple[int, bytes, list[str], str]] = []


class _Records:
    """The records of a CSV text, with their line numbers.

    If a record cannot be read, only its first line is listed as bad. The other lines are read again as new records.
    """

    def __init__(self, path: Path, stream: Iterator[str], delimiter: str) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
        self.lines = 0  # the number of lines that were read
        self.count = 0  # the number of records that were read, without the header
        self._path = path
        self._stream = stream
        self._delimiter = delimiter

    def header(self) -> list[str]:
        """Read the first record, and return it as the names of the columns.

        Raises:
            Misuse: There is no record, or the first one cannot be read.
        """
        what = f"file {self._path}"
        names: list[str] = []
        taken: list[str] = []
        try:
            names = next((record for record in self._reader(_noting(self._stream, taken)) if record), [])
            "".join(names).encode()
        except (csv.Error, UnicodeEncodeError) as error:
            at = next((at for at, line in enumerate(taken) if line.strip("\r\n")), 0)
            raise Misuse(
                f"{what}, line {at + 1}: needs a header that names the columns, found {_why(error)}: "
                f"{_shown(taken[at])}. "
                + (encoding_advice(self._path) if isinstance(error, UnicodeEncodeError) else "Close every quote.")
            ) from None
        if not names:
            found = "only blank lines" if taken else "an empty file"
            raise Misuse(f"{what}: found {found}, needed a header line that names the columns. Write one.")
        self.lines = len(taken)
        return names

    def parts(self, width: int) -> Iterator[_Part]:
        """Yield all records after the header, about a thousand lines at a time."""
        lines: list[str] = []
        while True:
            more = list(islice(self._stream, max(_CHUNK, len(lines))))
            lines += more
            if not lines:
                return
            records: list[list[str]] = []
            error = ""
            try:
                records.extend(self._reader(lines))
            except csv.Error as raised:
                error = _why(raised)
            self.count += sum(map(bool, records))
            spans = _spans(records, len(lines))
            end = sum(spans)
            part = self._part(records, spans, lines[:end], width)
            # an open quote is no error as long as there are more lines, in which the record may continue
            if error and not (error == _OPEN and more):
                line = lines[end].rstrip("\r\n")
                fields = next(csv.reader([line], delimiter=self._delimiter), [])
                part.bad.append((self.lines + end + 1, _raw(line), fields, f"{error}: {_shown(line)}"))
                self.count += 1
                end += 1
            self.lines += end
            lines = lines[end:]
            yield part

    def _reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, strict=True)

    def _part(self, records: list[list[str]], spans: list[int], lines: list[str], width: int) -> _Part:
        part = _Part()
        if len(lines) == len(records) == sum(map(width.__eq__, map(len, records))) and is_utf8("".join(lines)):
            part.rows, part.lines = records, list(range(self.lines + 1, self.lines + 1 + len(records)))
            return part
        at = 0
        for record, span in zip(records, spans, strict=True):
            if record:
                self._place(part, record, "".join(lines[at : at + span]), self.lines + at + 1, width)
            at += span
        return part

    def _place(self, part: _Part, record: list[str], text: str, number: int, width: int) -> None:
        sound = is_utf8("".join(record))
        if len(record) == width and sound:
            part.rows.append(record)
            part.lines.append(number)
            return
        found = NOT_UTF8
        if len(record) != width:
            empty = ", the last one empty" if len(record) > width and not record[-1] else ""
            found = f"{len(record)} field{'s' * (len(record) != 1)} where the header has {width}{empty}"
        line = text.rstrip("\r\n")
        part.bad.append((number, _raw(line), record, f"{found}: {_shown(line)}"))


def _noting(stream: Iterator[str], taken: list[str]) -> Iterator[str]:
    for line in stream:
        taken.append(line)
        yield line


def _spans(records: list[list[str]], lines: int) -> list[int]:
    """Return how many lines each record has. (A quoted field may contain line ends.)"""
    if lines == len(records):
        return [1] * lines
    texts = map("\0".join, records)
    return [1 + t.count("\n") + t.count("\r") - t.count("\r\n") for t in texts]


class _ColumnParts:
    """Typed columns that grow as parts of a file are added."""

    def __init__(
        self, names: Sequence[str], wanted: Mapping[str, Dtype], nulls: Sequence[str], source: Source | None = None
    ) -> None:
        formats = {name: None if source is None else source.format(name) for name in wanted}
        self._formats = {name: written for name, written in formats.items() if written is not None}
        self._formatted_times = [] if source is None else [name for name in source.declared_formats if name in wanted]
        self._places = {name: names.index(name) for name in wanted}
        self._wanted = wanted
        self._nulls = frozenset(nulls)
        self._parts: dict[str, list[Column]] = {name: [column(dtype, [])] for name, dtype in wanted.items()}
        self._shared: dict[str, dict[str, Any]] = {name: dict.fromkeys(nulls) for name in wanted}
        self.rows = 0  # the number of rows that were added

    def table(self) -> Columns:
        """Return all rows that were added."""
        return Columns.concat([Columns(dict(zip(self._parts, part, strict=True))) for part in self._by_part()])

    def _by_part(self) -> Iterator[tuple[Column, ...]]:
        return zip(*self._parts.values(), strict=True)

    def add(self, rows: Sequence[list[str]]) -> tuple[NDArray[Any], dict[int, tuple[dict[str, Any], str, Reason, str]]]:
        """Add the rows that fit. Return a boolean array that marks these rows, and the faults of the others.

        A fault has the values of the row, the column at fault, the reason, and what was found.
        """
        good = np.ones(len(rows), bool)
        if not rows:
            return good, {}
        self.rows += len(rows)
        found = list(zip(*rows, strict=True))
        refused: dict[int, dict[str, tuple[Reason, str]]] = {}
        made = {}
        for name, dtype in self._wanted.items():
            texts = found[self._places[name]]
            made[name], problems = self._converted(name, dtype, texts)
            for row, reason in problems.items():
                refused.setdefault(row, {})[name] = (reason, texts[row])
        table = Columns(made)
        misfits = {}
        if refused:
            at = sorted(refused)
            good[at] = False
            for row, values in zip(at, table.take(np.array(at)).to_rows(), strict=True):
                field, (reason, text) = next(iter(refused[row].items()))
                times = {n: time_text(values[n]) for n in self._formatted_times if values[n] is not None}
                raw = values | times | {name: text for name, (_, text) in refused[row].items()}
                misfits[row] = (raw, field, reason, _found(reason, text, self._formats.get(field)))
            table = table.take(good)
        for name, part in table.by_name.items():
            self._parts[name].append(part)
        return good, misfits

    def _converted(self, name: str, dtype: Dtype, texts: Sequence[str]) -> tuple[Column, dict[int, Reason]]:
        written = self._formats.get(name)
        if dtype == "str":
            shared = self._shared[name]
            if written is not None:
                shared.update([(text, None) for text in set(texts) if text not in shared and written.is_null(text)])
            found = list(map(shared.setdefault, texts, texts))  # store equal texts once, and nulls as None
            values = np.empty(len(texts), object)
            values[:] = found
            there = np.array([value is not None for value in found], bool) if None in found else None
            return Column("str", values, there), {}
        made = self._quick(name, dtype, texts)
        return (made, {}) if made is not None else _by_distinct(dtype, texts, self._nulls, written)

    def _quick(self, name: str, dtype: Dtype, texts: Sequence[str]) -> Column | None:
        """Convert a whole column at once. Return None if it may have texts that need the slower `_by_distinct`."""
        written, nulls = self._formats.get(name), self._nulls | _NULLS
        if written is None:
            quick = _QUICK.get(dtype)
            return None if quick is None else quick(texts, nulls)
        made = _quick_formatted(dtype, texts, nulls, written)
        if made is None and (more := {text for text in set(texts) if written.is_null(text)}):
            made = _quick_formatted(dtype, texts, nulls | more, written)
        return made


def _quick_formatted(dtype: Dtype, texts: Sequence[str], nulls: frozenset[str], written: ColumnFormat) -> Column | None:
    """Convert a whole column with a declared format at once, or return None, as `_ColumnParts._quick` does."""
    if written.times is not None:
        us = written.times.us
        try:
            return column("time", [None if text in nulls else us(text) for text in texts])
        except Misuse:
            return None
    quick = _QUICK.get(dtype)
    if quick is None:
        return None
    if written.numbers is not None:
        plain = written.numbers.plain(["0" if text in nulls else text for text in texts])
        if plain is None:
            return None
        texts = ["" if text in nulls else number for text, number in zip(texts, plain, strict=True)]
    return quick(texts, nulls)


def _by_distinct(
    dtype: Dtype, texts: Sequence[str], nulls: frozenset[str], written: ColumnFormat | None
) -> tuple[Column, dict[int, Reason]]:
    """Convert a column by the rules in `values/conversions.py`. Each distinct text is converted only once."""
    known: dict[str, Any] = {}
    refused: dict[str, Reason] = {}
    for text in set(texts):
        try:
            known[text] = None if text in nulls else of_text(dtype, text, written)
        except Refused as error:
            known[text] = None
            refused[text] = error.reason
    problems = {row: refused[text] for row, text in enumerate(texts) if text in refused} if refused else {}
    return column(dtype, [known[text] for text in texts]), problems


# These functions convert a whole column at once, with the results of `values/conversions.py`. They return None if the
# column may have texts that they do not handle.


def _quick_floats(texts: Sequence[str], nulls: frozenset[str]) -> Column | None:
    gaps = 0
    try:
        values = np.array(list(map(float, texts)))
    except ValueError:
        bare = ["nan" if text in nulls else text for text in texts]
        gaps = bare.count("nan")
        try:
            values = np.array(list(map(float, bare)))
        except ValueError:
            return None
    if not _plain("".join(texts)) or np.isnan(values).sum() != gaps or (np.abs(values) > LARGEST).any():
        return None
    return float_column(values)


def _quick_ints(texts: Sequence[str], nulls: frozenset[str]) -> Column | None:
    there = None
    try:
        values = list(map(int, texts))
    except ValueError:
        there = np.array([text not in nulls for text in texts], bool)
        try:
            values = [int(text) if ok else 0 for text, ok in zip(texts, there.tolist(), strict=True)]
        except ValueError:
            return None
    if not _plain("".join(texts)) or min(values) < INT_MIN or max(values) > INT_MAX:
        return None
    return Column("int", np.array(values, np.int64), there)


def _quick_times(texts: Sequence[str], nulls: frozenset[str]) -> Column | None:
    there = np.array([text not in nulls for text in texts], bool)
    lines = "\n".join([text if ok else _SOME_TIME for text, ok in zip(texts, there.tolist(), strict=True)])
    if not _PLAIN_TIMES(lines):
        return None
    try:
        values = np.array(lines.replace("Z", "").split("\n"), "datetime64[us]").astype(np.int64)
    except ValueError:  # a text is not a day or time that exists
        return None
    if len(values) != len(texts) or values.min() < EARLIEST_US:  # a text in quotes may have several lines
        return None
    return Column("time", np.where(there, values, 0), None if there.all() else there)


_QUICK = {"float": _quick_floats, "int": _quick_ints, "time": _quick_times}
_SOME_TIME = "1970-01-01T00:00:00"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}Z?"  # the usual form of times, in UTC
_PLAIN_TIMES = re.compile(rf"{_TIME}(?:\n{_TIME})*").fullmatch
_NULLS = frozenset(spelt for word in NULL_WORDS for spelt in (word, word.upper(), word.title())) | {"NaN", "NaT"}


def _plain(text: str) -> bool:
    """Return whether Python's `float` and `int` read numbers in this text as our rules for numbers do."""
    return text.isascii() and "_" not in text


def _fields(names: Sequence[str], wanted: Mapping[str, Dtype], values: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a line that could not be read, matched with the names in the header from the left."""
    pairs = zip(names, values, strict=False)
    return {name: _raw(value).decode(errors="replace") for name, value in pairs if name in wanted}


def _found(reason: Reason, text: str, written: ColumnFormat | None) -> str:
    bare = text.strip()
    if written is not None and written.text:
        return value_shown(text, reason, written)
    return time_shown(int(bare)) if reason == "bad_time" and bare.isdecimal() and len(bare) < 20 else shown(text)[:200]


def _why(error: Exception) -> str:
    """Return why a line could not be read, in words for the owner of the file."""
    if isinstance(error, UnicodeEncodeError):
        return NOT_UTF8
    if "expected after" in str(error):
        return "text after a closing quote"
    return _OPEN if "end of data" in str(error) else f"a field of more than {_LONGEST:,} characters"


def _shown(line: str) -> str:
    return shown(_raw(line).decode(errors="replace"))[:200]


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
