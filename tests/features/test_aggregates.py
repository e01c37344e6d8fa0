"""Definitions of aggregates: what they become, and what is refused with the feature's name."""

from __future__ import annotations

from typing import Any

import pytest

import trimtab as tt
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.time import format_duration
from trimtab.features.aggregates import Aggregate, Several
from trimtab.features.definitions import View
from trimtab.features.feature_set import feature_set

EVENTS = tt.source("events", time="at", columns={"key": str, "x": float, "n": int, "ok": bool, "kind": str})


def view(**features: Aggregate | Several) -> View:
    return tt.view("v", source=EVENTS, by="key", features=features)


@pytest.mark.fast
def test_features_by_place_each_get_a_name() -> None:
    found = view(x=tt.last_n("x", 3), often=tt.top_k(tt.col("kind").category(), 2), n=tt.count())
    assert list(found.features) == ["x_1", "x_2", "x_3", "often_1", "often_2", "n"]
    assert [a.place for a in found.features.values()] == [1, 2, 3, 1, 2, 1]


def test_a_model_can_read_every_kind() -> None:
    kind = tt.col("kind").category()
    v = view(
        std=tt.std("n", over="7d"), first=tt.first("at"), last=tt.last(kind, over="1d", until="1h"),
        x=tt.last_n("x", 1), often=tt.top_k(kind, 2), different=tt.count_distinct(kind), named=tt.count(kind),
        decayed=tt.decayed_sum("ok", half_life="1d"), mean=tt.decayed_mean("n", half_life="1d"),
    )  # fmt: skip
    ask = tt.request("ask", key="id", time="asked_at", columns={"id": str, "key": str})
    found = feature_set(ask, [v])
    expected: dict[str, Dtype] = {
        "v.std": "float", "v.first": "time", "v.last": "str", "v.x_1": "float", "v.often_1": "str", "v.often_2": "str",
        "v.different": "int", "v.named": "int", "v.decayed": "float", "v.mean": "float",
    }  # fmt: skip
    assert found.dtypes == expected
    assert found.categories == ("v.last", "v.often_1", "v.often_2")


@pytest.mark.parametrize(
    ("made", "hop", "over"),
    [
        (tt.decayed_sum("x", half_life="7d"), "4h", "70d"),
        (tt.decayed_sum("x", half_life="1h"), "1min", "10h"),
        (tt.decayed_sum("x", half_life="1min"), "1s", "10min"),
        (tt.decayed_mean("x", half_life="10s"), "312500us", "100s"),
        (tt.decayed_mean("x", half_life="30d", over="1h"), "1min", "1h"),
        (tt.decayed_mean("x", half_life="1h", hop="7min"), "7min", "602min"),
        (tt.sum("x", over="8d", until="1d"), "1h", "8d"),
        (tt.sum("x", over="8d", until="7d"), "10min", "8d"),
    ],
)
def test_windows_have_default_hops(made: Aggregate, hop: str, over: str) -> None:
    assert made.over_us is not None
    assert (format_duration(made.hop_us), format_duration(made.over_us)) == (hop, over)


ODD: Any = "many"
YES: Any = True
NOTHING: Any = None


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        (tt.std("kind", over="1d"), "std cannot be computed from a str. Give a number"),
        (tt.var("at"), "var cannot be computed from a time"),
        (tt.decayed_sum("kind", half_life="1d"), "decayed_sum cannot be computed from a str"),
        (tt.last("nothing"), "no column 'nothing'"),
        (tt.last_n("x", 0), "last_n of 0 values. Give 1 to 100"),
        (tt.last_n("x", 101), "last_n of 101 values"),
        (tt.last_n("x", ODD), "last_n of 'many' values"),
        (tt.top_k("kind", 1_000), "top_k of 1000 values"),
        (tt.count_distinct("kind", k=2), "count_distinct with k=2. Give 3 to 4096"),
        (tt.count_distinct("kind", k=10_000), "k=10000"),
        (tt.count_distinct("kind", k=ODD), "k='many'"),
        (tt.sum("x", over=0), "over=0 is an empty window"),
        (tt.decayed_sum("x", half_life="1d", over=0), "over=0 is an empty window"),
        (tt.sum("x", over="1h", hop="2h"), "is longer than its window"),
        (tt.sum("x", over="3h", until="2h", hop="2h"), "longer than its window (from over= to until=) of"),
        (tt.sum("x", over="1h", until="1h"), "until=1h must be less than over=1h"),
        (tt.sum("x", over="1h", until="2h"), "until=2h must be less than"),
        (tt.sum("x", until="2h"), "until= needs over="),
        (tt.decayed_sum("x", half_life=0), "half_life=0"),
        (tt.decayed_sum("x", half_life="1h", hop=0), "hop=0, but values decay in steps"),
        (tt.decayed_sum("x", half_life="1h", over="365d", hop="1min"), "525600 hops"),
        (tt.decayed_sum("x", half_life="1min", over="1d", hop="1h"), "1440 half-lives"),
        (tt.first("x", where=tt.col("n")), "where= is not a truth value"),
        (tt.count(where=ODD), "where='many' is not an expression. Write tt.col('many')."),
        (tt.count(where=YES), "where=True is not an expression. Write a comparison"),
        (tt.sum(YES), "sum of True, which is neither a column's name nor an expression"),
        (tt.count_distinct(YES), "count_distinct of True, which is neither"),
        (tt.latest(YES), "latest of True, which is neither"),
        (tt.sum(NOTHING), "sum needs values, found None. Give a column's name or an expression."),
        (tt.mean("x", hop="1h"), "hop= needs over="),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(aggregate: Aggregate | Several, message: str) -> None:
    with pytest.raises(Misuse, match="view 'v', feature 'f'") as error:
        view(f=aggregate)
    assert message in str(error.value)


def test_two_features_of_one_name_are_refused() -> None:
    with pytest.raises(Misuse, match="two features are called 'x_2'; 'x' declares x_1, "):
        view(x_2=tt.count(), x=tt.last_n("x", 2))
    with pytest.raises(Misuse, match="two features are called 'x_2'; 'x' declares x_1, "):
        view(x=tt.last_n("x", 2), x_2=tt.count())
    with pytest.raises(Misuse, match="is not an aggregate"):
        view(x=ODD)


def test_the_window_and_its_parts_belong_to_the_hash() -> None:
    made = [
        tt.sum("x", over="8d"), tt.sum("x", over="8d", until="1d"), tt.last("x", over="8d"), tt.first("x", over="8d"),
        tt.count_distinct("x", over="8d"), tt.count_distinct("x", over="8d", k=64),
        tt.decayed_sum("x", half_life="1d"), tt.decayed_sum("x", half_life="2d"),
    ]  # fmt: skip
    assert len({view(f=aggregate).hash for aggregate in made}) == len(made)
