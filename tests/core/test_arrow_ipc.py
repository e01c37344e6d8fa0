"""Arrow's files and streams of bytes: read as their writers meant them, and bounded whatever they hold.

`arrow_files` holds what pyarrow 26, polars 2 and pandas wrote.
"""

from __future__ import annotations

import io
import random
import sys
from contextlib import nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pytest
from arro3.io import read_ipc_stream as read_by_arro3
from hypothesis import given
from hypothesis import strategies as st

import arrow_bombs
from trimtab.core.columns.arrow_ipc import (
    NoPyarrow,
    TooLarge,
    TooManyRows,
    read_ipc,
    read_ipc_file,
    write_ipc_stream,
)
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse

FILES = Path(__file__).parent / "arrow_files"
BAD = {"list": "list<", "nested": "struct<", "bytes": "binary"}
PYARROW: dict[str, tuple[str, list[Any]]] = {
    "half": ("float", [1.5, None, 0.0]),
    "single": ("float", [float(np.float32(0.1)), None, None]),
    "double": ("float", [0.1, None, float("inf")]),
    "tiny": ("int", [-1, None, 127]),
    "big": ("int", [2**63 - 1, None, -(2**63)]),
    "natural": ("float", [2.0**64, None, 1.0]),  # beyond 64 bits
    "flag": ("bool", [True, None, False]),
    "text": ("str", ["a\0b", None, "é" * 9]),
    "large": ("str", ["x", None, ""]),
    "view": ("str", ["short", None, "longer than twelve bytes"]),
    "word": ("str", ["q", None, "q"]),
    "second": ("time", [-1_000_000, None, 1_000_000]),
    "nano": ("time", [-1, None, 1]),  # rounded down
    "berlin": ("time", [-1_000, None, 1_000]),
    "day": ("time", [-86_400_000_000, None, 86_400_000_000]),
    "day64": ("time", [-86_400_000_000, None, 0]),
    "cents": ("float", [123456789012345.678, None, -0.001]),
    "whole": ("int", [3, None, -4]),
    "nothing": ("float", [None, None, None]),
}
POLARS = {
    "text": ("str", ["short", None, "longer than twelve bytes"] * 20),
    "word": ("str", ["u", "v", "u"] * 20),
    "x": ("float", [1.5, None, 0.0] * 20),
    "at": ("time", [1_577_836_800_000_000, None, -315_619_199_999_999] * 20),
}
PANDAS = {
    "word": ("str", ["u", None, "u"] * 20),
    "at": ("time", [1_577_836_800_000_000, None, -315_619_200_000_000] * 20),
    "i": ("int", list(range(60))),
}
WRITTEN = [
    ("pyarrow.arrows", PYARROW),
    ("pyarrow_lz4.feather", PYARROW),
    ("pyarrow_zstd.feather", PYARROW),
    ("polars.arrows", POLARS),
    ("polars.arrow", POLARS),
    ("polars_lz4.arrow", POLARS),
    ("pandas.feather", PANDAS),
]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
COLUMNS = st.integers(0, 6).flatmap(
    lambda rows: st.dictionaries(
        TEXTS.filter(lambda name: "\0" not in name),  # which ends the process in arro3-io
        st.one_of(
            *(
                st.lists(values, min_size=rows, max_size=rows)
                for values in (TEXTS, st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1))
            )
        ),
        min_size=1,
        max_size=6,
    )
)


def shown(table: Columns) -> dict[str, tuple[str, list[Any]]]:
    return {name: (column.dtype, column.to_list()) for name, column in table.by_name.items()}


@pytest.mark.fast
@pytest.mark.parametrize(("name", "wanted"), WRITTEN)
def test_what_other_libraries_wrote_is_read_whatever_stands_beside_it(name: str, wanted: dict[str, Any]) -> None:
    read = read_ipc_file(FILES / name, only=wanted)
    assert shown(read.columns) == wanted
    assert set(read.names) - set(wanted) <= BAD.keys()


