"""CSV and Parquet through DuckDB: it casts whole columns, and says which rows it could not."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Column, Columns, Dtype, float_column
from trimtab.core.errors import Misuse
from trimtab.events.checks import OTHER_UNITS, Reason, moment_shown
from trimtab.events.definitions import Source
from trimtab.events.files import open_bytes
from trimtab.events.fitting import BadRow, FileRows, file_rows, wanted_columns
from trimtab.store.duckdb_opening import open_duckdb

_NULL_WORDS = "('', 'na', 'n/a', 'nan', 'nat', 'null', 'none')"  # in a column that is no text
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"}
_INTEGERS |= {"U" + name for name in _INTEGERS}
_WIDE = {"HUGEINT", "UHUGEINT"}
Misfit: TypeAlias = tuple[
    int, str, dict[str, str]
]  # row, the first column that does not fit, the text of all that do not


def read_csv(path: Path, source: Source, nulls: Sequence[str]) -> FileRows:
    """The rows of a CSV file with a header; see `read_file`."""
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    names = _header(path, delimiter)
    wanted = wanted_columns(f"file {path}", source, names)
    _check_case(path, names)
    columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in names)
    table = (
        f"read_csv(?, auto_detect=false, header=true, delim={_text(delimiter)}, quote='\"', escape='\"', "
        f"columns={{{columns}}}, nullstr=[{', '.join(map(_text, nulls))}], store_rejects=true)"
    )
    with _connect() as connection:
        values, raw = _cast(connection, path, table, wanted, dict.fromkeys(wanted, "VARCHAR"))
        rejects = connection.execute(
            "SELECT line_byte_position, min(column_name), any_value(csv_line) FROM reject_errors GROUP BY 1 ORDER BY 1"
        ).fetchall()
    found = _lines_at(path, [(byte, text.encode()) for byte, _, text in rejects])
    numbers = [number for number, _ in found]
    bad = []
    for (number, line), (_, field, _) in zip(found, rejects, strict=True):
        text = line.decode(errors="replace")
        fields = _fields(text, delimiter, names, wanted)
        bad.append(BadRow("line", number, fields, field or names[-1], "bad_line", text[:200], line, str(path)))
    records = next((len(array) for array in values.values()), 0)
    lines = _record_lines(path, delimiter, len(names), records, numbers)
    return _assemble(source, names, wanted, values, raw, lines, bad, "line")


def _check_case(path: Path, names: Sequence[str]) -> None:
    """DuckDB cannot tell names apart that differ in case alone."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise Misuse(f"file {path}: columns {other!r} and {name!r} differ in case alone. Rename or remove one.")


def read_parquet(path: Path, source: Source) -> FileRows:
    """The rows of a Parquet file; see `read_file`."""
    with _connect() as connection:
        try:
            described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [_no_glob(path)]).fetchall()
        except duckdb.Error as error:
            _refuse(path, error)
        types = {str(name): str(kind) for name, kind, *_ in described}
        wanted = wanted_columns(f"file {path}", source, list(types))
        values, raw = _cast(connection, path, "read_parquet(?)", wanted, types)
    rows = np.arange(1, 1 + next((len(array) for array in values.values()), 0))
    return _assemble(source, list(types), wanted, values, raw, rows, [], "row")


def _cast(
    connection: duckdb.DuckDBPyConnection, path: Path, table: str, wanted: Mapping[str, Dtype], types: Mapping[str, str]
) -> tuple[dict[str, NDArray[Any]], list[Misfit]]:
    """The wanted columns as arrays (masked where null), and the rows that have values that do not fit."""
    names = list(wanted)
    casts, tests = [], []
    for name, dtype in wanted.items():
        value, there = _expressions(path, name, dtype, types[name])
        casts.append(value)
        tests.append(f"({there}) AND ({value}) IS NULL")
    values = ", ".join(f"{value} AS v{i}" for i, value in enumerate(casts))
    misfit = " ".join(f"WHEN {test} THEN {i}" for i, test in enumerate(tests))
    raw = ", ".join(f"CASE WHEN {test} THEN {_name(names[i])}::VARCHAR END" for i, test in enumerate(tests))
    raws = f"CASE WHEN {' OR '.join(f'({test})' for test in tests)} THEN [{raw}] END"
    sql = f"SELECT {values}, CASE {misfit} ELSE -1 END AS misfit, {raws} AS raw FROM {table}"
    try:
        arrays = connection.execute(sql, [_no_glob(path)]).fetchnumpy()
    except duckdb.Error as error:
        _refuse(path, error)
    at_fault = arrays["misfit"]
    found: list[Misfit] = []
    for row in np.flatnonzero(at_fault >= 0).tolist():
        texts = {
            name: str(text) for name, text in zip(names, arrays["raw"][row].tolist(), strict=True) if text is not None
        }
        found.append((row, names[at_fault[row]], texts))
    return {name: arrays[f"v{i}"] for i, name in enumerate(names)}, found


