"""Hashes of requests without their id and time, against those of the decoded columns."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.monitoring.profiles.question_hashes import question_hashes

pytestmark = pytest.mark.fast
LONG = ("x" * 31, "x" * 32, "y" * 255, "y" * 256, "z" * 65_536)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 127, 128, 255, 256, 65_535, 65_536, 2**32, -1, -32, -33, -129, -32_769, -(2**31) - 1]),
    st.floats(allow_nan=False).filter(lambda x: x != 0.0),
    st.text(max_size=3),
    st.sampled_from(LONG),
)


@given(st.data())
def test_requests_have_the_same_hash_if_their_questions_are_the_same(data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 20))
    aside = data.draw(st.sets(st.integers(0, width - 1), max_size=2))
    pool = data.draw(st.lists(values, min_size=1, max_size=2))
    column = st.lists(st.sampled_from(pool), min_size=width, max_size=width)
    rows = data.draw(st.lists(column, min_size=1, max_size=12))
    for row in rows:
        for place in aside:
            row[place] = data.draw(values)
    found = question_hashes([msgspec.msgpack.encode(row) for row in rows], aside).tolist()
    questions = [msgspec.msgpack.encode([v for place, v in enumerate(row) if place not in aside]) for row in rows]
    same = [[one == other for other in questions] for one in questions]
    assert [[one == other for other in found] for one in found] == same


def test_requests_of_another_form_are_hashed_whole() -> None:
    encode = msgspec.msgpack.encode
    short, odd, usual = encode(["a"]), encode([{"a": 1}, 2, 3.0]), encode(["a", 5, 3.0])
    found = question_hashes([short, odd, usual, short, odd, encode(["b", 6, 3.0])], {0, 1}).tolist()
    assert found == [found[0], found[1], found[2], *found[:3]]
    assert len(set(found)) == 3
    assert question_hashes([], {0}).tolist() == []
