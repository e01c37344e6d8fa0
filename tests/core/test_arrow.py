"""Tables from other libraries and back. `arrow_files` holds what pyarrow 26, polars 2 and pandas wrote."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import arro3.core as arro3
import duckdb
import numpy as np
import pytest

from trimtab.core.arrow import read_arrow
from trimtab.core.arrow_ipc import TooManyRows, read_ipc_file, read_ipc_stream
from trimtab.core.columns import Columns
from trimtab.core.errors import Misuse

FILES = Path(__file__).parent / "arrow_files"
BAD = {"list": "lists", "nested": "structs", "bytes": "bytes"}
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
    ("polars.arrows", POLARS),
    ("polars.arrow", POLARS),
    ("polars_lz4.arrow", POLARS),
    ("pandas.feather", PANDAS),
]
ALL: dict[str, tuple[Any, list[Any]]] = {
    "x": ("float", [1.5, None, 0.0]),
    "n": ("int", [2**63 - 1, None, -1]),
    "ok": ("bool", [True, None, False]),
    "who": ("str", ["é\0", None, ""]),
    "at": ("time", [-1, None, 1]),
}


def shown(table: Columns) -> dict[str, tuple[str, list[Any]]]:
    return {name: (column.dtype, column.to_list()) for name, column in table.by_name.items()}


@pytest.mark.fast
@pytest.mark.parametrize(("name", "wanted"), WRITTEN)
def test_what_other_libraries_wrote_is_read_whatever_stands_beside_it(name: str, wanted: dict[str, Any]) -> None:
    read = read_ipc_file(FILES / name, only=wanted)
    assert shown(read.columns) == wanted
    assert set(read.names) - set(wanted) <= BAD.keys()
    if name.endswith("s"):
        assert shown(read_ipc_stream((FILES / name).read_bytes(), wanted).columns) == wanted


@pytest.mark.parametrize("column", BAD)
def test_a_column_that_cannot_be_is_named(column: str) -> None:
    with pytest.raises(Misuse, match=f"column '{column}' holds {BAD[column]}"):
        read_ipc_file(FILES / "pyarrow.arrows", only=[column])


def test_what_is_not_taken_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="uncompressed or with lz4"):
        read_ipc_file(FILES / "pyarrow_zstd.feather", only=["tiny"])
    body = (FILES / "pyarrow.arrows").read_bytes()
    with pytest.raises(TooManyRows, match="more than 2 rows"):
        read_ipc_stream(body, ["tiny"], most_rows=2)
    with pytest.raises(Misuse, match=r"body: the Arrow data is damaged \(it is cut off in a body\)"):
        read_ipc_stream(body[:-30], ["tiny"])
    with pytest.raises(Misuse, match="neither an Arrow IPC stream nor a file"):
        read_ipc_stream(b'{"who": 1}')
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
            read_ipc_stream(bytes(body), dict(WRITTEN)[name], most_rows=10_000)


def many_in_few_bytes(levels: int) -> bytes:
    """A schema whose columns name the same two columns below them, level after level: twice as many at each."""
    tables = bytearray()

    def table(fields: dict[int, bytes | int], inline: int) -> int:
        """A table with fields of four bytes; where a value is an int it is a place that comes later."""
        places = {field: 4 + 4 * i for i, field in enumerate(fields)}
        vtable = struct.pack("<HH", 4 + 2 * inline, 4 + 4 * len(fields))
        vtable += b"".join(struct.pack("<H", places.get(field, 0)) for field in range(inline))
        start = len(tables) + len(vtable)
        tables.extend(vtable + struct.pack("<i", len(vtable)) + b"\0" * 4 * len(fields))
        for field, value in fields.items():
            at = start + places[field]
            later.append((at, value)) if isinstance(value, int) else tables.__setitem__(slice(at, at + 4), value)
        return start

    later: list[tuple[int, int]] = []
    marks: dict[int, int] = {}
    tables.extend(b"\0" * 4)
    message = table({1: struct.pack("<I", 1), 2: 1}, 3)
    marks[1] = table({1: 2}, 2)  # the schema
    for level in range(levels):
        marks[2 + 2 * level] = len(tables)
        later += [(len(tables) + 4, 3 + 2 * level), (len(tables) + 8, 3 + 2 * level)]
        tables.extend(struct.pack("<III", 2, 0, 0))
        below = {} if level == levels - 1 else {5: 4 + 2 * level}
        marks[3 + 2 * level] = table({2: struct.pack("<I", 13), 3: 0, **below}, 6)  # a struct
    marks[0] = table({}, 0)
    for at, mark in later:
        tables[at : at + 4] = struct.pack("<I", marks[mark] - at)
    tables[:4] = struct.pack("<I", message)
    return b"\xff" * 4 + struct.pack("<i", len(tables)) + bytes(tables)


def test_few_bytes_cannot_name_columns_without_end() -> None:
    with pytest.raises(Misuse, match="comes twice"):
        read_ipc_stream(many_in_few_bytes(2), only=())
    with pytest.raises(Misuse, match="more than 10000 columns"):
        read_ipc_stream(many_in_few_bytes(40))


def test_a_table_goes_out_and_comes_back() -> None:
    table = Columns.of(ALL)
    assert shown(Columns.from_arrow(table)) == ALL
    empty = table.take(slice(0, 0))
    assert shown(Columns.from_arrow(empty)) == {name: (dtype, []) for name, (dtype, _) in ALL.items()}
    assert arro3.Schema.from_arrow(table).names == list(ALL)
    with pytest.raises(Misuse, match="column 'who': a text has no UTF-8 form"):
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


class Pretender:
    """Says that it has data."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (arro3.Array([1, 2], arro3.DataType.int64()), "gives no table"),
        (5, "gives no table"),
        (Pretender(ImportError("no module pyarrow")), "through a package that is missing"),
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
    polars = pytest.importorskip("polars")
    assert shown(Columns.from_arrow(polars.DataFrame(Columns.of(ALL)))) == ALL


def test_pyarrow_takes_a_table_and_gives_one() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    assert shown(Columns.from_arrow(pyarrow.table(Columns.of(ALL)))) == ALL


def test_pandas_gives_a_table_without_the_numbers_of_its_rows() -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"x": [1.5, None], "c": pandas.Categorical(["a", None])}, index=[7, 3])
    assert shown(Columns.from_arrow(frame)) == {"x": ("float", [1.5, None]), "c": ("str", ["a", None])}
