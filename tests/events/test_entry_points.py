"""Rows through every entry point give the same events: mappings, JSON, lines, tables, Parquet, CSV, Arrow."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest
from arro3 import core as arro3
from arro3 import io as arrow_io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import format_time, parse_time_us
from trimtab.events.columns.history import History
from trimtab.events.definitions import Time, source
from trimtab.events.files.files import Rows, read_rows
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine

ALL = source(
    "all", time="at", columns={"who": str, "x": float, "n": int, "ok": bool, "seen": Time}, future_tolerance="521722w"
)
NAMES = list(ALL.columns)
Row = dict[str, Any]
TRAPS = ["NA", "null", "1", " a ", "é", "a\0b", "\0", "\r\n", "\n", "\r", '"', "a,b", "\ufeff", "\u2028", "\x1a", "\\N"]
FIRST, LAST = parse_time_us("0001-01-02"), parse_time_us("9999-12-30")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(TRAPS)
floats = st.floats(width=64, allow_infinity=False, min_value=-1e150, max_value=1e150) | st.sampled_from(
    [-0.0, 0.1, 5e-324, 1e150, 2.0**53 + 2, math.nan, 3.0]
)
ints = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 2**53 + 1, -(2**63), 2**63 - 1])
instants = st.integers(FIRST, LAST) | st.sampled_from([-1, 0, 1, 951_782_400_000_000])
rows_of_values = st.lists(
    st.fixed_dictionaries(
        {
            "who": st.none() | texts,
            "x": st.none() | floats,
            "n": st.none() | ints,
            "ok": st.none() | st.booleans(),
            "seen": st.none() | instants,
            "at": instants,
        }
    ),
    min_size=1,
    max_size=6,
)


def _by(name: str, rows: Sequence[Row], kind: Callable[[Any], Any]) -> list[Row]:
    return [{**row, name: None if row[name] is None else kind(row[name])} for row in rows]


def as_json(rows: Sequence[Row]) -> list[Row]:
    """Times as text, NaN as null."""
    rows = _by("seen", _by("at", rows, format_time), format_time)
    return _by("x", rows, lambda x: None if math.isnan(x) else x)


def as_columns(rows: Sequence[Row]) -> Columns:
    return Columns.of({name: (dtype, [row[name] for row in rows]) for name, dtype in ALL.columns.items()})


def as_arrow(rows: Sequence[Row]) -> arro3.Table:
    """Made without us: -0.0 and NaN stay what they are."""
    kinds = {"str": arro3.DataType.string(), "float": arro3.DataType.float64(), "int": arro3.DataType.int64()}
    kinds |= {"bool": arro3.DataType.bool(), "time": arro3.DataType.int64()}
    instant = arro3.DataType.timestamp("us", tz="UTC")
    arrays = []
    for name, dtype in ALL.columns.items():
        array = arro3.Array([row[name] for row in rows], kinds[dtype])
        arrays.append(array.cast(instant) if dtype == "time" else array)
    return arro3.Table.from_arrays(arrays, names=NAMES)


def ipc(rows: Sequence[Row]) -> bytes:
    out = io.BytesIO()
    arrow_io.write_ipc_stream(as_arrow(rows), out, compression=None)
    return out.getvalue()


def to_parquet(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "rows.parquet"
    arrow = as_arrow(rows)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", arrow)
        connection.execute(f"COPY (SELECT * FROM given) TO '{path}' (FORMAT parquet)")
    return path


def to_csv(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerow(NAMES)
        writer.writerows([["" if row[n] is None else row[n] for n in NAMES] for row in as_json(rows)])
    return path


def to_lines(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "rows.ndjson"
    path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in as_json(rows)))
    return path


def to_arrow(folder: Path, rows: Sequence[Row]) -> Path:
    path = folder / "rows.arrow"
    arrow_io.write_ipc(as_arrow(rows), path, compression=None)
    return path


def decoded(rows: Sequence[Row]) -> Rows:
    given: list[Row] = msgspec.json.decode(msgspec.json.encode(as_json(rows)))
    return given


ENTRY_POINTS: dict[str, Callable[[Path, Sequence[Row]], Any]] = {
    "mappings": lambda folder, rows: list(rows),
    "datetimes": lambda folder, rows: _by(
        "at", rows, lambda us: dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=us)
    ),
    "numpy": lambda folder, rows: _by("x", _by("n", rows, np.int64), np.float64),
    "json": lambda folder, rows: decoded(rows),
    "columns": lambda folder, rows: as_columns(rows),
    "table": lambda folder, rows: as_arrow(rows),
    "stream": lambda folder, rows: io.BytesIO(ipc(rows)),
    "lines": to_lines,
    "parquet": to_parquet,
    "csv": to_csv,
    "arrow": to_arrow,
}


class Bench:
    """A log behind an ingestor."""

    def __init__(self, make_log: Any) -> None:
        self.log = make_log()
        self.quarantine = Quarantine(make_log("q1"))
        self.ingestor = Ingestor(self.log, [ALL], clock=VirtualClock(0), quarantine=self.quarantine)

    def take(self, rows: Any) -> list[bytes]:
        if isinstance(rows, list):
            self.ingestor.push("all", rows, history=True)
        else:
            self.ingestor.take("all", read_rows(rows, ALL, on_error="quarantine"), history=True)
        return [record.payload for record in self.log.records.get("p1", [])]

    def reasons(self) -> list[tuple[str, str]]:
        return [(row.field, row.reason) for row in self.quarantine.read()]


@pytest.mark.slow
@pytest.mark.fast
@given(rows=rows_of_values)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_entry_point_leads_to_the_same_events(rows: list[Row], make_log: Any, tmp_path: Path) -> None:
    bench = Bench(make_log)
    wanted = bench.take(rows)
    assert len(wanted) == len(rows)
    frame = History(bench.log, [ALL])
    frame.refresh()
    for name, entry in ENTRY_POINTS.items():
        given_rows = rows
        if name == "csv":  # an empty text is no text there
            given_rows = _by("who", rows, lambda who: who or None)
        other = Bench(make_log)
        found = other.take(entry(tmp_path, given_rows))
        assert other.reasons() == [], name
        assert found == (wanted if name != "csv" else Bench(make_log).take(given_rows)), name


def one(**changes: Any) -> Row:
    return {"who": "a", "x": 1.0, "n": 1, "ok": True, "seen": 0, "at": 0} | changes


def arrow_of(name: str, value: Any, kind: arro3.DataType) -> arro3.Table:
    table = as_arrow([one()])
    if kind == NANOS:
        array = arro3.Array([value], arro3.DataType.int64()).cast(kind)
        return table.set_column(NAMES.index(name), name, arro3.ChunkedArray([array]))
    return table.set_column(NAMES.index(name), name, arro3.ChunkedArray([arro3.Array([value], kind)]))


def parquet_of(folder: Path, name: str, sql: str) -> Path:
    path = folder / "one.parquet"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", as_arrow([one()]))
        query = f'SELECT * REPLACE ({sql} AS "{name}") FROM given'
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


def csv_of(folder: Path, name: str, text: str) -> Path:
    path = folder / "one.csv"
    row = {**as_json([one()])[0], name: text}
    path.write_text(",".join(NAMES) + "\n" + ",".join(f'"{row[n]}"' for n in NAMES) + "\n", encoding="utf-8")
    return path


def stream_of(table: arro3.Table) -> io.BytesIO:
    out = io.BytesIO()
    arrow_io.write_ipc_stream(table, out, compression=None)
    return io.BytesIO(out.getvalue())


DOUBLE, SINGLE, HALF = arro3.DataType.float64(), arro3.DataType.float32(), arro3.DataType.float16()
NANOS = arro3.DataType.timestamp("ns")
SAID = [  # column; as Python says it; as Arrow does; as SQL does; as text
    ("x", math.inf, (math.inf, DOUBLE), "'inf'::DOUBLE", "inf"),
    ("x", -math.inf, (-math.inf, SINGLE), "'-inf'::FLOAT", "-Infinity"),
    ("x", 1e300, (1e300, DOUBLE), "1e300::DOUBLE", "1e300"),
    ("x", -0.0, (-0.0, DOUBLE), "'-0.0'::DOUBLE", "-0.0"),
    ("x", math.nan, (math.nan, DOUBLE), "'nan'::DOUBLE", "NaN"),
    ("x", 2**53 + 1, (2**53 + 1, arro3.DataType.int64()), "9007199254740993::BIGINT", "9007199254740993"),
    ("x", 2**64 - 1, (2**64 - 1, arro3.DataType.uint64()), "18446744073709551615::UBIGINT", "18446744073709551615"),
    ("x", np.float32(0.1), (0.1, SINGLE), "0.1::FLOAT", repr(float(np.float32(0.1)))),
    ("x", Decimal("0.1"), (0.1, DOUBLE), "0.1::DECIMAL(20, 7)", "0.1000000"),
    ("x", 12345678901234567890.123, None, "12345678901234567890.123::DECIMAL(38, 3)", "12345678901234567890.123"),
    ("x", 3 * 10**37, None, f"{3 * 10**37}::HUGEINT", f"{3 * 10**37}"),
    ("n", 3.0, (3.0, DOUBLE), "3.0::DOUBLE", "3.0"),
    ("n", 1.5, (1.5, DOUBLE), "1.5::DOUBLE", "1.5"),
    ("n", math.inf, (math.inf, DOUBLE), "'inf'::DOUBLE", "inf"),
    ("n", math.nan, (math.nan, DOUBLE), "'nan'::DOUBLE", "nan"),
    ("n", 2**63, (2**63, arro3.DataType.uint64()), "9223372036854775808::UBIGINT", "9223372036854775808"),
    ("n", -5, (-5, arro3.DataType.int8()), "-5::TINYINT", "-5"),
    ("at", dt.date(1960, 2, 29), None, "DATE '1960-02-29'", "1960-02-29"),
    ("at", dt.datetime(2013, 3, 31, 1, 30, tzinfo=dt.timezone(dt.timedelta(hours=1))), None,
     "TIMESTAMPTZ '2013-03-31 01:30:00+01'", "2013-03-31T01:30:00+01:00"),
    ("at", np.datetime64(-1, "ns"), (-1, NANOS), "make_timestamp_ns(-1)", "1969-12-31T23:59:59.999999"),
    ("at", np.datetime64(1999, "ns"), (1999, NANOS), "make_timestamp_ns(1999)", "1970-01-01T00:00:00.000001"),
    ("at", 2**62, (2**62, arro3.DataType.int64()), f"{2**62}::BIGINT", None),
    ("seen", 5, (5, arro3.DataType.int32()), "5::INTEGER", "1970-01-01T00:00:00.000005Z"),
    ("seen", "2013-02-30", ("2013-02-30", arro3.DataType.string()), "'2013-02-30'", "2013-02-30"),
    ("seen", "2013-03-01T05:00:00.1234567", ("2013-03-01T05:00:00.1234567", arro3.DataType.string_view()),
     "'2013-03-01T05:00:00.1234567'", "2013-03-01T05:00:00.1234567"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "python", "arrow", "sql", "text"), SAID)
def test_what_is_odd_becomes_the_same_or_is_refused_for_the_same_reason(
    name: str, python: Any, arrow: Any, sql: str, text: str | None, make_log: Any, tmp_path: Path
) -> None:
    bench = Bench(make_log)
    wanted = bench.take([one(**{name: python})]), bench.reasons()
    assert len(wanted[0]) + len(wanted[1]) == 1
    others: dict[str, Any] = {"parquet": parquet_of(tmp_path, name, sql)}
    if arrow is not None:
        others |= {"table": arrow_of(name, *arrow), "stream": stream_of(arrow_of(name, *arrow))}
    if text is not None:
        others["csv"] = csv_of(tmp_path, name, text)
    if isinstance(python, int | float) and math.isfinite(python) and not isinstance(python, np.generic):
        others["json"] = [*msgspec.json.decode(json.dumps([one(**{name: python})]))]
    for entry, given_rows in others.items():
        other = Bench(make_log)
        assert (other.take(given_rows), other.reasons()) == wanted, entry


@pytest.mark.parametrize(
    ("name", "value", "kind", "sql"),
    [
        ("ok", 1, arro3.DataType.int8(), "1::TINYINT"),
        ("who", 5, arro3.DataType.int64(), "5::BIGINT"),
        ("n", True, arro3.DataType.bool(), "true"),
        ("x", True, arro3.DataType.bool(), "true"),
        ("at", 1.5, DOUBLE, "1.5::DOUBLE"),
    ],
)
def test_a_value_of_another_type_is_taken_by_no_entry_point(
    name: str, value: Any, kind: arro3.DataType, sql: str, make_log: Any, tmp_path: Path
) -> None:
    bench = Bench(make_log)
    assert bench.take([one(**{name: value})]) == []
    assert [field for field, _ in bench.reasons()] == [name]
    for given_rows in (arrow_of(name, value, kind), parquet_of(tmp_path, name, sql)):
        other = Bench(make_log)
        assert other.take(given_rows) == []
        assert other.reasons() == bench.reasons()
