"""Values of some forty kinds in tables of several libraries, and what becomes of them by each way in."""

from __future__ import annotations

import datetime as dt
import enum
import math
import random
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Dtype
from trimtab.core.time import parse_time_us
from trimtab.events import Ingestor, Quarantine, read_rows
from trimtab.events.definitions import Time, source
from trimtab.events.records import decode
from trimtab.serving.http.routes.pushing import EventsBody, push_body
from trimtab.testing import MemoryLog

FORMATS = {"g": "%d.%m.%Y %H:%M", "u": "unix_s", "y": "%Y%m%d"}
DTYPES: dict[str, Dtype] = {"f": "float", "n": "int", "b": "bool", "s": "str", "t": "time"} | dict.fromkeys(
    FORMATS, "time"
)
# to open a database takes 10 ms; a file that is written again must not be read from memory
DUCKDB = duckdb.connect(config={"enable_external_file_cache": False})
SOURCE = source(
    "s",
    time="at",
    key="id",
    columns={"id": str, "f": float, "n": int, "b": bool, "s": str, "t": Time, "g": Time, "u": Time, "y": Time},
    future_tolerance="521722w",
    time_format=FORMATS,
)
NOW_US = parse_time_us("2026-01-01")
Outcome = Any  # of a row: the values of its event, or the column and the reason of its refusal


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 3


