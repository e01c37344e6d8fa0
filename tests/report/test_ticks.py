import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.report.ticks import number_ticks, time_ticks, utc


def us(*parts):
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000


@given(st.floats(-1e12, 1e12), st.floats(0, 1e9) | st.floats(0, 1e300))
def test_number_ticks_cover_the_range_in_few_equal_steps(low, span):
    high = low + span
    ticks = number_ticks(low, high)
    tolerance = 1e-6 * max(abs(low), abs(high), 1e-300)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low + tolerance
    assert ticks[-1] >= high - tolerance
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3, abs=1e-9)


@given(st.integers(0, us(2090, 1, 1)), st.integers(0, 40 * 366 * 86_400_000_000))
def test_time_ticks_lie_inside_in_order_and_are_few(low, span):
    ticks = time_ticks(low, low + span)
    times = [at for at, _ in ticks]
    assert all(low <= at <= low + span for at in times)
    assert times == sorted(set(times))
    assert len(times) <= 8
    assert all(at % 1_000_000 == 0 for at in times)


@pytest.mark.fast
def test_labels_name_the_day_and_the_year_where_they_change():
    assert [label for _, label in time_ticks(us(2013, 7, 1, 22), us(2013, 7, 2, 2), most=5)] == [
        "1 Jul 22:00",
        "23:00",
        "2 Jul 00:00",
        "01:00",
        "02:00",
    ]
    assert [label for _, label in time_ticks(us(2013, 12, 30), us(2014, 1, 2), most=4)] == [
        "30 Dec 2013",
        "31 Dec",
        "1 Jan 2014",
        "2 Jan",
    ]


def test_week_ticks_are_mondays():
    assert {utc(at).weekday() for at, _ in time_ticks(us(2013, 7, 1), us(2013, 8, 20))} == {0}


def test_a_long_span_gets_years():
    assert next(label for _, label in time_ticks(us(2001, 1, 1), us(2031, 1, 1))) == "Jan 2005"


def test_equal_values_are_drawn_over_an_axis_from_zero():
    assert number_ticks(1.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert number_ticks(0.0, 0.0)[0] < 0.0 < number_ticks(0.0, 0.0)[-1]


def test_ends_out_of_order_are_refused():
    with pytest.raises(Misuse, match="in order"):
        number_ticks(2.0, 1.0)
    with pytest.raises(Misuse, match="in order"):
        time_ticks(2, 1)
