import datetime as dt
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, ISO_8601, duration_us, format_time, parse_time_us

MIN_US, MAX_US = -62_135_596_800_000_000, 253_402_300_799_999_999


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=12))),
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=12))),
        "9999-12-31T23:59:59-01:00",
        "0001-01-01T00:00:00+01:00",
        MAX_US + 1,
        MIN_US - 1,
        pytest.param(10**5_000, id="huge"),
        pytest.param(-(10**5_000), id="hugely negative"),
    ],
)
def test_a_moment_outside_the_years_1_to_9999_in_utc_is_refused(value: Any) -> None:
    with pytest.raises(Misuse, match="outside the years 1 to 9999"):
        parse_time_us(value)


@pytest.mark.parametrize(
    "value", [Broken(), None, True, 1.5, b"2013", [10**5_000], "x" * 10_000, "\ud800"], ids=range(8)
)
def test_what_is_no_moment_is_refused_whatever_it_is(value: Any) -> None:
    with pytest.raises(Misuse, match=r"time: ") as caught:
        parse_time_us(value)
    assert len(str(caught.value)) < 300


TAKEN = {
    "2024-05-01": "2024-05-01T00:00:00Z",
    "20240501": "2024-05-01T00:00:00Z",
    "2024-05-01T05:06": "2024-05-01T05:06:00Z",
    "2024-05-01 05:06:07,25": "2024-05-01T05:06:07.250000Z",
    "2024-05-01t05:06:07.123456789z": "2024-05-01T05:06:07.123456Z",
    "20240501T050607Z": "2024-05-01T05:06:07Z",
    "2024-05-01 05:06:07 UTC": "2024-05-01T05:06:07Z",
    "2024-05-01 05:06:07 +02:00": "2024-05-01T03:06:07Z",
    "2024-05-01T05:06:07-0530": "2024-05-01T10:36:07Z",
    "1969-12-31 20:00:00-05": "1970-01-01T01:00:00Z",
    " 2024-05-01 ": "2024-05-01T00:00:00Z",
}
REFUSED = """24-05-01|epoch|now|infinity|2024-05-01 00:00 IST|2024-05-01T00:00:00 CET|2024-05-01T24:00
2024-05-01T23:59:60|2024-W18-3|2024-122|2024-05|2024|2024-5-1|2024-05-01T5:06|2024-05-01T05|2024-02-30|2024-13-01|0000-01-01|1714521600
2024/05/01|01.05.2024|May 1, 2024|2024-05-01T05:06:07+24:00|2024-05-01T05:06:07+02:60|2024-05-01T05:06:07 Europe/Berlin
+2024-05-01|12024-05-01|2024-05-01T05:06:07Z[UTC]|2024-05-01x05:06:07|2024-05-01T05:06:07.|\u0662024-05-01|20240501050607|"""

NOT_THERE = ("2024-05-01T23:59:60", "2024-02-30", "2024-13-01", "0000-01-01")


@pytest.mark.fast
@pytest.mark.parametrize(("text", "moment"), TAKEN.items())
def test_texts_of_rfc_3339_and_dates_of_iso_8601_are_moments(text: str, moment: str) -> None:
    assert format_time(parse_time_us(text)) == moment


@pytest.mark.fast
@pytest.mark.parametrize("text", [text for line in REFUSED.splitlines() for text in line.split("|")])
def test_every_other_text_is_none(text: str) -> None:
    needed = "no such day or time" if text in NOT_THERE else "is not ISO 8601"
    with pytest.raises(Misuse, match=needed):
        parse_time_us(text)


LIKE = st.from_regex(
    "[0-9]{2,4}[-/][0-2][0-9]-?[0-3][0-9][T t]?[0-2][0-9]:[0-6][0-9]:[0-6][0-9][.,]?[0-9]{0,8}[Z+-]?.{0,6}"
)


@given(LIKE | st.from_regex(ISO_8601, fullmatch=True))
def test_a_text_that_looks_like_a_moment_is_one_by_the_grammar_alone(text: str) -> None:
    try:
        parse_time_us(text)
    except Misuse:
        return
    assert re.fullmatch(ISO_8601, text.strip())


@pytest.mark.fast
@given(st.integers(MIN_US, MAX_US))
def test_a_moment_that_was_taken_can_be_written_and_read_again(us: int) -> None:
    assert parse_time_us(format_time(parse_time_us(us))) == us


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_of_any_zone_is_a_moment_within_range_or_refused(moment: dt.datetime) -> None:
    try:
        us = parse_time_us(moment)
    except Misuse:
        return
    assert MIN_US <= us <= MAX_US


@pytest.mark.parametrize(
    "value",
    ["1000000000d", f"{2**63}us", "9" * 5_000 + "d", MAX_US - MIN_US + 2, 10**5_000, -(10**5_000), -1],
    ids=range(7),
)
def test_a_duration_that_no_moment_could_be_moved_by_is_refused(value: Any) -> None:
    with pytest.raises(Misuse, match=r"is longer than the years 1 to 9999|is negative") as caught:
        duration_us(value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [Broken(), None, True, 1.5, "", "1 year", "-1d", "1e3s"])
def test_what_is_no_duration_is_refused_whatever_it_is(value: Any) -> None:
    with pytest.raises(Misuse, match="is not a duration"):
        duration_us(value)


def test_a_moment_and_the_longest_duration_fit_64_bits() -> None:
    assert MAX_US + duration_us("521722w") < 2**63
    assert duration_us("00000000000000000000000000007d") == 7 * DAY_US
