"""Tables whose long texts are broken so that lines fit on the page."""

from hypothesis import given
from hypothesis import strategies as st

from trimtab.report.tables import Table, terminal_table

WORDS = st.lists(st.text("ab", min_size=1, max_size=9), max_size=30).map(" ".join)


@given(st.lists(st.tuples(st.just("2024-01-01"), WORDS, WORDS), min_size=1, max_size=5))
def test_long_texts_are_broken_between_words_and_nothing_is_lost(rows: list[tuple[str, str, str]]) -> None:
    headers = ("when", "scenario", "reason")
    plain = terminal_table(Table(headers=headers, rows=tuple(rows)))
    text = terminal_table(Table(headers=headers, rows=tuple(rows), wraps=True))
    assert max(map(len, text.splitlines())) <= 100
    assert sorted(plain.replace("-", "").split()) == sorted(text.replace("-", "").split())
    if max(map(len, plain.splitlines())) <= 100:
        assert text == plain