def _expressions(path: Path, name: str, dtype: Dtype, kind: str) -> tuple[str, str]:
    """SQL for a column's value as declared (null when it does not fit), and for whether a value is there."""
    q = _name(name)
    there = f"{q} IS NOT NULL"
    is_text = kind == "VARCHAR" or kind.startswith("ENUM")
    number = kind in _INTEGERS or kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL")
    if dtype == "str":
        if is_text or kind == "UUID":
            return f"{q}::VARCHAR", there
    elif is_text:
        t = f"trim({q}::VARCHAR)"
        there += f" AND lower({t}) NOT IN {_NULL_WORDS}"
        whole = f"WHEN regexp_full_match({t}, '[+-]?[0-9]+([.]0*)?') THEN TRY_CAST({t} AS BIGINT)"
        power = f"WHEN regexp_full_match({t}, '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)[eE][+-]?[0-9]+')"  # 1e3, as in JSON
        double = f"TRY_CAST({t} AS DOUBLE)"
        integral = f"CASE {whole} {power} AND {double} = trunc({double}) THEN TRY_CAST({double} AS BIGINT) END"
        return {
            "float": f"TRY_CAST({t} AS DOUBLE)",
            "int": integral,
            "bool": f"TRY_CAST({t} AS BOOLEAN)",
            "time": _micros(f"TRY_CAST({t} AS TIMESTAMPTZ)"),
        }[dtype], there
    elif dtype == "float" and number:  # wide numbers by way of text: that rounds once
        return f"TRY_CAST({q}{'::VARCHAR' * (kind in _WIDE or kind.startswith('DECIMAL'))} AS DOUBLE)", there
    elif dtype == "int" and kind in _INTEGERS:
        return f"TRY_CAST({q} AS BIGINT)", there
    elif dtype == "int" and number:
        if kind in ("FLOAT", "DOUBLE"):
            there += f" AND NOT isnan({q})"
        return f"CASE WHEN {q} = trunc({q}) THEN TRY_CAST({q} AS BIGINT) END", there
    elif dtype == "bool" and kind == "BOOLEAN":
        return q, there
    elif dtype == "time" and (kind.startswith("TIMESTAMP") or kind == "DATE"):
        if kind.endswith("_NS"):  # rounded down, before 1970 too
            return (
                f"CASE WHEN isfinite({q}) THEN (epoch_ns({q}) - (epoch_ns({q}) % 1000 + 1000) % 1000) // 1000 END",
                there,
            )
        return _micros(f"{q}::TIMESTAMPTZ"), there
    elif dtype == "time" and kind in _INTEGERS:  # D49
        other = " OR ".join(f"{q} >= {first} AND {q} < {end}" for first, end in OTHER_UNITS.values())
        return f"CASE WHEN NOT ({other}) THEN TRY_CAST({q} AS BIGINT) END", there
    raise Misuse(f"file {path}: column {name!r} holds {kind}, needed is {dtype}. Cast it, or declare what it is.")


def _micros(moment: str) -> str:
    return f"CASE WHEN isfinite({moment}) THEN epoch_us({moment}) END"


def _assemble(
    source: Source,
    names: Sequence[str],
    wanted: Mapping[str, Dtype],
    values: Mapping[str, NDArray[Any]],
    raw: Sequence[Misfit],
    numbers: NDArray[Any],
    bad: list[BadRow],
    unit: Literal["line", "row"],
) -> FileRows:
    columns = Columns({name: _column(dtype, values[name]) for name, dtype in wanted.items()})
    good = np.ones(columns.rows, bool)
    good[[row for row, _, _ in raw]] = False
    misfits = columns.take(~good).to_rows()
    for (_, field, texts), number, row in zip(raw, numbers[~good].tolist(), misfits, strict=True):
        text = texts[field]
        found = moment_shown(int(text)) if wanted[field] == "time" and text.isdecimal() else text[:200]
        bad.append(BadRow(unit, number, row | texts, field, _reason(wanted[field], text), found))
    kept = numbers[good] - 1 if raw or unit == "line" else None
    if raw:
        columns = columns.take(good)
    return file_rows(source, names, wanted, columns, bad, kept)


