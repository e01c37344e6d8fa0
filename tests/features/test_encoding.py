from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import col
from trimtab.events.definitions import Time, source
from trimtab.features.aggregates import count, latest
from trimtab.features.definitions import request, view
from trimtab.features.encoding import Encoding, fit
from trimtab.features.feature_set import feature_set

ASK = request("ask", key="id", time="at", columns={"id": str, "f": float, "i": int, "b": bool, "s": str, "at": Time})
FEATURES = feature_set(
    ASK,
    [{"f": col("f"), "i": col("i"), "b": col("b"), "s": col("s").category(), "at": col("at"), "h": col("at").hour()}],
)
VALUES: dict[str, tuple[Dtype, st.SearchStrategy[Any]]] = {
    "f": ("float", st.floats(-1e150, 1e150).map(lambda x: x + 0.0)),
    "i": ("int", st.integers(-(2**63), 2**63 - 1)),
    "b": ("bool", st.booleans()),
    "s": ("str", st.text(max_size=2)),
    "at": ("time", st.integers(-(2**50), 2**57)),
    "h": ("int", st.integers(0, 23)),
}
rows = st.lists(st.tuples(*(st.one_of(st.none(), values) for _, values in VALUES.values())), max_size=8)


def columns(table: list[tuple[Any, ...]]) -> Columns:
    return Columns.of({n: (d, [row[i] for row in table]) for i, (n, (d, _)) in enumerate(VALUES.items())})


@given(training=rows, table=rows)
def test_one_row_is_encoded_to_the_bits_of_many(training: list[Any], table: list[Any]) -> None:
    encoding = fit(FEATURES, columns(training))
    assert msgspec.json.decode(msgspec.json.encode(encoding), type=Encoding) == encoding
    matrix = encoding.matrix(columns(table))
    assert matrix.shape == (len(table), 6)
    for found, row in zip(matrix.tolist(), table, strict=True):
        assert struct.pack("<6d", *found) == struct.pack("<6d", *encoding.row(row))


def test_a_category_that_training_did_not_see_is_nan() -> None:
    encoding = fit(FEATURES, columns([(None, None, None, s, None, None) for s in ("b", "a", "b", None)]))
    assert encoding.vocabularies == {"s": ("b", "a")}
    assert [str(encoding.row([None, None, None, s, None, None])[3]) for s in ("a", "b", "c", None)] == [
        "1.0", "0.0", "nan", "nan",
    ]  # fmt: skip


def test_a_feature_of_another_type_is_refused() -> None:
    encoding = fit(FEATURES, columns([]))
    wrong = columns([]).replace({"i": columns([])["f"]})
    with pytest.raises(Misuse, match="feature 'i' must be int; it is float"):
        encoding.matrix(wrong)


WEATHER = source("weather", time="at", columns={"s": str, "temp": float})
SKY = view("sky", source=WEATHER, by="s", features={"temp": latest("temp"), "n": count()})


def test_features_keep_their_declared_order() -> None:
    features = feature_set(ASK, [{"f": col("f")}, SKY, {"hour": col("at").hour(), "s": col("s").category()}, SKY])
    assert features.names == ("f", "sky.temp", "sky.n", "hour", "s")
    assert list(features.dtypes.values()) == ["float", "float", "int", "int", "str"]
    assert features.categories == ("s",)
    assert [v.name for v in features.views] == ["sky"]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "none. Give at least one"),
        ([{"f": col("f")}, {"f": col("i")}], "'f' is defined twice"),
        ([{"f": col("nope")}], "feature 'f': no column 'nope'"),
        ([{"f": 3}], "is not an expression"),
        ([{"f": col("s")}], "feature 'f' is a string. Mark it with .category()"),
        ([3], "neither a view nor a dict"),
        ([SKY, view("sky", source=WEATHER, by="s", features={"n": count()})], "two different views are called 'sky'"),
        ([view("v", source=WEATHER, by="s", features={"s": latest("s")})], "feature 'v.s' is a string"),
        (
            [view("v", source=source("w", time="at", columns={"city": str}), by="city", features={"n": count()})],
            "request 'ask' needs a column or feature 'city' of str; it has id, f",
        ),
        (
            [view("v", source=source("w", time="at", columns={"i": str}), by="i", features={"n": count()})],
            "request 'ask' needs a column or feature 'i' of str; it is int",
        ),
    ],
)
def test_an_impossible_set_of_features_is_refused(features: list[Any], message: str) -> None:
    with pytest.raises(Misuse, match=message):
        feature_set(ASK, features)
