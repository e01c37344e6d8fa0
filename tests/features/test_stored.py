"""Feature definitions as documents: the same definitions again, checked, and nothing that is said for people."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trimtab as tt
from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.expressions.nodes import Expression
from trimtab.features.feature_set import FeatureSet, Item, feature_set
from trimtab.features.stored import check_functions, decode_features, encode_features, with_sources

EVENTS = tt.source("s", time="at", columns={"who": str, "v": float, "m": str, "n": int})
QUESTION = tt.request("q", key="id", time="at", columns={"id": str, "who": str, "x": float})
AGGREGATES: list[Any] = [
    tt.mean("v", over="7d", where=tt.col("v") > 1.5),
    tt.count(over="1d"),
    tt.latest("n", max_age="3h"),
    tt.sum(tt.col("v") * 0.1 + 2, over="90s", hop=0),
    tt.max("n"),
]


@tt.transform
def halved(x: float) -> float:
    return x / 2


EXPRESSIONS: list[Expression] = [
    tt.col("x") * 0.1,
    halved(tt.col("x")),
    tt.when(tt.col("x") > 1e-300, 1, -1),
    tt.col("who").category(),
    tt.col("x").bucket([0.1, 0.5]).fill_null(-1),
]


@st.composite
def sets(draw: st.DrawFn) -> FeatureSet:
    names = draw(st.permutations(["p", "k", "z"]))
    items: list[Item] = []
    for name in names[: draw(st.integers(0, 3))]:
        features = {f"f{n}": one for n, one in enumerate(draw(st.permutations(AGGREGATES))[:3])}
        one = tt.view(
            name, source=EVENTS, by="who", features=features, boundary=draw(st.sampled_from(["before", "inclusive"]))
        )
        select = draw(st.sampled_from([None, [], ["f1"], ["f2", "f0"]]))
        items.append(one if select is None else one.join(f"j_{name}", select=select))
        if draw(st.booleans()):
            items.append({f"of_{name}": (one if select is None else one.join(f"j_{name}"))["f0"] * 2})
    items += [{f"t{n}": one} for n, one in enumerate(draw(st.permutations(EXPRESSIONS))[: draw(st.integers(0, 4))])]
    items = draw(st.permutations(items)) or [{"t": tt.col("x")}]
    try:
        return feature_set(QUESTION, items)
    except Misuse:  # no feature is read
        return feature_set(QUESTION, [*items, {"x": tt.col("x")}])


@given(sets())
@settings(deadline=None, max_examples=80)
def test_a_document_gives_the_same_definitions(features: FeatureSet) -> None:
    document = encode_features(features)
    again = decode_features(document, features.hash)
    assert again.hash == features.hash
    assert again.names == features.names
    assert [join.name for join in again.joins] == [join.name for join in features.joins]
    assert list(again.dtypes.items()) == list(features.dtypes.items())
    assert [list(join.view.features) for join in again.joins] == [list(join.view.features) for join in features.joins]
    assert encode_features(again) == document
    check_functions(again)


def test_what_is_said_for_people_changes_no_document() -> None:
    plain = feature_set(QUESTION, [tt.view("a", source=EVENTS, by="who", features={"n": tt.count(over="1d")})])
    told = tt.view(
        "a", source=EVENTS, by="who", features={"n": tt.count(over="1d")}, description="How many.", tags=["x"]
    )
    assert encode_features(feature_set(QUESTION, [told])) == encode_features(plain)


def test_another_document_a_changed_one_and_one_of_another_format_are_corrupt() -> None:
    features = feature_set(QUESTION, [{"x": tt.col("x") * 2}])
    document = encode_features(features)
    with pytest.raises(Corrupt, match="has the hash"):
        decode_features(document, "0" * 64)
    with pytest.raises(Corrupt, match="has the hash"):
        decode_features(document.replace(b'["int",2]', b'["int",3]'), features.hash)
    with pytest.raises(Corrupt, match="cannot be read"):
        decode_features(document.replace(b'"format":1', b'"format":2'), features.hash)
    with pytest.raises(Corrupt, match="cannot be read"):
        decode_features(document[:-9], features.hash)


def test_a_function_that_is_unknown_here_is_named() -> None:
    gone, of_events = (Expression("python", (tt.col(x),), ("halved", "float", "skip", "f" * 64)) for x in ("x", "v"))
    summed = tt.view("a", source=EVENTS, by="who", features={"s": tt.sum(of_events, over="1d")})
    counted = tt.view("a", source=EVENTS, by="who", features={"n": tt.count(over="1d", where=of_events > 1)})
    for features in (feature_set(QUESTION, [item]) for item in ({"y": gone + 1}, summed, counted)):
        assert_named(decode_features(encode_features(features), features.hash))


def assert_named(again: FeatureSet) -> None:
    with pytest.raises(Misuse, match=r"transform 'halved'.*in a file that the project file imports"):
        check_functions(again)


def test_sources_are_changed_everywhere_once() -> None:
    one = tt.view("a", source=EVENTS, by="who", features={"n": tt.count(over="1d")})
    features = feature_set(QUESTION, [one, one.join("b")])
    wider = with_sources(
        features, lambda s: msgspec.structs.replace(s, columns={**s.columns, "old": "int"}, hidden=("old",))
    )
    assert wider.hash == features.hash
    assert all("old" in join.view.source.columns for join in wider.joins)
    assert all("old" in join.view.source.columns for stage in wider.stages for join in stage.joins)
    assert "old" not in wider.request.columns
    assert encode_features(wider) == encode_features(features)


@pytest.mark.fast
def test_a_time_format_is_in_no_document_and_in_no_address() -> None:
    def features(time_format: str | None) -> FeatureSet:
        sales = tt.source("sales", time="at", columns={"shop": str, "sum": float}, time_format=time_format)
        question = tt.request("visit", key="id", time="at", columns={"id": str, "shop": str})
        return feature_set(question, [tt.view("v", source=sales, by="shop", features={"n": tt.sum("sum")})])

    plain, formatted = features(None), features("%d.%m.%Y")
    assert plain.hash == formatted.hash
    assert encode_features(plain) == encode_features(formatted)