@pytest.mark.parametrize("column", BAD)
def test_a_column_that_cannot_be_is_named(column: str) -> None:
    with pytest.raises(Misuse, match=f"column '{column}' holds {BAD[column]}"):
        read_ipc_file(FILES / "pyarrow.arrows", only=[column])


def test_what_is_not_taken_is_said_with_what_to_do(tmp_path: Path) -> None:
    body = (FILES / "pyarrow.arrows").read_bytes()
    with pytest.raises(TooManyRows, match="more than 2 rows"):
        read_ipc(body, "body", ["tiny"], most_rows=2)
    with pytest.raises(Misuse, match=r"body: the Arrow data is damaged \(it is cut off in a body\)"):
        read_ipc(body[:-30], "body", ["tiny"])
    with pytest.raises(Misuse, match="neither an Arrow IPC stream nor a file"):
        read_ipc(b'{"who": 1}', "body")
    (tmp_path / "cut.feather").write_bytes((FILES / "pandas.feather").read_bytes()[:-1])
    with pytest.raises(Misuse, match=r"cut\.feather: the Arrow file is cut off"):
        read_ipc_file(tmp_path / "cut.feather")


def test_no_damage_does_more_than_raise() -> None:
    chance = random.Random(3)
    bodies = {name: (FILES / name).read_bytes() for name, _ in WRITTEN}
    for _ in range(1_500):
        name = chance.choice(list(bodies))
        body = bytearray(bodies[name])
        for _ in range(chance.choice([1, 1, 3])):
            body[chance.randrange(len(body))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        if chance.random() < 0.1:
            del body[chance.randrange(len(body)) :]
        with suppress(Misuse):
            read_ipc(bytes(body), "body", dict(WRITTEN)[name], most_rows=10_000)


READ = {"nothing", "many empty batches", "many empty wide batches", "replaced"}  # small ones
READ |= {"many batches", "many narrow columns", "many truths", "decimals"}


def test_few_bytes_cannot_stand_for_much(subtests: pytest.Subtests) -> None:
    before = pa.total_allocated_bytes()
    for name, body in islice(arrow_bombs.bombs(random.Random(2)), 28):
        with subtests.test(name):
            with nullcontext() if name in READ else pytest.raises(Misuse):
                assert read_ipc(body, "body", most_rows=10_000, times=4).columns.rows <= 10_000
            assert pa.total_allocated_bytes() <= before


def test_what_crafts_the_bombs_writes_what_arrow_reads() -> None:
    rows = {"c0": 0}
    for body, wanted in (
        (arrow_bombs.nothing(2, 3), [{"c0": None, "c1": None}] * 3),
        (arrow_bombs.same_bytes(1, 2), [rows] * 2),
        (arrow_bombs.one_for_all(1, 5), [{"c0": "0000"}]),
        (arrow_bombs.growing_between(2, 3), [{"x": "www"}] * 2),
        (arrow_bombs.many_empty(3), []),
        (arrow_bombs.overlapping(2, 20)[:], None),
    ):
        read = pa.ipc.open_stream(body).read_all()
        assert wanted is None or read.to_pylist() == wanted
        if wanted is not None:
            assert read_ipc(body, "body").columns.to_rows() == wanted


def test_what_an_ordinary_writer_packs_well_is_read() -> None:
    table = pa.table({"user": pa.array(["ann", "bob"] * 100_000).dictionary_encode(), "x": [0.5] * 200_000})
    for compression in ("lz4", "zstd", None):
        body = arrow_bombs.written(table, compression=compression)
        assert read_ipc(body, "file").columns.rows == 200_000
    many = pa.table({f"c{number}": [0.5] * 200_000 for number in range(20)})
    with pytest.raises(TooLarge, match="decoded, it would take more than"):
        read_ipc(arrow_bombs.written(many, compression="zstd"), "body", times=4)


def test_dictionaries_may_grow_and_change_and_names_be_long() -> None:
    parts = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["a", "b", "c"], ["z"])]
    table = pa.table({"x" * 5_000: pa.chunked_array(parts)})
    for deltas in (True, False):
        body = arrow_bombs.written(table, emit_dictionary_deltas=deltas, unify_dictionaries=False)
        assert read_ipc(body, "body").columns["x" * 5_000].to_list() == ["a", "b", "a", "b", "c", "z"]
    sink = io.BytesIO()
    polars.DataFrame({"at": [1, 2], "who": ["ann", "x" * 40]}).write_ipc(sink)
    assert read_ipc(sink.getvalue(), "body").columns["who"].to_list() == ["ann", "x" * 40]


