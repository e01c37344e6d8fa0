"""Declared formats of times: what a text or number means, what is refused, and that nothing else depends on them."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.time import parse_time_us
from trimtab.events import Ingestor, Quarantine, read_rows
from trimtab.events.definitions import Source, Time, source
from trimtab.events.formats.time_formats import time_format
from trimtab.events.records import decode
from trimtab.serving.http.routes.addresses import PROJECT, SERVICE
from trimtab.serving.http.routes.openapi import Described, openapi
from trimtab.testing import MemoryLog

pytestmark = pytest.mark.fast
NOW_US = parse_time_us("2026-01-01")
AT_US = parse_time_us("2024-12-31T14:05:00Z")


def _source(time_format: Any = "%d.%m.%Y %H:%M", **more: Any) -> Source:
    columns = {"id": str, "x": float, "seen": Time}
    return source("s", time="at", key="id", columns=columns, time_format=time_format, **more)


class Bench:
    def __init__(self, what: Source) -> None:
        clock = VirtualClock(NOW_US)
        self.source, self.log = what, MemoryLog(clock=clock)
        self.quarantine = Quarantine(MemoryLog(clock=clock))
        self.ingestor = Ingestor(self.log, [what], clock=clock, quarantine=self.quarantine)

    def times(self) -> list[tuple[str, int]]:
        return [
            (event.id, event.event_at_us)
            for event in (decode(record.payload) for record in self.log.read(self.log.partition, 0))
        ]


@pytest.mark.parametrize(
    ("written", "value", "needed"),
    [
        ("%d.%m.%Y %H:%M", "31.12.2024 14:05", "2024-12-31T14:05:00Z"),
        ("%d.%m.%Y", "1.2.2024", "2024-02-01"),
        ("%m/%d/%Y", "12/31/2024", "2024-12-31"),
        ("%m/%d/%y %I:%M %p", "1/2/24 12:05 am", "2024-01-02T00:05:00Z"),
        ("%d/%m/%y", "01/01/69", "1969-01-01"),
        ("%d/%m/%y", "01/01/68", "2068-01-01"),
        ("%d/%b/%Y:%H:%M:%S %z", "10/Oct/2000:13:55:36 -0730", "2000-10-10T21:25:36Z"),
        ("%a, %d %b %Y %H:%M:%S GMT", "Tue, 31 Dec 2024 14:05:00 GMT", "2024-12-31T14:05:00Z"),
        ("%A %d %B %Y", "tuesday 31 december 2024", "2024-12-31"),
        ("%Y-%m-%d %H:%M:%S.%f", "1969-12-31 23:59:59.9999999", "1969-12-31T23:59:59.999999Z"),
        ("%Y%m%d", "20241231", "2024-12-31"),
        ("%Y%m%d", 20241231, "2024-12-31"),
        ("%Y%m%d", 20241231.0, "2024-12-31"),
        ("%Y%j", "2024366", "2024-12-31"),
        ("%Y-%m", "2024-05", "2024-05-01"),
        ("%Y", 2024, "2024-01-01"),
        ("%F %T", "2024-12-31 14:05:06", "2024-12-31T14:05:06Z"),
        ("%D %R%%", "12/31/24 14:05%", "2024-12-31T14:05:00Z"),
        ("%d.%m.%Y", " 31.12.2024\t", "2024-12-31"),
        ("%d.%m.%Y", "2024-12-31T14:05:00+02:00", "2024-12-31T12:05:00Z"),
        ("unix_s", 1_735_653_900, "2024-12-31T14:05:00Z"),
        ("unix_s", "1735653900.1234567", "2024-12-31T14:05:00.123456Z"),
        ("unix_s", 1_735_653_900.123456, "2024-12-31T14:05:00.123456Z"),
        ("unix_s", Decimal("-0.0000001"), "1969-12-31T23:59:59.999999Z"),
        ("unix_s", "1e9", "2001-09-09T01:46:40Z"),
        ("unix_ms", 1_735_653_900_123, "2024-12-31T14:05:00.123Z"),
        ("unix_us", 1_735_653_900, "1970-01-01T00:28:55.6539Z"),
        ("unix_ns", -1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_a_text_or_number_of_a_format_is_the_time_it_says(written: str, value: Any, needed: str) -> None:
    assert time_format(written).us(value) == parse_time_us(needed)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("%d.%m.%Y %H:%M", "2024-12-31 14:05"),
        ("%d.%m.%Y %H:%M", "31.12.2024"),
        ("%d.%m.%Y %H:%M", "31.12.2024 14:05:00"),
        ("%d.%m.%Y %H:%M", "31.12.2024  14:05"),
        ("%d.%m.%Y %H:%M", "31.12.2024 24:00"),
        ("%d.%m.%Y %H:%M", 5),
        ("%d.%m.%Y", "30.02.2024"),
        ("%d.%m.%Y", "31.12.24"),
        ("%d.%m.%Y", "031.12.2024"),
        ("%d.%m.%Y", "\u0663\u0661.12.2024"),
        ("%d.%m.%Y", "31.12.0000"),
        ("%d%m%Y", 1122024),  # the first or the eleventh?
        ("%d%m%Y", "1122024"),
        ("%Y-%d-%mT%H:%M:%SZ", "2024-05-13T00:00:00Z"),  # ISO 8601 as well, and another day
        ("%Y%m%d", 20241231.5),
        ("%Y%m%d", -20241231),
        ("%Y%m%d", math.inf),
        ("%Y.%m", 2024.1),  # October, once it was a number
        ("%Y%j", "2023366"),
        ("%Y%j", "2023000"),
        ("%a %d.%m.%Y", "Mon 31.12.2024"),  # a Tuesday
        ("%I:%M %p %d.%m.%Y", "13:05 pm 31.12.2024"),
        ("%d.%m.%Y %z", "31.12.2024 IST"),
        ("%d.%m.%Y %z", "01.01.0001 +01:00"),
        ("unix_s", "31.12.2024"),
        ("unix_s", 1_735_653_900_123),  # the year 56970
        ("unix_s", "1_735_653_900"),
        ("unix_s", "0x10"),
        ("unix_s", "1e999999999"),
        ("unix_s", math.inf),
        ("unix_s", 10**400),
    ],
)
def test_what_does_not_fit_the_format_is_no_time(written: str, value: Any) -> None:
    with pytest.raises(Misuse):
        time_format(written).us(value)


@given(
    at=st.datetimes(dt.datetime(1000, 1, 1), dt.datetime(9999, 12, 31)),
    written=st.sampled_from(
        ["%d.%m.%Y %H:%M:%S.%f", "%Y%m%d%H%M%S%f", "%B %d, %Y %I:%M:%S.%f %p", "%j/%Y %H:%M:%S.%f", "%A %d %b %Y %T.%f"]
    ),
)
def test_what_strftime_writes_is_read_as_it_was(at: dt.datetime, written: str) -> None:
    assert time_format(written).us(at.strftime(written)) == parse_time_us(at)


@given(us=st.integers(parse_time_us("0001-01-01"), parse_time_us("9999-12-31T23:59:59.999999Z")))
def test_counts_of_all_units_are_rounded_down_to_a_microsecond(us: int) -> None:
    assert time_format("unix_us").us(us) == time_format("unix_us").us(str(us)) == us
    assert time_format("unix_ns").us(us * 1_000 + 999) == us
    for name, unit in (("unix_s", 1_000_000), ("unix_ms", 1_000)):
        assert time_format(name).us(us // unit) == us // unit * unit
        assert time_format(name).us(Decimal(us) / unit) == us
        assert time_format(name).us(f"{Decimal(us) / unit:f}") == us


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("", "is not a time format"),
        ("dd.mm.yyyy", "is not a time format"),
        ("unix", "is not a time format"),
        ("iso8601", "is not a time format"),
        (" %Y", "is not a time format"),
        ("%Y%", "in the middle"),
        ("%Q %Y", "%Q is not a directive"),
        ("%Y %Z", "the difference to UTC"),
        ("%d.%m.", "no year"),
        ("%d.%Y", "a day without a month"),
        ("%Y %H", "an hour without a day"),
        ("%d.%m.%Y %I:%M", "%I and %p"),
        ("%d.%m.%Y %S", "without the larger unit"),
        ("%m/%d/%m/%Y", "twice"),
        ("%b %m %d %Y", "twice"),
        ("%Y%m%d%f%H", "digits follow %f"),
        (5, "is not a time format"),
        (["%Y"], "is not a text"),
        ({"at": "%Y", "x": "%Y"}, "Time columns: seen, at"),
        ({"at": None}, "is not a time format"),
    ],
)
def test_a_format_that_is_none_or_has_two_meanings_is_refused_where_it_is_declared(bad: Any, said: str) -> None:
    with pytest.raises(Misuse, match=r"source 's'.*time_format") as raised:
        _source(bad if isinstance(bad, str | dict) else {"at": bad})
    assert said in str(raised.value)


def test_a_text_is_for_every_time_column_and_a_mapping_for_those_it_names() -> None:
    assert _source().declared_formats == dict.fromkeys(("seen", "at"), "%d.%m.%Y %H:%M")
    assert _source({"seen": "unix_s"}).declared_formats == {"seen": "unix_s"}
    assert _source(None).format("at") is None


def test_the_format_changes_neither_the_hash_nor_what_is_stored_of_a_definition() -> None:
    plain, formatted = _source(None), _source()
    assert plain.hash == formatted.hash
    assert b"time_formats" not in msgspec.json.encode(plain)


def test_an_event_is_the_same_whichever_format_its_time_was_written_in() -> None:
    one, other, third = Bench(_source()), Bench(_source(None)), Bench(_source("unix_s"))
    one.ingestor.push("s", [{"id": "a", "at": "31.12.2024 14:05"}])
    other.ingestor.push("s", [{"id": "a", "at": "2024-12-31T14:05:00Z"}])
    third.ingestor.push("s", [{"id": "a", "at": 1_735_653_900}])
    payloads = {bench.log.read(bench.log.partition, 0)[0].payload for bench in (one, other, third)}
    assert len(payloads) == 1


TYPED = [dt.datetime(2024, 12, 31, 14, 5), dt.datetime(2024, 12, 31, 14, 5, tzinfo=dt.UTC), np.datetime64(AT_US, "us")]


@pytest.mark.parametrize("written", ["%d.%m.%Y %H:%M", "%Y%m%d", "unix_s"])
def test_a_time_that_has_a_type_is_itself_under_every_format(written: str) -> None:
    bench = Bench(_source(written))
    rows = [{"id": str(number), "at": value} for number, value in enumerate(TYPED)]
    columns = {"id": ("str", ["c"]), "at": ("time", [AT_US])}
    assert bench.ingestor.push("s", rows).quarantined == 0
    assert bench.ingestor.push("s", Columns.of(columns)).quarantined == 0  # type: ignore[arg-type]  # literals
    assert bench.ingestor.load("s", Columns.of(columns)).quarantined == 0  # type: ignore[arg-type]
    assert {at for _, at in bench.times()} == {AT_US}


def test_the_message_names_column_value_and_format(tmp_path: Path) -> None:
    bench = Bench(_source({"at": "%d.%m.%Y", "seen": "unix_ms"}))
    (problem,) = bench.ingestor.push("s", [{"id": "a", "at": "2024-12-31"}]).problems
    assert (problem.field, problem.reason) == ("at", "bad_time")
    assert problem.found == "'2024-12-31', which does not fit the format '%d.%m.%Y'"
    path = tmp_path / "a.csv"
    path.write_text("id,at,seen\na,31.12.2024,now\n")
    with pytest.raises(Misuse, match=r"line 2, column 'seen': .*'now', which does not fit the format 'unix_ms'"):
        read_rows(path, bench.source)


def test_a_count_too_far_ahead_is_shown_as_the_time_it_is() -> None:
    (problem,) = Bench(_source("unix_s")).ingestor.push("s", [{"id": "a", "at": 4_102_444_800}]).problems
    assert (problem.reason, problem.found) == ("future", "2100-01-01T00:00:00Z")


ROWS: list[dict[str, Any]] = [
    {"id": "rows", "at": "31.12.2024 14:05", "seen": "31.12.2024 14:05", "x": "bad"},
    {"id": "typed", "at": dt.datetime(2024, 12, 31, 14, 5), "seen": dt.date(2024, 12, 31), "x": "bad"},
]


def test_rows_in_quarantine_are_taken_by_a_replay_whatever_their_times_were(tmp_path: Path) -> None:
    bench = Bench(_source())
    bench.ingestor.push("s", ROWS)
    bench.ingestor.take("s", read_rows([{**ROWS[1], "id": "read"}], bench.source, on_error="quarantine"))
    path = tmp_path / "a.csv"
    path.write_text("id,at,seen,x\ncsv,31.12.2024 14:05,31.12.2024 14:05,bad\n")
    bench.ingestor.take("s", read_rows(path, bench.source, on_error="quarantine"))
    columns = {"id": ("str", ["table"]), "at": ("time", [AT_US]), "x": ("str", ["bad"])}
    bench.ingestor.push("s", Columns.of(columns))  # type: ignore[arg-type]  # literals
    late = {"id": ("str", ["late"]), "at": ("time", [NOW_US + 10**12])}
    bench.ingestor.push("s", Columns.of(late))  # type: ignore[arg-type]
    assert len(bench.quarantine.read()) == 6
    assert {type(json.loads(row.row)["at"]) for row in bench.quarantine.read()} == {str}
    replayed = bench.quarantine.replay(bench.ingestor, reason="wrong_type", fix=lambda row: {**row, "x": 1.0})
    assert (replayed.accepted, replayed.quarantined) == (5, 0)
    assert dict(bench.times()) == dict.fromkeys(("rows", "typed", "read", "csv", "table"), AT_US)


def test_the_service_describes_events_with_their_time_formats() -> None:
    described = Described(title="t", version="1", models=[], sources=[_source({"seen": "unix_s"})])
    properties = openapi(described, (*SERVICE, *PROJECT))["components"]["schemas"]["s.event"]["properties"]
    assert "unix_s" in properties["seen"]["description"]
    assert properties["seen"]["anyOf"] == [{"type": "string"}, {"type": "number"}, {"type": "null"}]
    assert properties["at"]["anyOf"][0] == {"type": "string", "format": "date-time"}
