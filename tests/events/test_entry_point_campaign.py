"""Campaign of entry points: random values of some forty kinds give the event, or the refusal, that rows give."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import random
import secrets
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from kinds import DTYPES, FORMATS, SOURCE, Bench, Outcome, as_duckdb, as_polars, as_pyarrow, columns_of, kinds, rows_of
from pyarrow import parquet

from trimtab.events.values.conversions import NULL_WORDS, TYPED, WRITTEN, Kind, Refused, converted, kind_of, of_text
from trimtab.serving.http.requests.wire import JSON_TYPE
from trimtab.serving.http.routes.pushing import ARROW_TYPE
from trimtab.serving.problems import InvalidField


def as_pandas(rows: Sequence[dict[str, Any]]) -> Any:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns_of(rows).items()})
    pa.Table.from_pandas(frame)  # an error where pandas cannot hand it over
    return frame


def as_typed_pandas(rows: Sequence[dict[str, Any]]) -> Any:
    """Each column of the type that pandas finds, among rows that have a value there."""
    parts = [pd.DataFrame({k: [row[k] for row in rows if row["id"][0] == name] for k in ("id", "at", name)})
             for name in DTYPES]  # fmt: skip
    for part in parts:
        pa.Table.from_pandas(part)
    return parts


def as_json(rows: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps(rows, allow_nan=False).encode()


def parquet_file(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    parquet.write_table(as_pyarrow(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def duckdb_parquet(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    as_duckdb(rows).write_parquet(str(folder / "duckdb.parquet"))
    return folder / "duckdb.parquet"


def polars_parquet(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    as_polars(rows).write_parquet(folder / "polars.parquet")
    return folder / "polars.parquet"


def stream(rows: Sequence[dict[str, Any]]) -> bytes:
    table, sink = as_pyarrow(rows), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


EntryPoint = Callable[[Bench, Path, Sequence[dict[str, Any]]], dict[str, Outcome]]


def _many(bench: Bench, parts: Sequence[Any]) -> dict[str, Outcome]:
    return [bench.read(part) for part in parts][-1]


Make = Callable[[Path, Sequence[dict[str, Any]]], Any]
Take = Callable[[Bench, Any], dict[str, Outcome]]
ENTRY_POINTS: dict[str, tuple[Make, Take]] = {
    "list": (lambda folder, rows: list(rows), Bench.read),
    "json": (lambda folder, rows: as_json(rows), lambda bench, data: bench.body(data, JSON_TYPE)),
    "ndjson file": (
        lambda folder, rows: written(folder / "a.ndjson", b"\n".join(as_json([row])[1:-1] for row in rows)), Bench.read,
    ),
    "pyarrow": (lambda folder, rows: as_pyarrow(rows), Bench.push),
    "pandas": (lambda folder, rows: as_pandas(rows), Bench.push),
    "pandas typed": (lambda folder, rows: as_typed_pandas(rows), _many),
    "polars": (lambda folder, rows: as_polars(rows), Bench.push),
    "duckdb": (lambda folder, rows: as_duckdb(rows), Bench.push),
    "arrow file": (lambda folder, rows: written(folder / "a.arrow", stream(rows)), Bench.read),
    "arrow body": (lambda folder, rows: stream(rows), lambda bench, data: bench.body(data, ARROW_TYPE)),
    "parquet": (parquet_file, Bench.read),
    "parquet by DuckDB": (duckdb_parquet, Bench.read),
    "parquet by polars": (polars_parquet, Bench.read),
}  # fmt: skip


def _said(value: Any) -> Any:
    """A value without its packing, so that what a library made of it can be told from what it was."""
    kind, plain = kind_of(value)
    if kind == "other":
        return kind
    if kind == "datetime":
        try:
            return kind, converted("time", value)
        except Refused:
            return kind
    return kind, repr(plain + 0.0 if kind == "float" else plain)


def _faithful(entry: str, given: Any, rows: Sequence[dict[str, Any]]) -> set[str]:
    """The ids of rows whose value the library hands over as what it was."""
    if entry == "json":
        given = msgspec.json.decode(given)
    if isinstance(given, Path):
        if given.suffix == ".ndjson":  # a text without a UTF-8 form is no JSON
            return {row["id"] for row in rows if "\\ud" not in as_json([row]).decode()}
        if given.suffix != ".parquet":
            return {row["id"] for row in rows}
        given = parquet.read_table(given)
    if isinstance(given, bytes):
        given = pa.ipc.open_stream(given).read_all()
    if entry == "pandas typed":
        return set().union(
            *(_faithful("", part, [r for r in rows if r["id"][0] == part.columns[-1]]) for part in given)
        )
    if not isinstance(given, list):
        table = pa.table(given) if not isinstance(given, pa.Table) else given
        columns = {name: table[name].to_pylist() for name in table.column_names}
        given = [{n: values[at] for n, values in columns.items()} for at in range(table.num_rows)]
    return {
        row["id"]
        for row, carried in zip(rows, given, strict=True)
        if _said(row[row["id"][0]]) in ("other", _said(carried[row["id"][0]]))
    }


def _csv(folder: Path, values: Sequence[Any]) -> tuple[Path, dict[str, Outcome]]:
    """A file of values as text, and what the table of conversions makes of each text."""
    texts = [_text(value) for value in values]
    wanted: dict[str, Outcome] = {}
    path = folder / "a.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["id", "at", *DTYPES])
        for number, text in enumerate(texts):
            for name, dtype in DTYPES.items():
                row = {"id": f"{name}{number}", "at": "1970-01-01"} | dict.fromkeys(DTYPES, "") | {name: text}
                writer.writerow(row.values())
                try:
                    value = None if text == "" else of_text(dtype, text, SOURCE.format(name))
                    values_of = [None if n != name else value for n in DTYPES]
                    wanted[row["id"]] = tuple(map(repr, [row["id"], *values_of, 0]))
                except Refused as refused:
                    wanted[row["id"]] = (name, refused.reason)
    return path, wanted


def campaign(folder: Path, rng: random.Random, each: int) -> tuple[list[str], dict[str, int]]:
    """The differences that were found, and how many outcomes were compared by entry."""
    differences: list[str] = []
    compared: dict[str, int] = dict.fromkeys((*ENTRY_POINTS, "csv"), 0)
    for kind, draw in kinds(rng).items():
        values = [draw() for _ in range(each)]
        rows = rows_of(values)
        wanted = Bench().push(rows)
        assert len(wanted) == len(rows)
        differences += _differences(folder, kind, rows, wanted, compared)
        differences += _csv_differences(folder, kind, values, wanted, compared)
    return differences, compared


def _differences(
    folder: Path, kind: str, rows: Sequence[dict[str, Any]], wanted: dict[str, Outcome], compared: dict[str, int]
) -> list[str]:
    """What the entry points that can carry these rows make of them, where it is not what is wanted."""
    out: list[str] = []
    for entry, (make, take) in ENTRY_POINTS.items():
        try:
            given = make(folder, rows)
            faithful = _faithful(entry, given, rows)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a library's, panics of Rust too: it cannot carry the kind
            continue
        try:
            found = take(Bench(), given)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if not (entry == "arrow body" and isinstance(error, InvalidField) and "<" in str(error)):
                out.append(f"{kind} by {entry}: {error!r}")
            continue  # a body with nested columns is refused whole: they have no bound as Python values
        compared[entry] += len(faithful)
        values = {row["id"]: row[row["id"][0]] for row in rows}
        odd = sorted(row for row in faithful if found.get(row) != wanted[row])
        out += [
            f"{kind} by {entry}, {row}: {values[row]!r} gives {found.get(row)}, needed {wanted[row]}" for row in odd[:3]
        ]
    return out


def _text(value: Any) -> str:
    if isinstance(value, dt.date):
        return value.isoformat()
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


def _csv_differences(
    folder: Path, kind: str, values: Sequence[Any], by_rows: dict[str, Outcome], compared: dict[str, int]
) -> list[str]:
    kinds = {kind_of(value)[0] for value in values}
    if kinds & {"other", "null"} or any(isinstance(value, str) and "\ud800" in value for value in values):
        return []
    path, wanted = _csv(folder, values)
    found = Bench().read(path)
    compared["csv"] += len(wanted)
    out = [
        f"{kind} by csv, {row}: {values[int(row[1:])]!r} gives {found.get(row)}, by the table {wanted[row]}"
        for row in wanted
        if found.get(row) != wanted[row]
    ]
    typed = kind != "datetime64 far"  # NumPy writes years of seven digits
    text = kinds == {"text"}
    bare = "date" in kinds or any(isinstance(v, np.datetime64) and "T" not in str(v) for v in values)  # "2024-05-01"
    for row, outcome in by_rows.items():  # what rows take, text takes as well
        is_event = len(outcome) > 2
        null = text and str(values[int(row[1:])]).strip().lower() in NULL_WORDS
        counts = kind_of(values[int(row[1:])])[0] == "int"  # digits as text are no microseconds: they may be a date
        other = (counts and row[0] == "t") or (bare and row[0] in FORMATS)
        if typed and is_event and not other and not null and found[row] != outcome:
            out.append(f"{kind} by csv, {row}: {values[int(row[1:])]!r} gives {found[row]}, by rows {outcome}")
    return out[:3]


EXAMPLES: dict[Kind, list[Any]] = {
    "null": [None, math.nan],
    "bool": [True, False],
    "int": [0, -5, 2**53 + 1, 2**63 - 1, -(2**63)],
    "float": [1.5, -0.0, 2.0, math.inf, 1e151],
    "decimal": [Decimal("9007199254740993"), Decimal("1.50"), Decimal("1E+30")],
    "text": ["a", "1", "", "2024-05-01", "20240501", "24-05-01", "2024-05-01 24:00", "2024-05-01 00:00 IST", "epoch"],
    "date": [dt.date(2024, 5, 1), dt.date(1, 1, 1)],
    "datetime": [dt.datetime(1969, 12, 31, 23, 59, 59, 999_999), dt.datetime(9999, 12, 31)],
    "uuid": [uuid.UUID(int=5)],
    "other": [b"a", b""],
}
OTHERS = [dt.time(1), dt.timedelta(1), [1], {"x": 1}, pd.Period("2024-01"), pd.Interval(0, 1), np.timedelta64(1, "s")]


@pytest.mark.parametrize(("kind", "values"), [*EXAMPLES.items(), *(("other", [value]) for value in OTHERS)])
def test_every_entry_point_follows_the_table_of_conversions(tmp_path: Path, kind: Kind, values: list[Any]) -> None:
    rows = rows_of(values)
    wanted: dict[str, Outcome] = {}
    for row in rows:
        name = row["id"][0]
        rule = TYPED[DTYPES[name]].get(kind)
        if isinstance(rule, str) and not (name in FORMATS and kind in WRITTEN):
            wanted[row["id"]] = (name, rule)
            continue
        try:
            value = converted(DTYPES[name], row[name], SOURCE.format(name))
            wanted[row["id"]] = tuple(map(repr, [row["id"], *(value if n == name else None for n in DTYPES), 0]))
        except Refused as refused:
            wanted[row["id"]] = (name, refused.reason)
    compared = dict.fromkeys(ENTRY_POINTS, 0)
    assert Bench().push(rows) == wanted
    assert _differences(tmp_path, kind, rows, wanted, compared) == []
    assert sum(map(bool, compared.values())) >= 4, compared  # entry points that could carry it


@pytest.mark.slow
def test_values_of_all_kinds_are_the_same_by_every_entry_point(tmp_path: Path) -> None:
    differences, compared = campaign(tmp_path, random.Random(14), 3)
    assert not differences, "\n".join(differences[:30])
    assert min(compared.values()) > 100, compared


@pytest.mark.soak
def test_five_thousand_values_by_every_entry_point(tmp_path: Path, soak_report: Any) -> None:
    seed = secrets.randbits(32)
    print(f"entry points: seed {seed}")
    each = -(-5_000 // len(kinds(random.Random(seed))))
    differences, compared = campaign(tmp_path, random.Random(seed), each)
    soak_report("entry_points", runs=sum(compared.values()), failures=len(differences), seed=seed)
    assert not differences, "\n".join(differences[:30])