def _reason(dtype: Dtype, text: str) -> Reason:
    """Why a text is no value of a type, in the words of a push."""
    if dtype == "time":
        return "bad_time"
    if dtype == "int":
        try:
            number = float(text)
        except ValueError:
            return "wrong_type"
        if not math.isfinite(number):
            return "infinite" if math.isinf(number) else "wrong_type"
        return "too_large" if number.is_integer() else "wrong_type"
    return "wrong_type"


def _column(dtype: Dtype, array: NDArray[Any]) -> Column:
    """A column of what DuckDB gives: a plain array, or a masked one that has nulls."""
    mask = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    data: NDArray[Any] = np.asarray(array)
    if dtype == "float":
        data = np.where(mask, np.nan, data) if mask is not None else data
        return float_column(data)
    if dtype == "str":
        texts: dict[Any, Any] = {}
        shared = [texts.setdefault(text, text) for text in data.tolist()]  # equal texts are held once
        data = np.empty(len(shared), object)
        data[:] = shared
        mask = np.array([v is None for v in data.tolist()], bool) if mask is None else mask
        data[mask] = None
    else:
        data = data.astype(np.bool_ if dtype == "bool" else np.int64)
        if mask is not None:
            data = np.where(mask, 0, data).astype(data.dtype)
    return Column(dtype, data, ~mask if mask is not None and mask.any() else None)


def _connect() -> duckdb.DuckDBPyConnection:
    offline: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    connection = open_duckdb(offline)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _refuse(path: Path, error: Exception) -> NoReturn:
    reason = str(error).strip().splitlines()[0]
    raise Misuse(
        f"file {path}: cannot be read: {reason} Is it of the format that its name says, every quote closed, and every "
        "line ended in the same way?"
    ) from error


def _lines(path: Path) -> Iterator[str]:
    with open_bytes(path, "rb") as stream:
        for number, line in enumerate(stream):
            text: str = line.decode("utf-8-sig" if number == 0 else "utf-8", errors="replace")
            yield text


def _header(path: Path, delimiter: str) -> list[str]:
    names = next(csv.reader(_lines(path), delimiter=delimiter), None)
    if not names:
        raise Misuse(f"file {path}: is empty. It needs a header line that names its columns.")
    return names


def _fields(line: str, delimiter: str, names: Sequence[str], wanted: Mapping[str, Dtype]) -> dict[str, Any]:
    """What a line that does not fit its header gives when its fields are counted from the left."""
    try:
        values = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a field that is too long, a null byte
        values = []
    return {name: value for name, value in zip(names, values, strict=False) if name in wanted}


def _record_lines(path: Path, delimiter: str, fields: int, records: int, rejected: Sequence[int]) -> NDArray[Any]:
    """The line on which each record begins, of those that have as many fields as the header.

    A file that Python's reader parses otherwise than DuckDB gets the lines of a file without line breaks in quotes.
    """
    with open_bytes(path, "rb") as stream:
        ends = 0
        last = b"\n"
        while block := stream.read(1 << 20):
            ends, last = ends + block.count(b"\n"), block[-1:]
    lines = ends + (last != b"\n")
    plain = np.delete(np.arange(2, lines + 1), np.array(rejected, np.int64) - 2)
    if len(plain) == records:
        return plain
    found, refused = [], set(rejected)
    reader = csv.reader(_lines(path), delimiter=delimiter)
    next(reader)
    begins = reader.line_num + 1
    try:
        for values in reader:
            if len(values) == fields and begins not in refused:
                found.append(begins)
            begins = reader.line_num + 1
    except csv.Error:
        pass
    return np.array(found) if len(found) == records else np.arange(2, records + 2)


def _lines_at(path: Path, places: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The number of the line at each place, and its bytes.

    DuckDB counts a line's first byte from 1, says a line with ? for every byte that is no UTF-8, and may begin it with
    the end of the line before.
    """
    out: list[tuple[int, bytes]] = []
    line, at = 1, 0
    with open_bytes(path, "rb") as stream:
        for first, said in places:
            line += stream.read(first - 1 - at).count(b"\n")
            text = stream.read(len(said))
            same = len(text) == len(said) and all(a == b or b == ord("?") for a, b in zip(text, said, strict=True))
            bare = (text if same else said).strip(b"\r\n")
            out.append((line + text[: text.find(bare[:1])].count(b"\n"), bare))
            line, at = line + text.count(b"\n"), first - 1 + len(text)
    return out


def _no_glob(path: Path) -> str:
    """The path as DuckDB takes it literally."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(path.absolute()))


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
