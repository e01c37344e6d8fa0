import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, duration_us, format_moment, moment_us

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
        moment_us(value)


@pytest.mark.parametrize(
    "value", [Broken(), None, True, 1.5, b"2013", [10**5_000], "x" * 10_000, "\ud800"], ids=range(8)
)
def test_what_is_no_moment_is_refused_whatever_it_is(value: Any) -> None:
    with pytest.raises(Misuse, match=r"time: ") as caught:
        moment_us(value)
    assert len(str(caught.value)) < 300


@pytest.mark.fast
@given(st.integers(MIN_US, MAX_US))
def test_a_moment_that_was_taken_can_be_written_and_read_again(us: int) -> None:
    assert moment_us(format_moment(moment_us(us))) == us


@given(st.datetimes(timezones=st.timezones()))
def test_a_datetime_of_any_zone_is_a_moment_within_range_or_refused(moment: dt.datetime) -> None:
    try:
        us = moment_us(moment)
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
    with pytest.raises(Misuse, match="is not one"):
        duration_us(value)


def test_a_moment_and_the_longest_duration_fit_64_bits() -> None:
    assert MAX_US + duration_us("521722w") < 2**63
    assert duration_us("00000000000000000000000000007d") == 7 * DAY_US
