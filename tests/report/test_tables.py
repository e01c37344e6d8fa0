import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.report import Link, Table, html_table, text_table

cells = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | st.text(max_size=8)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[cells] * n), max_size=6).map(lambda rows: (n, rows))))
def test_a_text_table_has_one_line_a_row_and_nothing_that_steers_a_terminal(shape):
    columns, rows = shape
    text = text_table([f"h{i}" for i in range(columns)], rows)
    lines = text.split("\n")
    assert len(lines) == len(rows) + 2
    assert all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


@pytest.mark.fast
def test_numbers_stand_right_words_left_and_wide_characters_keep_the_columns():
    found = text_table(["city", "rows", "note"], [["東京", 336776, None], ["New York", 5, "x\ny"]])
    assert found == ("city         rows  note\n--------  -------  ----\n東京      336,776  –\nNew York        5  x y")


def test_a_stated_side_wins():
    assert text_table(["a"], [["xyz"], ["b"]], align=["right"]) == "  a\n---\nxyz\n  b"


def test_html_cells_are_escaped():
    markup = html_table(Table(headers=("<i>",), rows=(("<script>&\"'",),), caption="a<b"))
    assert "<script>" not in markup
    assert "&lt;script&gt;&amp;&quot;&#x27;" in markup
    assert "<caption>a&lt;b</caption>" in markup


def test_a_moment_or_an_address_is_not_broken_and_a_sentence_is():
    markup = html_table(Table(headers=("when", "why"), rows=(("2013-03-01 10:00", "a long way"), ("f" * 64, "short"))))
    assert '<td class="left whole">2013-03-01 10:00</td><td class="left">a long way</td>' in markup
    assert f'<td class="left">{"f" * 64}</td><td class="left whole">short</td>' in markup


def test_a_ragged_table_is_refused():
    with pytest.raises(Misuse, match="row 1 has 1 cells under 2 headers"):
        Table(headers=("a", "b"), rows=(("1", "2"), ("3",)))
    with pytest.raises(Misuse, match="1 alignments for 2 headers"):
        Table(headers=("a", "b"), rows=(), align=("left",))


def test_a_link_leads_somewhere_in_html_and_is_text_elsewhere() -> None:
    table = Table(headers=("model",), rows=((Link("a<b", "/v1/models/a/page"),),))
    assert '<a href="/v1/models/a/page">a&lt;b</a>' in html_table(table)
    assert text_table(table.headers, table.rows) == "model\n-----\na<b"
