"""The profile of a file for people: its rows, its columns, and what is odd about them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from trimtab.app.start.init.file.table import DataTable, Profile
from trimtab.app.start.init.file.texts import quoted
from trimtab.core.columns.data import Dtype
from trimtab.core.shown import count_of
from trimtab.events.files.files import problem_of

_SHOWN = 5
_RARE = 0.03  # negative values, or values that are no years, are reported as odd if they are at most this share
_TYPES = {"float": "number", "int": "whole number", "bool": "yes/no", "str": "text", "time": "time", None: "other"}


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the file."""

    name: str
    dtype: Dtype | None
    written: str  # the declared format of times or numbers; empty: the default
    nulls: int  # the number of rows without a value
    distinct: int
    examples: tuple[str, ...]  # as they are in the file


class FileProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A file: its rows, its columns and its oddities."""

    rows: int
    refused: int  # rows that do not fit, which go to quarantine
    duplicates: int  # rows that repeat another row exactly
    delimiter: str | None
    columns: tuple[ColumnProfile, ...]
    oddities: tuple[str, ...]


def profile(table: DataTable) -> FileProfile:
    """Return the profile of a file."""
    duplicates, lines = _duplicates(table)
    oddities = []
    if duplicates:
        repeat = "row repeats" if duplicates == 1 else "rows repeat"
        oddities.append(f"{duplicates:,} {repeat} another row exactly (lines {lines}); equal rows count once")
    if table.bad:
        types = {name: c.dtype for name, c in table.columns.items() if c.dtype}
        shown = "; ".join(problem_of(bad, types).rstrip(".") for bad in table.bad[:3])
        rows = f"{count_of(len(table.bad), 'row')} do{'es' * (len(table.bad) == 1)}"
        oddities.append(f"{rows} not fit and will go to quarantine: {shown}")
    oddities += [f"{name!r}: {c.kind.oddity}" for name, c in table.columns.items() if c.kind.oddity]
    oddities += _strange_numbers(table)
    oddities += _null_words(table)
    oddities += _spelled(table)
    return FileProfile(
        rows=table.rows + len(table.bad),
        refused=len(table.bad),
        duplicates=duplicates,
        delimiter=table.delimiter,
        columns=tuple(_column(table, c) for c in table.columns.values()),
        oddities=tuple(oddities),
    )


def profile_lines(found: FileProfile) -> list[str]:
    """Return the profile as text for a terminal."""
    fields = f", fields separated by {found.delimiter!r}" if found.delimiter else ""
    lines = [f"{count_of(found.rows, 'row')}, {count_of(len(found.columns), 'column')}{fields}", ""]
    table = [("column", "type", "null", "different", "examples")]
    for c in found.columns:
        share = f"{100 * c.nulls / max(1, found.rows - found.refused):.1f} %" if c.nulls else "-"
        written = f" ({c.written})" if c.written else ""
        examples = ", ".join(text[:24] for text in c.examples)
        table.append((c.name, f"{_TYPES[c.dtype]}{written}", share, f"{c.distinct:,}", examples))
    widths = [max(len(row[place]) for row in table) for place in range(4)]
    for row in table:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3].rjust(widths[3])]
        lines.append(f"  {'  '.join(cells)}  {row[4]}".rstrip())
    return [*lines, *listed_lines("Odd:", found.oddities), ""]


def listed_lines(title: str, texts: Sequence[str]) -> list[str]:
    """Return texts under a title, or nothing if there are none."""
    return ["", title, *(f"  {text}" for text in texts)] if texts else []


def _column(table: DataTable, column: Profile) -> ColumnProfile:
    kind = column.kind
    return ColumnProfile(
        name=column.name,
        dtype=column.dtype,
        written=kind.time_format or kind.number_format or "",
        nulls=table.rows - column.present,
        distinct=column.distinct,
        examples=kind.examples or ((column.sample,) if column.present else ()),
    )


def _duplicates(table: DataTable) -> tuple[int, str]:
    """Return how many rows repeat an earlier row exactly, and the lines of some of them."""
    (count,) = table.one('SELECT count(*) - count(DISTINCT "@same") FROM data')
    if not count:
        return 0, ""
    found = table.all(
        f'SELECT max("@line") AS line FROM data GROUP BY "@same" HAVING count(*) > 1 ORDER BY line LIMIT {_SHOWN}'
    )
    return int(count), ", ".join(str(line) for (line,) in found) + ", ..." * (int(count) > _SHOWN)


def _strange_numbers(table: DataTable) -> list[str]:
    """Return lines about a few negative values of a column, and about values that are no years in a column of years."""
    found = []
    for name, one in table.columns.items():
        q = quoted(name)
        rules = {f"{q} < 0": "negative, the others are not"} if one.dtype in ("int", "float") else {}
        if one.dtype == "int":
            rules[f"{q} NOT BETWEEN 1901 AND 2100"] = "not between 1901 and 2100, as the other years are"
        for rule, said in rules.items():
            (count,) = table.one(f"SELECT count(*) FROM data WHERE {rule}")
            if 0 < count <= _RARE * one.present:
                shown = table.all(
                    f"SELECT {q} FROM data WHERE {rule} GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {_SHOWN}"
                )
                values = ", ".join(f"{value:g}" for (value,) in shown)
                found.append(
                    f"{name!r}: {count_of(int(count), 'value')} ({values}) {'is' if count == 1 else 'are'} {said}"
                )
                break
    return found


def _null_words(table: DataTable) -> list[str]:
    """Return a note about the texts that were read as null."""
    found: dict[str, list[str]] = {}
    for name, column in table.columns.items():
        for word, count in column.kind.nulls.items():
            found.setdefault(word, []).append(f"{count:,} in {name!r}")
    if not found:
        return []
    said = "; ".join(f"{word!r} ({', '.join(places)})" for word, places in found.items())
    return [f"read as null: {said} (--nulls={shlex.quote(','.join(found))})"]


def _spelled(table: DataTable) -> list[str]:
    """Return notes about spellings that differ only in case or spaces."""
    found = []
    for name, column in table.columns.items():
        if column.kind.variants:
            first = ", ".join(map(repr, column.kind.variants[0][:4]))
            more = len(column.kind.variants) - 1
            also = f" ({more:,} more such value{'s' * (more > 1)})" if more else ""
            found.append(
                f"{name!r}: {first} differ in case or spaces alone{also}; --merge {shlex.quote(name)} makes them one"
            )
    return found