@pytest.mark.parametrize("column", arrow_bombs.strange(3), ids=lambda column: str(column.type))
def test_types_that_no_column_has_are_named_and_may_stand_next_to_others(column: Any) -> None:
    body = arrow_bombs.written(pa.table({"strange": column, "x": [1, 2, 3]}))
    with pytest.raises(Misuse, match="column 'strange' holds "):
        read_ipc(body, "body")
    read = read_ipc(body, "body", ["x"])
    assert (read.names, read.columns["x"].to_list()) == (("strange", "x"), [1, 2, 3])


def test_codes_of_types_that_arrow_does_not_have_are_refused() -> None:
    for kind, code in ((3, 3), (8, 2), (9, 4), (arrow_bombs.TIMESTAMP, 4), (arrow_bombs.TIMESTAMP, -1), (18, 4)):
        held = arrow_bombs.Table({0: arrow_bombs.Number("<h", code)})
        field = arrow_bombs.field(arrow_bombs.text(b"x"), kind, held=held)
        with pytest.raises(Misuse, match=rf"damaged \(a header has the code {code}; known"):
            read_ipc(arrow_bombs.schema([field]) + arrow_bombs.END, "body")
    strange = arrow_bombs.field(arrow_bombs.text(b"x"), 99, held=arrow_bombs.Table({}))
    with pytest.raises(Misuse, match="damaged"):
        read_ipc(arrow_bombs.schema([strange]) + arrow_bombs.END, "body")


def test_without_pyarrow_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    body = (FILES / "pyarrow.arrows").read_bytes()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NoPyarrow, match=r'body: .* pip install "trimtab\[arrow\]"'):
        read_ipc(body, "body")


@given(COLUMNS)
def test_what_is_written_is_read_by_another_library(columns: dict[str, Any]) -> None:
    table = read_by_arro3(io.BytesIO(write_ipc_stream(columns))).read_all()
    assert {name: table.column(name).to_pylist() for name in table.column_names} == columns


@pytest.mark.fast
def test_what_is_written_is_read_by_ourselves() -> None:
    written = write_ipc_stream({"id": ["a", "\ud800"], "score": [0.5, -0.0], "n": [2**62, -1]})
    assert read_ipc(written, "stream").columns.to_rows() == [
        {"id": "a", "score": 0.5, "n": 2**62},
        {"id": "?", "score": 0.0, "n": -1},
    ]


def test_rows_that_share_their_parts_are_not_even_shown() -> None:
    """A wanted column of a file may hold what fits no row, such as lists; it may not stand for much all the same."""
    rows, long = 3_000, pa.array(["x" * 90_000])
    words = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), long)
    starts, sizes = pa.array([0] * rows, pa.int32()), pa.array([rows] * rows, pa.int32())
    kinds = pa.array([0] * rows, pa.int8())
    for column in (
        pa.StructArray.from_arrays([words], ["a"]),
        pa.DictionaryArray.from_arrays(starts, long.cast(pa.binary())),
        pa.ListViewArray.from_arrays(starts, sizes, pa.array(range(rows))),
        pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), long),
        pa.UnionArray.from_dense(kinds, starts, [long]),
    ):
        body = arrow_bombs.written(pa.table({"x": column}))
        with pytest.raises(Misuse, match="column 'x' holds "):
            read_ipc(body, "file", ["x"], loose=True)
    plain = arrow_bombs.written(pa.table({"x": [[1, 2]] * 3}))
    assert read_ipc(plain, "file", ["x"], loose=True).rows == 3
