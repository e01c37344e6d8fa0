"""Tables from other libraries and back, in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import arro3.core as arro3
import duckdb
import numpy as np
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.columns.data import Columns, WrongColumn, read_arrow
from trimtab.core.errors import Misuse

ALL: dict[str, tuple[Any, list[Any]]] = {
    "x": ("float", [1.5, None, 0.0]),
    "n": ("int", [2**63 - 1, None, -1]),
    "ok": ("bool", [True, None, False]),
    "who": ("str", ["é\0", None, ""]),
    "at": ("time", [-1, None, 1]),
}


def shown(table: Columns) -> dict[str, tuple[str, list[Any]]]:
    return {name: (column.dtype, column.to_list()) for name, column in table.by_name.items()}


def test_a_table_goes_out_and_comes_back() -> None:
    table = Columns.of(ALL)
    assert shown(Columns.from_arrow(table)) == ALL
    empty = table.take(slice(0, 0))
    assert shown(Columns.from_arrow(empty)) == {name: (dtype, []) for name, (dtype, _) in ALL.items()}
    assert arro3.Schema.from_arrow(table).names == list(ALL)
    with pytest.raises(Misuse, match="column 'who': a text cannot be encoded as UTF-8"):
        arro3.Table.from_arrow(Columns.of({"who": ("str", ["\ud800"])}))


def test_a_query_of_duckdb_is_a_table_and_takes_one() -> None:
    table = Columns.of(ALL)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", table)
        assert shown(Columns.from_arrow(connection.sql("SELECT * FROM given"))) == ALL
        found = Columns.from_arrow(
            connection.sql(
                "SELECT 0.1::FLOAT AS f, sum(n::HUGEINT) AS s, 1.05::DECIMAL(5, 2) AS d, 'b'::ENUM('a', 'b') AS e, "
                "DATE '1960-01-01' AS day, 'nan'::DOUBLE AS nan FROM given WHERE n < 0"
            )
        )
    assert found.to_rows() == [
        {"f": float(np.float32(0.1)), "s": -1, "d": 1.05, "e": "b", "day": -315_619_200_000_000, "nan": None}
    ]


def test_slices_and_chunks_are_read_where_they_lie() -> None:
    values = [None if i % 5 == 0 else i for i in range(50)]
    texts = [None if v is None else "x" * (v % 20) for v in values]
    flags = [None if v is None else v % 2 == 0 for v in values]
    whole = arro3.Table.from_pydict(
        {
            "v": arro3.Array(values, arro3.DataType.int16()),
            "s": arro3.Array(texts, arro3.DataType.string()),
            "sv": arro3.Array(texts, arro3.DataType.string()).cast(arro3.DataType.string_view()),
            "b": arro3.Array(flags, arro3.DataType.bool()),
        }
    )
    for start, size in [(0, 50), (3, 11), (13, 1), (49, 1), (7, 0)]:
        rows = Columns.from_arrow(whole.slice(start, size)).to_rows()
        assert [row["v"] for row in rows] == values[start : start + size]
        assert [row["s"] for row in rows] == [row["sv"] for row in rows] == texts[start : start + size]
        assert [row["b"] for row in rows] == flags[start : start + size]
    batches = [batch for start in (0, 20, 35) for batch in whole.slice(start, 15).to_batches()]
    assert Columns.from_arrow(arro3.Table.from_batches(batches))["v"].to_list() == values[:15] + values[20:50]
    assert Columns.from_arrow(batches[0])["v"].to_list() == values[:15]


_SHORT = st.text("ab01", max_size=12)


@given(
    st.lists(_SHORT, max_size=20),
    st.lists(st.one_of(_SHORT, st.sampled_from([None, "", "\0", "a\0", "é", "x" * 12, "x" * 13])), max_size=2),
    st.integers(0, 3),
)
def test_texts_are_read_as_they_are(short: list[str], others: list[str | None], start: int) -> None:
    texts = [*short, *others]
    plain = arro3.Array(texts, arro3.DataType.string())
    for array in (plain, plain.cast(arro3.DataType.string_view()), plain.cast(arro3.DataType.large_string())):
        found = Columns.from_arrow(arro3.Table.from_pydict({"s": array}).slice(min(start, len(texts))))["s"]
        assert found.to_list() == texts[start:]
        assert {type(text) for text in found.to_list()} <= {str, type(None)}


class Pretender:
    """Says that it has data."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (arro3.Array([1, 2], arro3.DataType.int64()), "cannot be converted to an Arrow table"),
        (5, "cannot be converted to an Arrow table"),
        (Pretender(ImportError("no module pyarrow")), "through a package that is not installed"),
        (Pretender(RuntimeError("never mind")), "never mind"),
    ],
)
def test_what_is_no_table_is_said(given: object, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        Columns.from_arrow(given)


def test_names_that_come_twice_are_refused_and_row_numbers_left_out() -> None:
    one = arro3.Array([1], arro3.DataType.int64())
    with pytest.raises(Misuse, match="column 'x' comes twice"):
        Columns.from_arrow(arro3.Table.from_arrays([one, one], names=["x", "x"]))
    table = arro3.Table.from_arrays([one, one], names=["x", "__index_level_0__"])
    assert read_arrow(table).names == Columns.from_arrow(table).names == ("x",)


def test_polars_takes_a_table_and_gives_one() -> None:
    assert shown(Columns.from_arrow(polars.DataFrame(Columns.of(ALL)))) == ALL


def test_pyarrow_takes_a_table_and_gives_one() -> None:
    assert shown(Columns.from_arrow(pyarrow.table(Columns.of(ALL)))) == ALL


def test_pandas_gives_a_table_without_the_numbers_of_its_rows() -> None:
    frame = pandas.DataFrame({"x": [1.5, None], "c": pandas.Categorical(["a", None])}, index=[7, 3])
    assert shown(Columns.from_arrow(frame)) == {"x": ("float", [1.5, None]), "c": ("str", ["a", None])}


@pytest.mark.parametrize("library", [polars.DataFrame, pandas.DataFrame, pyarrow.table])
def test_a_column_of_nulls_alone_is_taken(library: Callable[..., object]) -> None:
    assert Columns.from_arrow(library({"x": [None, None]})).to_rows() == [{"x": None}] * 2
    assert Columns.from_arrow(library({"x": []})).rows == 0


def test_extension_types_are_read_right_or_refused_by_name() -> None:
    made = uuid.UUID(int=7)
    frame = pandas.DataFrame({"x": [made, None]})
    assert Columns.from_arrow(frame).to_rows() == [{"x": str(made)}, {"x": None}]
    with pytest.raises(WrongColumn, match=r"column 'x' holds values of the Arrow extension type 'pandas.period'"):
        Columns.from_arrow(pandas.DataFrame({"x": pandas.period_range("2024-01", periods=2, freq="M")}))
    with pytest.raises(
        Misuse, match=r"column 'x' of the pandas DataFrame holds int and str; a column needs a single type"
    ):
        Columns.from_arrow(pandas.DataFrame({"x": [1, "a"]}))
