"""Files of events: CSV, Parquet and newline-delimited JSON become tables that fit a source."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from trimtab.core.columns import Columns, Dtype, column
from trimtab.core.errors import Misuse, NotFound
from trimtab.events.checks import EXTRA, Reason, check
from trimtab.events.definitions import Source

Format = Literal["csv", "parquet", "ndjson"]
OnError = Literal["refuse", "quarantine"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}


class BadRow(msgspec.Struct, frozen=True):
    """A row of a file that does not fit: where, what it held, why."""

    unit: Literal["line", "row"]  # a Parquet file has no lines
    number: int  # counts from 1
    row: dict[str, Any]  # by declared column: what could be read as declared, and the raw text of `field`
    field: str
    reason: Reason
    found: str

    @property
    def place(self) -> str:
        """Where to look: "line 7"."""
        return f"{self.unit} {self.number}"


class FileRows(msgspec.Struct, frozen=True, eq=False):
    """What a file gave: declared columns, what it lacked and had in excess, and the rows that do not fit."""

    columns: Columns
    ignored: tuple[str, ...]  # columns of the file that the source does not declare
    absent: tuple[str, ...]  # declared columns that the file does not have: null
    bad: tuple[BadRow, ...] = ()


def read_file(
    path: str | Path,
    source: Source,
    *,
    on_error: OnError = "refuse",
    file_format: Format | None = None,
    nulls: Sequence[str] = ("",),
) -> FileRows:
    """Read a file of a source's events with the source's types; times without a zone are UTC.

    Besides the declared columns it takes `_id`, `_known_at` and `_op` where the file has them.

    Args:
        path: A file that ends in .csv, .tsv, .parquet, .ndjson or .jsonl (text files also in .gz).
        source: What the rows must be.
        on_error: Refuse the file at a row that does not fit, or leave such rows out and list them in `bad`.
        file_format: Says it when the name does not.
        nulls: Texts of a CSV file that mean null in every column; in columns that are no text, words such as NA,
            NaN and null mean it anyway.

    Raises:
        NotFound: There is no such file.
        Misuse: The file cannot be read, lacks the source's time or key, or (refuse) has a row that does not fit; the
            message names file, line and column.
    """
    where = Path(path)
    if not where.is_file():
        raise NotFound(f"file {where}: there is none. Give the path of one file.")
    rows = _read(where, source, file_format or _format(where), nulls)
    if rows.bad and on_error == "refuse":
        bad, more = rows.bad[0], len(rows.bad) - 1
        also = f" {more} more such rows follow." if more else ""
        needed = "a line that fits" if bad.reason == "bad_line" else _dtypes(source)[bad.field]
        raise Misuse(
            f"file {where}, {bad.place}, column {bad.field!r}: needed {needed}, found {bad.found!r} ({bad.reason})."
            f"{also} Mend the file, or put such rows into quarantine (on_error='quarantine')."
        )
    return rows


def _read(path: Path, source: Source, kind: Format, nulls: Sequence[str]) -> FileRows:
    if kind == "ndjson":
        return _read_ndjson(path, source)
    from trimtab.events import duckdb_files  # loads DuckDB

    return duckdb_files.read_parquet(path, source) if kind == "parquet" else duckdb_files.read_csv(path, source, nulls)


def _format(path: Path) -> Format:
    suffixes = [s for s in path.suffixes if s != ".gz"]
    found = _SUFFIXES.get(suffixes[-1].lower()) if suffixes else None
    if found is None:
        raise Misuse(f"file {path}: needs a name that ends in {', '.join(_SUFFIXES)}. Say its file_format otherwise.")
    return found


def _dtypes(source: Source) -> dict[str, Dtype]:
    return source.columns | EXTRA


def wanted_columns(path: Path, source: Source, found: Sequence[str]) -> dict[str, Dtype]:
    """The columns to read, of those found."""
    twice = {name for name in found if found.count(name) > 1}
    if twice:
        raise Misuse(f"file {path}: the header has {', '.join(sorted(twice))} more than once. Rename or remove one.")
    for name in filter(None, (source.time, source.key)):
        if name not in found:
            role = "time" if name == source.time else "key"
            raise Misuse(
                f"file {path}: needs column {name!r} ({role} of source {source.name!r}), found "
                f"{', '.join(found) or 'no columns'}."
            )
    return {name: dtype for name, dtype in _dtypes(source).items() if name in found}


def file_rows(
    source: Source, found: Sequence[str], wanted: Mapping[str, Dtype], columns: Columns, bad: Sequence[BadRow]
) -> FileRows:
    """The result of reading a file that has the columns `found`, of which `wanted` were read."""
    ignored = tuple(name for name in found if name not in wanted)
    absent = tuple(name for name in source.columns if name not in wanted)
    return FileRows(columns, ignored, absent, tuple(sorted(bad, key=lambda b: b.number)))


# --- newline-delimited JSON: the rules of `push`, line by line


def _read_ndjson(path: Path, source: Source) -> FileRows:
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with open_bytes(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                rows.append(decode(text))
                lines.append(number)
            except (msgspec.DecodeError, UnicodeDecodeError):
                found = text.decode(errors="replace").strip()
                bad.append(BadRow("line", number, {}, source.time, "bad_line", found[:200]))
    names = list(dict.fromkeys(name for row in rows for name in row))
    wanted = wanted_columns(path, source, names) if rows else dict(source.columns)
    problems: dict[int, tuple[str, Reason, object]] = {}
    values: dict[str, list[Any]] = {}
    for name, dtype in wanted.items():

        def report(row: int, reason: Reason, found: object, name: str = name) -> None:
            problems.setdefault(row, (name, reason, found))

        values[name] = check(dtype, [row.get(name) for row in rows], report)
    for row, (name, reason, value) in sorted(problems.items()):
        raw = {n: rows[row].get(n) for n in wanted}
        bad.append(BadRow("line", lines[row], raw, name, reason, str(value)[:200]))
    good = np.array([row not in problems for row in range(len(rows))], bool)
    columns = Columns({name: column(dtype, values[name]) for name, dtype in wanted.items()}).take(good)
    return file_rows(source, names, wanted, columns, bad)


def open_bytes(path: Path, mode: Literal["rb"]) -> Any:
    """A file's bytes, unpacked."""
    return gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode)
