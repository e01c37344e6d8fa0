"""Rows that are as they should be already are taken by a shorter way, which gives what the longer one gives."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.features.definitions import Request, request
from trimtab.serving.answer.plain_rows import EARLY_US, YEAR_9999_US, plain_check
from trimtab.serving.answer.request_rows import RequestRows

pytestmark = pytest.mark.fast

AT = 1_700_000_000_000_000
COLUMNS = {"id": str, "from": float, "n": int, "ok": bool, "text": str, "back at": dt.datetime}
VISIT = request("visit", key="id", time="at", columns=COLUMNS)
RULED = request("visit", key="id", time="at", columns=COLUMNS, nulls=["-", "x"], number_format={"n": "1.234"})
COUNTED = request("counted", key="n", time="at", columns={"n": int})
GOOD = {"id": "a", "from": 1.5, "n": 3, "ok": True, "text": "x", "back at": AT, "at": AT}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.sampled_from([0, -1, EARLY_US, EARLY_US - 1, YEAR_9999_US, YEAR_9999_US + 1]),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
    st.floats(),
    st.sampled_from([1e150, -1e150, math.nextafter(1e150, math.inf), -0.0]),
    st.text(max_size=3),
    st.sampled_from(["2024-01-01", "\ud800", b"a", [], {}]),
    st.datetimes(timezones=st.sampled_from([None, dt.UTC])),
)


def by_the_longer_way(definition: Request, row: Any) -> Any:
    rows = RequestRows(definition, lambda: AT)
    rows.plain = lambda row: None
    try:
        return rows.check([row])[0]
    except Misuse:
        return None


def test_a_good_row_is_taken_in_declared_order_and_is_a_new_one() -> None:
    given = dict(reversed(GOOD.items()))
    found = plain_check(VISIT)(given)
    assert found == GOOD
    assert found is not None
    assert list(found) == list(VISIT.columns)
    assert found is not given


@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), VALUES, max_size=3), st.sets(st.sampled_from([*GOOD])))
def test_what_it_takes_the_longer_way_takes_as_well_and_gives_the_same(
    changes: dict[str, Any], missing: set[str]
) -> None:
    row = {name: value for name, value in (GOOD | changes).items() if name not in missing or name in changes}
    found = plain_check(VISIT)(row)
    if found is not None:
        there = by_the_longer_way(VISIT, row)
        assert repr(found) == repr(there)  # -0.0 and the types, too


@pytest.mark.parametrize("word", ["-", " X ", "xx"])
@pytest.mark.parametrize("column", ["id", "text"])
def test_declared_words_for_null_are_left_to_the_longer_way(column: str, word: str) -> None:
    row = {**GOOD, "text": None, column: word}
    assert plain_check(VISIT)(row) == row
    found = plain_check(RULED)({**GOOD, "id": "a", "text": None, column: word})
    assert found == (row if word == "xx" else None)
    longer = by_the_longer_way(RULED, row)
    assert longer == (row if word == "xx" else None if column == "id" else {**row, "text": None})


@given(VALUES, VALUES)
def test_keys_that_are_numbers(n: Any, at: Any) -> None:
    found = plain_check(COUNTED)({"n": n, "at": at})
    if found is not None:
        assert repr(found) == repr(by_the_longer_way(COUNTED, {"n": n, "at": at}))


@pytest.mark.parametrize(
    "row",
    [
        {**GOOD, "id": ""},
        {**GOOD, "id": None},
        {**GOOD, "at": None},
        {**GOOD, "from": math.nan},
        {**GOOD, "n": True},
        {**GOOD, "ok": 1},
        {**GOOD, "more": 1},
        [GOOD],
        None,
    ],
)
def test_what_needs_more_than_a_look_is_left_to_the_longer_way(row: Any) -> None:
    assert plain_check(VISIT)(row) is None


@pytest.mark.parametrize("column", ["from", "n", "ok", "text", "back at"])
def test_null_is_taken_where_it_may_be(column: str) -> None:
    row = {**GOOD, column: None}
    assert plain_check(VISIT)(row) == row