def kinds(rng: random.Random) -> dict[str, Callable[[], Any]]:
    """By name, what draws one value of the kind."""
    zones = [dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(dt.timedelta(hours=-8))]
    big = [-(2**63), 2**63 - 1, 2**53 + 1, 2**62]
    edges = [1e150, 1.1e150, -1e300, 5e-324, math.inf, -math.inf, -0.0, 0.1, 2.0**63, 1.7e308]
    ints = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]

    def us() -> int:
        return rng.randrange(parse_time_us("0001-01-02"), parse_time_us("9999-12-30"))

    def near() -> int:
        return rng.randrange(parse_time_us("1700-01-01"), parse_time_us("2250-01-01"))

    def naive() -> dt.datetime:
        return dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=us())

    def text() -> str:
        return "".join(rng.choice("aZ09 é☃𝄞,\"'\t|") for _ in range(rng.randrange(1, 12)))

    def far() -> np.datetime64:
        return np.datetime64(rng.choice([-1, 1]) * rng.randrange(2_000_000, 9_000_000), rng.choice(["D", "M", "Y"]))

    def time_text() -> str:
        day, at = (
            rng.choice(["2024-05-01", "1969-12-31", "20240501", "24-05-01", "2024-02-30", "2024-W01-1"]),
            "05:06:07",
        )
        at = rng.choice(["", "05:06", at, f"{at}.25", f"{at},123456789", "24:00", "23:59:60", "050607", "05", "5:06"])
        zone = rng.choice(["", "Z", "z", " UTC", "+02:00", "-0530", "+02", " IST", " CET", "+24:00", " Europe/Berlin"])
        return day + (rng.choice(["T", " ", "t"]) + at + zone if at else "")

    return {
        "bool": lambda: rng.random() < 0.5,
        "int": lambda: rng.randrange(-(10**6), 10**6),
        "int extreme": lambda: rng.choice(big) - rng.randrange(2) * (rng.random() < 0.5),
        "int too large": lambda: rng.choice([-1, 1]) * rng.randrange(2**64, 2**70),
        "int of seconds": lambda: rng.randrange(315_532_800, 2_524_608_000) * rng.choice([1, 1_000, 1_000_000]),
        "float": lambda: rng.uniform(-1e6, 1e6),
        "float extreme": lambda: rng.choice(edges),
        "float whole": lambda: float(rng.randrange(-(2**60), 2**60)),
        "float nan": lambda: math.nan,
        "decimal": lambda: Decimal(rng.randrange(-(10**9), 10**9)).scaleb(-rng.randrange(4)),
        "decimal large": lambda: Decimal(rng.choice([2**53 + 1, 2**63 - 1, 2**63, 10**30])),
        "decimal odd": lambda: Decimal(rng.choice(["NaN", "Infinity", "1E+200", "1E+999999", "1E-30", "-0"])),
        "numpy int": lambda: (kind := rng.choice(ints))(rng.randrange(np.iinfo(kind).min, int(np.iinfo(kind).max) + 1)),
        "numpy float": lambda: rng.choice([np.float16, np.float32, np.float64])(rng.uniform(-9, 9)),
        "numpy long double": lambda: np.longdouble(rng.uniform(-9, 9)),
        "numpy bool": lambda: np.bool_(rng.random() < 0.5),
        "datetime": naive,
        "datetime with a zone": lambda: naive().replace(tzinfo=rng.choice(zones)),
        "date": lambda: naive().date(),
        "time of day": lambda: naive().time(),
        "timedelta": lambda: dt.timedelta(microseconds=rng.randrange(10**12)),
        "datetime64": lambda: np.datetime64(us(), "us").astype(f"M8[{rng.choice(['s', 'ms', 'us'])}]"),
        "datetime64 nanoseconds": lambda: np.datetime64(near() * 1_000 + rng.randrange(1_000), "ns"),
        "datetime64 far": far,
        "timedelta64": lambda: np.timedelta64(rng.randrange(10**6), rng.choice(["s", "us", "ns"])),
        "timestamp": lambda: pd.Timestamp(near() * 1_000 + rng.randrange(1_000), unit="ns"),
        "timestamp with a zone": lambda: pd.Timestamp(near(), unit="us", tz=rng.choice(["UTC", "Asia/Kolkata"])),
        "pandas timedelta": lambda: pd.Timedelta(rng.randrange(10**6), unit="s"),
        "period": lambda: pd.Period(year=rng.randrange(1980, 2040), month=rng.randrange(1, 13), freq="M"),
        "interval": lambda: pd.Interval(0, rng.randrange(1, 9)),
        "null": lambda: rng.choice([None, math.nan, pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN"), np.ma.masked]),
        "uuid": lambda: uuid.UUID(int=rng.getrandbits(128)),
        "bytes": lambda: rng.randbytes(rng.randrange(9)),
        "enum of texts": lambda: Colour.RED,
        "enum of numbers": lambda: Level.LOW,
        "list": lambda: [rng.randrange(9) for _ in range(rng.randrange(3))],
        "dict": lambda: {"x": rng.randrange(9)},
        "text": text,
        "text odd": lambda: rng.choice(["", " ", "\0", "a\0b", "\ud800", "x" * 5_000, "\r\n", '"', "\ufeff", "﷽" * 99]),
        "text of a number": lambda: rng.choice(
            ["1", "1_000", "1,000", "1 000", "1.000,5", " 7 ", "+5", "1e3", "1e400", "0x1F", "\u0661", ".5", "inf"]
        ),
        "text of a time": time_text,
        "text of a time in words": lambda: rng.choice(
            ["epoch", "now", "today", "infinity", "1714521600", "May 1, 2024", "01/05/2024", "2024-05-01T05:06:07 GMT"]
        ),
        "text of a format": lambda: rng.choice(
            ["31.12.2024 14:05", "1.2.2024 4:05", "30.02.2024 00:00", "31.12.24 14:05", " 31.12.1869 14:05 ", "2024",
             "31.12.2024 14:05:00", "20241231", "20240230", "20241231.0", "99991231", "-1.5", "1735653900.1234567",
             "1e9", "-.5", "1e400", "2024-12-31 14:05", "2024-12-31T14:05:00.5+01:00", "12/31/2024"]
        ),
        "int of a day": lambda: int(f"{rng.randrange(1, 9999):04}{rng.randrange(1, 14):02}{rng.randrange(1, 31):02}"),
        "float of a day": lambda: float(rng.randrange(1900, 2100) * 10_000 + rng.randrange(1, 13) * 100 + 7),
        "seconds": lambda: rng.choice([1, 1.0, Decimal(1)]) * rng.randrange(-(10**9), 2 * 10**9),
        "seconds and less": lambda: rng.choice([float, Decimal])(f"{rng.randrange(-9, 2 * 10**9)}.{us() % 9999}"),
        "text of a truth": lambda: rng.choice(["true", "T", "yes", "N", "0", "on", "NA", "null", "None", "n/a", "ja"]),
    }  # fmt: skip


class Bench:
    """An ingestor, and what became of each row by its id."""

    def __init__(self) -> None:
        clock = VirtualClock(NOW_US)
        self.log = MemoryLog(clock=clock)
        self.quarantine = Quarantine(MemoryLog(clock=clock))
        self.ingestor = Ingestor(self.log, [SOURCE], clock=clock, quarantine=self.quarantine)

    def push(self, rows: Any) -> dict[str, Outcome]:
        self.ingestor.push("s", rows)
        return self.outcomes()

    def read(self, given: Any) -> dict[str, Outcome]:
        self.ingestor.take("s", read_rows(given, SOURCE, on_error="quarantine"))
        return self.outcomes()

    def body(self, data: bytes, kind: bytes) -> dict[str, Outcome]:
        push_body(self.ingestor.push, "s", EventsBody(data, kind, 100_000))
        return self.outcomes()

    def outcomes(self) -> dict[str, Outcome]:
        records = self.log.read(self.log.partition, 0, limit=1_000_000)
        events = [decode(record.payload) for record in records]
        found: dict[str, Outcome] = {event.id: tuple(map(repr, event.values)) for event in events}
        refused = {row.raw().get("id"): (row.field, row.reason) for row in self.quarantine.read()}
        assert not found.keys() & refused.keys()
        return found | refused


def rows_of(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Each value in each column, one a row."""
    return [
        {"id": f"{name}{number}", "at": 0, **dict.fromkeys(DTYPES), name: value}
        for name in DTYPES
        for number, value in enumerate(values)
    ]


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in ("id", "at", *DTYPES)}


def as_pyarrow(rows: Sequence[dict[str, Any]]) -> Any:
    return pa.table({name: _array(values) for name, values in columns_of(rows).items()})


def _array(values: list[Any]) -> Any:
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError):  # an extension type of pandas?
        return pa.array(pd.array(values))


def as_polars(rows: Sequence[dict[str, Any]]) -> Any:
    frame = pl.DataFrame(columns_of(rows))
    if pl.Object in frame.dtypes:
        raise TypeError("an object of Python's, which polars does not hand over")
    return frame


def as_duckdb(rows: Sequence[dict[str, Any]]) -> Any:
    table = as_pyarrow(rows)
    if any(isinstance(kind, pa.BaseExtensionType) for kind in table.schema.types):
        raise TypeError("an extension type, of which DuckDB keeps what is stored")
    return DUCKDB.cursor().from_arrow(table)
