from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Corrupt
from trimtab.training.data.parquet import columns_hash, read_parquet, write_parquet

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
VALUES = {
    "float": st.floats(-1e150, 1e150, allow_nan=False).map(lambda v: v + 0.0),
    "int": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "str": texts,
    "time": st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
}


@st.composite
def tables(draw: st.DrawFn) -> Columns:
    rows = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(["a", "b.c", 'd"e', "F"]), min_size=1, max_size=4, unique_by=str.lower))
    columns = {}
    for name in names:
        dtype = draw(st.sampled_from(sorted(VALUES)))
        columns[name] = (dtype, draw(st.lists(st.none() | VALUES[dtype], min_size=rows, max_size=rows)))
    return Columns.of(columns)


@settings(max_examples=25, deadline=None)
@given(tables())
def test_a_table_comes_back_with_its_values_types_and_nulls(table: Columns) -> None:
    data = write_parquet(table)
    back = read_parquet(data)
    assert back.names == table.names
    assert [c.dtype for c in back.by_name.values()] == [c.dtype for c in table.by_name.values()]
    assert [c.to_list() for c in back.by_name.values()] == [c.to_list() for c in table.by_name.values()]
    assert columns_hash(back) == columns_hash(table)
    assert write_parquet(table) == data


@given(tables(), tables())
def test_only_equal_tables_have_equal_hashes(one: Columns, other: Columns) -> None:
    def said(table: Columns) -> list[object]:
        return [(name, c.dtype, c.to_list()) for name, c in table.by_name.items()]

    assert (columns_hash(one) == columns_hash(other)) == (said(one) == said(other))


def test_the_hash_of_a_table_stays_what_it_was() -> None:
    table = Columns.of({"s": ("str", ["a", None, "", "ä€", "bc"]), "x": ("float", [1.5, None, 0.0, 2.0, -1.0])})
    assert columns_hash(table) == "9a356d9a97a4826df91d1058ae78669d4f9f306d5bd27a6d027fa5e4929c9304"


@pytest.mark.parametrize("texts", [(["a", "bc"], ["ab", "c"]), (["", "a"], ["a", ""]), (["é", "x"], ["éx", ""])])
def test_texts_with_different_boundaries_have_different_hashes(texts: tuple[list[str], list[str]]) -> None:
    one, other = (columns_hash(Columns.of({"s": ("str", values)})) for values in texts)
    assert one != other


def test_bytes_that_are_no_table_are_named() -> None:
    with pytest.raises(Corrupt, match="7 bytes"):
        read_parquet(b"PAR1xyz")
