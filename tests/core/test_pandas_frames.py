"""pandas frames are read with and without pyarrow, with the same result."""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.columns import Columns, WrongColumn
from trimtab.core.columns.data import read_arrow
from trimtab.core.errors import Misuse

LONG_AGO, LATER = dt.datetime(1800, 1, 1), dt.datetime(2200, 1, 1)


def without_pyarrow(frame: pd.DataFrame, *, loose: bool = False) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        return read_arrow(frame, loose=loose)


def values(table: Columns) -> dict[str, tuple[str, list[Any]]]:
    return {name: (one.dtype, one.to_list()) for name, one in table.by_name.items()}


KINDS: dict[str, tuple[st.SearchStrategy[Any], bool]] = {  # values of a dtype, and whether they may be null
    "int8": (st.integers(-128, 127), False),
    "uint64": (st.integers(0, 2**63 - 1), False),
    "float32": (st.floats(width=32, allow_infinity=False), False),
    "float64": (st.floats(), False),
    "bool": (st.booleans(), False),
    "Int64": (st.integers(-(2**63), 2**63 - 1), True),
    "UInt8": (st.integers(0, 255), True),
    "Float64": (st.floats(allow_nan=False), True),
    "boolean": (st.booleans(), True),
    "string[python]": (st.text(alphabet="aé☃ "), True),
    "str": (st.text(alphabet="aé☃ "), True),
    "object": (st.text(alphabet="ab", min_size=1), True),
    "category": (st.sampled_from(["x", "y", "z"]), True),
    "datetime64[ns]": (st.datetimes(LONG_AGO, LATER), True),
    "datetime64[s]": (st.datetimes(LONG_AGO, LATER), True),
    "datetime64[us, Europe/Berlin]": (st.datetimes(dt.datetime(1971, 1, 1), LATER), True),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)  # for each kind, of at most six values
@given(data=st.data())
def test_a_frame_is_the_same_table_with_and_without_pyarrow(kind: str, data: st.DataObject) -> None:
    strategy, nullable = KINDS[kind]
    drawn = data.draw(st.lists(st.none() | strategy if nullable else strategy, min_size=1, max_size=6))
    if "Berlin" in kind:
        series = pd.Series(drawn, dtype="datetime64[us]").dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
    else:
        dtype: Any = pd.StringDtype("python", na_value=np.nan) if kind == "str" else kind  # as without pyarrow
        series = pd.Series(drawn, dtype=dtype)
    if kind in ("object", "category") and series.isna().all():
        return  # pyarrow has a type for nothing but nulls
    frame = pd.DataFrame({"x": series, "y": range(len(series))}).set_index(pd.Index(range(7, 7 + len(series))))
    assert values(without_pyarrow(frame).columns) == values(Columns.from_arrow(frame))


def test_categories_of_numbers_and_objects_of_one_type_are_read() -> None:
    frame = pd.DataFrame({
        "category": pd.Categorical([3, 1, None]),
        "none": pd.Categorical([None, None, None]),
        "truth": pd.Series([True, None, False], dtype=object),
        "day": pd.Series([dt.date(2026, 1, 1), None, dt.date(2026, 1, 3)], dtype=object),
        "mixed": pd.Series([1, 2.5, None], dtype=object),
        "beyond": np.array([1, 2, 2**64 - 1], np.uint64),
    })  # fmt: skip
    found = values(without_pyarrow(frame).columns)
    assert found["category"] == ("int", [3, 1, None])
    assert found["none"][1] == [None, None, None]
    assert found["truth"] == ("bool", [True, None, False])
    assert found["day"] == ("time", [1767225600000000, None, 1767398400000000])
    assert found["mixed"] == ("float", [1.0, 2.5, None])
    assert found["beyond"] == ("float", [1.0, 2.0, 2.0**64])


def test_what_no_column_holds_is_refused_or_given_as_python_objects() -> None:
    frame = pd.DataFrame({"price": pd.Series([Decimal("1.5"), None], dtype=object), "n": [1, 2]})
    with pytest.raises(WrongColumn, match="column 'price' holds Decimal"):
        without_pyarrow(frame)
    assert without_pyarrow(frame, loose=True).loose == {"price": [Decimal("1.5"), None]}
    with pytest.raises(Misuse, match="holds int and str"):
        without_pyarrow(pd.DataFrame({"x": pd.Series([1, "a"], dtype=object)}))


def test_a_column_that_comes_twice_is_refused() -> None:
    frame = pd.DataFrame([[1, 2]], columns=["x", "x"])
    with pytest.raises(WrongColumn, match="column 'x' comes twice"):
        without_pyarrow(frame)
    with pytest.raises(WrongColumn, match="column 'x' comes twice"):
        without_pyarrow(frame, loose=True)
