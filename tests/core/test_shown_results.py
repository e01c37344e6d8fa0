"""Results and tables show themselves on lines that fit on a screen."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.columns import Columns
from trimtab.core.shown import Shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


class Result(Shown, msgspec.Struct, frozen=True):
    """A result of anything."""

    name: Any
    values: Any = None
    inner: Any = None


class Said(Shown, msgspec.Struct, frozen=True):
    """A result with a text for people."""

    words: str

    def lines(self) -> list[str]:
        return ["a result:", f"  {self.words}"]


def widest(value: object) -> int:
    return max(map(len, repr(value).split("\n")))


@given(VALUES, VALUES, VALUES)
def test_a_result_is_at_most_a_hundred_characters_wide(one: Any, two: Any, three: Any) -> None:
    found = Result(one, two, Result(three))
    assert widest(found) <= 100
    assert widest([found]) <= 100
    if len(whole := msgspec.Struct.__repr__(Result(one))) <= 97 and "\n" not in whole:
        assert repr(Result(one)) == whole


def test_a_long_result_names_each_field_and_what_it_holds() -> None:
    found = Result("x" * 200, list(range(300)), np.zeros((300, 2)))
    assert repr(found) == (
        f"Result(\n    name='{'x' * 86}…\n    values=list of 300 int\n    inner=array of float64, shape (300, 2)\n)"
    )


@given(st.text(alphabet="ab ", min_size=100, max_size=400))
def test_a_text_for_people_is_wrapped(words: str) -> None:
    assert widest(Said(words)) <= 100
    assert "".join(repr(Said(words)).split()) == "".join(f"aresult:{words}".split())


@given(st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=40), min_size=1, max_size=30, unique=True))
def test_a_table_is_at_most_a_hundred_characters_wide(names: list[str]) -> None:
    table = Columns.of({name: ("str", [name * 2]) for name in names})
    assert widest(table) <= 100
    assert repr(table).startswith(f"1 row x {len(names)} column")
