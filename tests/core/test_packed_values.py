from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.columns.column import Dtype, column
from trimtab.core.columns.packed_values import packed_rows_of, packed_values
from trimtab.core.columns.packs import Ragged, pack, unpack

encode = msgspec.msgpack.encode
EDGES = [sign * (1 << bits) + step for sign in (1, -1) for bits in range(63) for step in (-1, 0, 1)]
VALUES: dict[Dtype, st.SearchStrategy[Any]] = {
    "int": st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([*EDGES, -(2**63), 2**63 - 1])),
    "time": st.integers(0, 2**60),
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "str": st.one_of(st.text(max_size=40), st.text("ab", max_size=40), st.sampled_from(["x" * 200, "x" * 70_000])),
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, tuple[Dtype, list[Any]]]:
    rows = draw(st.integers(1, 20))
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=20))
    made: dict[str, tuple[Dtype, list[Any]]] = {}
    for n, dtype in enumerate(kinds):
        value = VALUES[dtype] if draw(st.booleans()) else st.one_of(st.none(), VALUES[dtype])
        made[f"c{n}"] = dtype, draw(st.lists(value, min_size=rows, max_size=rows))
    return made


def pieces(part: Ragged) -> list[bytes]:
    return [part.data[a:b] for a, b in pairwise(accumulate(part.sizes.tolist(), initial=0))]


@pytest.mark.fast
@given(tables())
def test_columns_are_encoded_as_their_values_are(table: dict[str, tuple[Dtype, list[Any]]]) -> None:
    columns = [column(dtype, values) for dtype, values in table.values()]
    for of_column in columns:
        assert pieces(packed_values(of_column)) == [encode(value) for value in of_column.to_list()]
    rows = zip(*(of_column.to_list() for of_column in columns), strict=True)
    packed = pack(len(columns[0]), packed_rows_of(columns))
    assert unpack(packed) == [encode(encode(row)) for row in rows]


@pytest.mark.fast
@given(tables(), st.data())
def test_numbers_that_are_in_another_part_are_stored_once(
    table: dict[str, tuple[Dtype, list[Any]]], data: st.DataObject
) -> None:
    columns = [column(dtype, values) for dtype, values in table.values()]
    floats = [of_column.values for of_column in columns if of_column.dtype == "float"]
    extra = np.full(len(columns[0]), data.draw(st.sampled_from([0.0, -0.0, np.nan, 1.5])))
    matrix = np.ascontiguousarray(np.column_stack([*data.draw(st.permutations(floats)), extra]))
    rows = [encode(encode(row)) for row in zip(*(of_column.to_list() for of_column in columns), strict=True)]
    same = matrix.copy().view(np.uint8)
    packed = pack(len(rows), [same, *packed_rows_of(columns, matrix), b"-", matrix.view(np.uint8)])
    expected = [values.tobytes() + row + b"-" + values.tobytes() for row, values in zip(rows, matrix, strict=True)]
    assert unpack(packed) == expected
    assert unpack(packed, 1, len(rows)) == expected[1:]
    if floats and len(rows) > 5 and all(of_column.valid is None for of_column in columns):
        assert len(packed) < sum(map(len, expected)) + 100  # the head of a pack takes up to about 100 bytes


@pytest.mark.fast
def test_every_size_of_an_integer_is_encoded() -> None:
    of_edges = column("int", EDGES)
    assert pieces(packed_values(of_edges)) == [encode(value) for value in EDGES]
