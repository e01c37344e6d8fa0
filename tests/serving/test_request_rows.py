"""Bodies of requests: times as people write them, and errors of other forms."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import msgspec
import numpy as np
import pytest

from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.events.definitions import Time
from trimtab.events.values.fitting import fit_rows
from trimtab.features.definitions import request
from trimtab.serving.answer.request_rows import RequestRows, rows_of_table
from trimtab.serving.problems import InvalidField

pytestmark = pytest.mark.fast


def test_a_date_is_a_time_in_a_request_as_in_an_event() -> None:
    columns: dict[str, Any] = {"id": str, "x": float, "at": Time}
    rows = RequestRows(request("visit", key="id", time="at", columns=columns))
    day_us = parse_time_us("2026-11-25")
    asked = rows.decode(b'{"request": {"id": "a", "x": 1, "at": "2026-11-25"}, "at": "2026-11-25"}')
    assert (asked.at_us, asked.rows) == (day_us, [{"id": "a", "x": 1.0, "at": day_us}])
    one, other = (b'{"id": "a", "x": 1, "at": "2026-11-25%s"}' % rest for rest in (b"T00:00:00Z", b" 00:00"))
    many = rows.decode(b'{"rows": [%s, %s]}' % (one, other))
    assert [row["at"] for row in many.rows] == [day_us, day_us]
    for value in ("2026-11-25", dt.date(2026, 11, 25)):
        assert rows.check([{"id": "a", "x": 1, "at": value}])[0]["at"] == day_us


def test_a_key_is_made_and_a_constant_filled_in_as_in_files() -> None:
    columns: dict[str, Any] = {"row_id": str, "site": str, "who": int, "at": Time, "series": str}
    made = request(
        "visit",
        key="row_id",
        time="at",
        columns=columns,
        key_of=["site", "who", "at"],
        constants={"series": "all"},
        nulls=["-"],
    )
    rows, at = RequestRows(made), "2026-11-25T00:00:00Z"
    bare = {"site": "a|b", "who": 7.0, "at": at}
    (file,) = fit_rows("rows", made.source, [bare]).columns.to_rows()
    assert (file["row_id"], file["series"]) == (rf"a\|b|7|{at}", "all")
    for given in (bare, {**bare, "row_id": None, "series": None}):
        assert rows.decode(msgspec.json.encode({"request": given})).rows == [file]
        assert rows.check([given]) == [file]
    assert rows.check([{**bare, "row_id": "own"}])[0]["row_id"] == "own"
    with pytest.raises(InvalidField, match=r"\$\.request\.row_id: the key is made of site, who, at, and one of them"):
        rows.decode(msgspec.json.encode({"request": {**bare, "site": None}}))


def test_a_whole_number_may_be_written_as_a_float() -> None:
    rows = RequestRows(request("visit", key="id", time="at", columns={"id": str, "n": int, "at": Time}))
    whole = {"id": "a", "n": 2.0, "at": "2026-11-25"}
    for given in (whole, {**whole, "n": np.float64(2.0)}):
        assert rows.check([given])[0]["n"] == 2
    assert rows.decode(msgspec.json.encode({"rows": [whole, {**whole, "n": 1e2}]})).rows[1]["n"] == 100
    with pytest.raises(InvalidField, match=r"Found: 2.5. Needed: a 64-bit integer"):
        rows.decode(msgspec.json.encode({"request": {**whole, "n": 2.5}}))
    for bad in (2.5, 1e30):
        with pytest.raises(InvalidField):
            rows.check([{**whole, "n": bad}])


@pytest.mark.parametrize("text", ["2024-01-07T23:59:59.9999996Z", "2024-01-07 23:59:59,12345678901+02:00"])
def test_what_is_finer_than_a_microsecond_is_cut_off_wherever_it_stands(text: str) -> None:
    """It was rounded, alone, and cut off where another row had a date: another day, for one."""
    columns: dict[str, Any] = {"id": str, "x": float, "at": Time, "due": Time}
    rows = RequestRows(request("visit", key="id", time="at", columns=columns))
    fine = {"id": "a", "x": 12.1234567, "at": text, "due": text}
    plain = {"id": "b", "x": 1.0, "at": "2024-01-08", "due": None}
    cut_us = parse_time_us(text)
    expected = {**fine, "at": cut_us, "due": cut_us}
    asked = rows.decode(msgspec.json.encode({"request": fine, "at": text}))
    assert (asked.rows, asked.at_us) == ([expected], cut_us)
    assert rows.decode(msgspec.json.encode({"rows": [fine, plain]})).rows[0] == expected
    assert rows.check([fine]) == [expected]
    unchanged = {**fine, "at": "2024-01-07T12:00:12.5Z", "due": 1_700_000_000_123_456}
    assert rows.decode(msgspec.json.encode({"request": unchanged})).rows[0]["x"] == 12.1234567


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"row": {}}', r'not a field of the body. Send {"request": '),
        (b"[3]", r'got array. Send {"request": '),
        (b'{"request": [3]}', r"Found: \[3\]. Needed: an object"),
        (b'{"rows": {}}', "Needed: a list of objects"),
        (b'{"request": [}}', "body: not JSON at byte 13 of 15"),
        (b'{"rows": [{"id": 7, "x": }]}', "body: not JSON at byte 25 of 28"),
        (b'{"rows": [], "at": "gestern"}', "at: not a time. Found: 'gestern'. Needed: ISO 8601 text"),
        (b'{"rows": [{"id": "a", "x": "2026-11-25", "at": "2026-11-25"}]}', "Needed: a number"),
    ],
)
def test_a_body_of_another_form_is_told_the_form(body: bytes, said: str) -> None:
    columns: dict[str, Any] = {"id": str, "x": float, "at": Time}
    with pytest.raises(Misuse, match=said):
        RequestRows(request("visit", key="id", time="at", columns=columns)).decode(body)


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
@pytest.mark.parametrize("field", ["x", "n"])
@pytest.mark.parametrize("at", ["2026-11-25", "2026-11-25T00:00:00Z", "25.11.2026"])
def test_a_number_that_is_too_large_is_named_with_its_row(number: str, field: str, at: str) -> None:
    """Dates and other texts of times are read a second time, as plain JSON."""
    columns: dict[str, Any] = {"id": str, "x": float, "n": int, "at": Time}
    rows = RequestRows(request("visit", key="id", time="at", columns=columns, time_format={"at": "%d.%m.%Y"}))
    row = {"id": "a", "x": 1.5, "n": 2, "at": at}
    body = msgspec.json.encode({"rows": [row, {**row, field: 77}, row]}).replace(b"77", number.encode())
    with pytest.raises(InvalidField, match=rf"^\$\.rows\[1\]\.{field}: .*Found: -?inf. Needed: a") as refused:
        rows.decode(body)
    assert (refused.value.field, refused.value.pointer) == (field, f"$.rows[1].{field}")


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (b"", "not JSON at byte"),
        (b"}}, 3", "not JSON at byte"),
        (b',"x":\xff', "not JSON|not UTF-8"),
        (b',"x":"\xff"}}', "not UTF-8"),
        (b',"x":' + b"[" * 100_000, "nested too deeply"),
        (b',"x":1e}}', "not JSON at byte"),
    ],
)
@pytest.mark.parametrize("begin", [b'{"request":{"id":"a","at":"2013-01-01"', b'{"rows":[{"id":"a","at":"2013-01-01"'])
def test_a_body_cut_off_behind_a_time_is_refused(begin: bytes, rest: bytes, said: str) -> None:
    """A date is read a second time, as plain JSON: what follows it is not known yet."""
    columns: dict[str, Any] = {"id": str, "x": float, "at": Time}
    with pytest.raises(Misuse, match=said):
        RequestRows(request("visit", key="id", time="at", columns=columns)).decode(begin + rest)


def test_what_is_no_text_in_utf8_is_refused_from_python_as_from_json() -> None:
    rows = RequestRows(request("visit", key="id", time="at", columns={"id": str, "kind": str, "at": Time}))
    given = {"id": "é😀\0", "kind": None, "at": 0}
    assert rows.check([given]) == [given]
    for name, needed in (("id", "Needed: a text."), ("kind", "Needed: a text, or null.")):
        with pytest.raises(InvalidField, match=re.escape(rf"Found: 'a\ud800'. {needed}")) as caught:
            rows.check([given, {**given, name: "a\ud800"}])
        assert (caught.value.field, caught.value.pointer) == (name, f"rows[1].{name}")


VISIT = request("visit", key="id", time="at", columns={"id": str, "at": Time, "born": Time})
NOON = 1_764_000_000_000_000
FORMS = "ISO 8601 text (a date means midnight UTC) or UTC microseconds"


@pytest.mark.parametrize(("value", "unit"), [(NOON // 10**6, "seconds"), (NOON // 1_000, "milliseconds")])
@pytest.mark.parametrize("field", ["at", "born"])
def test_integers_that_count_seconds_or_milliseconds_are_no_times(field: str, value: int, unit: str) -> None:
    rows = RequestRows(VISIT, lambda: NOON)
    row = {"id": "a", "at": NOON, "born": None, field: value}
    with pytest.raises(InvalidField) as refused:
        rows.decode(msgspec.json.encode({"request": row}))
    said = f"{value}, which as microseconds lies in 1970 and looks like {unit}. Needed: {FORMS}."
    assert str(refused.value) == f"$.request.{field}: {said}"
    assert (refused.value.field, refused.value.pointer) == (field, f"$.request.{field}")
    for given in (value, np.int64(value)):
        with pytest.raises(InvalidField, match=rf"rows\[0\]\.{field}: .* looks like {unit}"):
            rows.check([{**row, field: given}])
    with pytest.raises(InvalidField, match=rf"[$]\.at: .* looks like {unit}"):
        rows.decode(msgspec.json.encode({"request": {**row, field: NOON}, "at": value}))
    assert RequestRows(VISIT, lambda: 10).check([row])[0][field] == value  # a clock of a test


def test_texts_and_timestamps_of_1970_are_times() -> None:
    rows, us = RequestRows(VISIT, lambda: NOON), 14 * DAY_US
    texts = ("1970-01-15", "1970-01-15T00:00:00Z", "1970-01-15T00:00")
    for text in texts:
        body = msgspec.json.encode({"request": {"id": "a", "at": text, "born": text}, "at": text})
        asked = rows.decode(body)
        assert (asked.rows, asked.at_us) == ([{"id": "a", "at": us, "born": us}], us)
    day = dt.datetime(1970, 1, 15, tzinfo=dt.UTC)
    for moment in (*texts, day, day.date()):
        assert rows.check([{"id": "a", "at": moment, "born": None}])[0]["at"] == us
    table = Columns(
        {"id": column("str", ["a", "b"]), "at": column("time", [us, NOON]), "born": column("time", [None, us])}
    )
    assert rows.check(rows_of_table(table)) == table.to_rows()
    counted = Columns({**table.by_name, "at": column("int", [NOON // 1_000, NOON])})
    with pytest.raises(InvalidField, match="looks like milliseconds"):
        rows.check(rows_of_table(counted))


class Text(str):
    """As NumPy's and those of enumerations are: of a kind of its own."""


class Moment(dt.datetime):
    """As pandas' is."""


def test_subclasses_of_texts_and_times_are_accepted() -> None:
    rows = RequestRows(request("visit", key="id", time="at", columns={"id": str, "site": str, "at": Time}))
    day_us = parse_time_us("2026-11-25")
    moments: list[Any] = [
        Moment(2026, 11, 25), Moment(2026, 11, 25, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        np.datetime64("2026-11-25", "ns"), np.datetime64("2026-11-25", "s"),
    ]  # fmt: skip
    for text in (np.str_("a"), Text("a"), np.str_("\u00e4"), Text("\u00e4")):
        for moment in moments:
            (row,) = rows.check([{"id": text, "site": text, "at": moment}])
            assert row == {"id": str(text), "site": str(text), "at": day_us}
            assert (type(row["id"]), type(row["site"])) == (str, str)
    with pytest.raises(InvalidField, match="got null"):
        rows.check([{"id": "a", "site": "b", "at": np.datetime64("NaT", "ns")}])
