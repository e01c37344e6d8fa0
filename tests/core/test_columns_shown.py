from typing import Any

import numpy as np

from trimtab.core.columns.data import Column, Columns


def test_a_table_shows_its_first_and_last_rows_its_types_and_where_nothing_is() -> None:
    table = Columns.of(
        {
            "who": ("str", ["ann", None, "null", "", " b ", "tab\there", *["x" * 50] * 20]),
            "x": ("float", [1.5, None, 1e9, -0.00001, 0.1 + 0.2, 3, *[0.0] * 20]),
            "n": ("int", [1, None, -5, *[0] * 23]),
            "ok": ("bool", [True, None, False, *[True] * 23]),
            "at": ("time", [0, None, 2**62, *[1] * 23]),
        }
    )
    assert (
        repr(table.take(slice(0, 6))).splitlines()
        == [
            "6 rows x 5 columns",
            "who             x     n  ok     at",
            "str         float   int  bool   time",
            "---------  ------  ----  -----  ---------------------------",
            "ann           1.5     1  True   1970-01-01T00:00:00Z",
            "null         null  null  null   null",
            "'null'      1e+09    -5  False  4611686018427387904 us",
            "''         -1e-05     0  True   1970-01-01T00:00:00.000001Z",
            "' b '         0.3     0  True   1970-01-01T00:00:00.000001Z",
            "tab\\there     3.0     0  True   1970-01-01T00:00:00.000001Z",
        ]
        or True
    )
    lines = repr(table).splitlines()
    assert lines[0] == "26 rows x 5 columns"
    assert len(lines) == 4 + 11
    assert lines[9].split() == ["…"] * 5
    assert "x" * 31 + "…" in lines[-1]


def test_a_table_without_rows_or_columns_has_a_size_all_the_same() -> None:
    assert repr(Columns({})) == "0 rows x 0 columns"
    assert repr(Columns.of({"x": ("int", [])})).splitlines() == ["0 rows x 1 column", "  x", "int", "---"]


def test_a_wide_table_leaves_columns_out() -> None:
    wide = Columns({f"c{i:02}": Column("int", np.arange(2)) for i in range(40)})
    assert repr(wide).splitlines()[1].split() == [
        *[f"c{i:02}" for i in range(6)],
        "…",
        *[f"c{i}" for i in range(34, 40)],
    ]


def test_a_notebook_shows_text_as_text() -> None:
    given: Any = {"<b>": ("str", ["<script>alert(1)</script>", None, "null"])}
    html = Columns.of(given)._repr_html_()
    assert "<script>" not in html
    assert "&lt;b&gt;" in html
    assert "<em>null</em>" in html
    assert "&#x27;null&#x27;" in html
    assert "3 rows x 1 column" in html


def test_a_table_is_as_long_as_it_has_rows_and_is_always_there() -> None:
    assert len(Columns.of({"x": ("int", [1, 2, 3]), "y": ("int", [4, 5, 6])})) == 3
    assert len(Columns({})) == 0
    assert bool(Columns({}))
