"""Composite keys, views joined under other names, views looked up by views, features of features: one meaning."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record, frame_of, oracle
from strategies import BASE_US, KEYED, KEYLESS, histories, instants, keys
from test_online import feeds

from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_rows import compile_row
from trimtab.core.expressions.functions import transform
from trimtab.core.expressions.nodes import col
from trimtab.events.definitions import Source
from trimtab.features.aggregates import count, latest, mean
from trimtab.features.aggregates import sum as total
from trimtab.features.definitions import Join, View, entity, request, view
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.offline.keys import match_keys
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.testing import MemoryKeyValue

COLUMNS: dict[str, Any] = {"ask_id": str, "key": str, "other": str, "kind": str, "n": int}
ASK = request("ask", key="ask_id", time="asked_at", columns=COLUMNS)
PAIR = entity("pair", {"key": str, "kind": str}, description="A key of one kind.")


@transform(returns=float, nulls="pass")
def spread(one: float | None, other: float | None) -> float | None:
    return None if one is None else one - (other or 0.0)


def model_of(source: Source) -> FeatureSet:
    """Every way in which views come together."""
    by_key = view("by_key", source=source, by="key", features={
        "kind": latest("kind"), "n": latest("n"), "x": latest("x"), "rows": count(over=100),
    })  # fmt: skip
    pair = view("pair", source=source, by=PAIR, features={"rows": count(), "x": mean("x", over=100)})
    mixed = view("mixed", source=source, by=["kind", "n"], features={"rows": count(), "x": total("x")})
    by_kind = view("by_kind", source=source, by="kind", features={"rows": count(), "x": latest("x")})
    mine = by_key.join("mine", by="key", select=["rows", "x"])
    theirs = by_key.join("theirs", by="other", select=[])
    return feature_set(ASK, [
        mine, theirs, pair, mixed,
        by_kind,
        by_kind.join("my_kind", by=mine["kind"]),
        mixed.join("chained", by=[col("kind"), theirs["n"]], select=["x"]),
        {
            "twice": col("ratio") * 2,
            "ratio": mine["x"] / theirs["x"],
            "same": mine["kind"] == theirs["kind"],
            "spread": spread(mine["x"], col("my_kind.x")),
            "kind": mine["kind"].category(),
            "doubled": col("n") * 2,
        },
    ])  # fmt: skip


def meant(features: FeatureSet, records: list[Record], row: dict[str, Any], at_us: int) -> dict[str, Any]:
    """Each feature's value and reason (of a transform None), composed from the oracle's answers."""
    known, reasons = dict(row), {}
    values: dict[str, Any] = {}
    for stage in features.stages:
        for join in stage.joins:
            key = tuple(known[name] for name in join.by)
            entity = key[0] if len(key) == 1 else None if None in key else key
            for name, (value, reason) in oracle(records, join.view, entity, at_us).items():
                values[f"{join.name}.{name}"] = value
                reasons[f"{join.name}.{name}"] = reason
        known = values | row
        for name, expression in stage.transforms.items():
            values[name] = compile_row(expression, features.known)(known)
            known = values | row
    return {name: (bits(values[name]), reasons.get(name)) for name in features.names}


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)


maybe_keys = st.one_of(keys, st.sampled_from(["unknown", None]))
requests = st.fixed_dictionaries({
    "key": maybe_keys, "other": maybe_keys,
    "kind": st.sampled_from(["u", "v", None]), "n": st.one_of(st.none(), st.integers(-5, 5)),
})  # fmt: skip


@pytest.mark.parametrize("source", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_joined_views_offline_give_what_their_parts_mean(source: Source, data: st.DataObject) -> None:
    features = model_of(source)
    records = data.draw(histories(source))
    wanted = data.draw(st.lists(st.tuples(requests, instants), min_size=1, max_size=8))
    table = Columns.of({name: (dtype, [row.get(name) for row, _ in wanted]) for name, dtype in ASK.columns.items()})
    at_us = np.array([BASE_US + offset for _, offset in wanted], np.int64)
    found = evaluate(features, table, at_us, {source.name: frame_of(records, source)})
    assert found.values.names == features.names
    lists = {name: found.values[name].to_list() for name in features.names}
    for i, (row, offset) in enumerate(wanted):
        expected = meant(features, records, row, BASE_US + offset)
        for name in features.names:
            reason = REASONS[found.reasons[name][i]] if name in found.reasons else None
            assert (bits(lists[name][i]), reason) == expected[name], (name, row)


@pytest.mark.parametrize("source", [KEYED, KEYLESS], ids=["keyed", "keyless"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_joined_views_online_give_what_their_parts_mean(source: Source, data: st.DataObject) -> None:
    features = model_of(source)
    records, log = data.draw(feeds(source))
    kv = MemoryKeyValue()
    store = OnlineStore(kv, features.views)
    plan = RequestPlan(features, kv)
    cut = data.draw(st.integers(0, len(log)))
    for some in (log[:cut], log[cut:]):
        store.apply(some)
        rows = data.draw(st.lists(requests, min_size=1, max_size=4))
        now_us = BASE_US + data.draw(instants)
        found = plan.read(rows, now_us)
        assert found.names == features.names
        visible = [r for r in records if r.position <= found.positions.get(r.partition, 0)]
        for i, row in enumerate(rows):
            expected = meant(features, visible, row, found.at_us)
            for place, name in enumerate(features.names):
                reason = None if name in features.transforms else REASONS[found.reasons[i][place]]
                assert (bits(found.values[i][place]), reason) == expected[name], (name, row)


@pytest.mark.fast
def test_a_column_of_the_table_that_is_called_like_a_feature_changes_nothing() -> None:
    features = model_of(KEYED)
    row = {"ask_id": "a", "key": "a", "other": "b", "kind": "u", "n": 1}
    table = Columns.of({name: (dtype, [row.get(name)]) for name, dtype in ASK.columns.items()})
    more = {"mine.x": ("float", [5.0]), "mine.kind": ("str", ["v"]), "ratio": ("float", [9.0])}
    wider = table.replace(Columns.of(more).by_name)  # such as the result of an earlier join
    at_us, frames = np.array([BASE_US]), {KEYED.name: frame_of([], KEYED)}
    plain, again = (evaluate(features, one, at_us, frames).values for one in (table, wider))
    assert again.to_rows() == plain.to_rows()


@pytest.mark.fast
@pytest.mark.parametrize("wanted", [[-(2**63)], [2**63 - 1], [-(2**63), -(2**63) + 1], [-(2**63), 2**63 - 1, None]])
def test_whole_numbers_at_the_ends_of_their_range_name_entities_too(wanted: list[int | None]) -> None:
    events = [2**63 - 1, 0, -(2**63), None, -(2**63) + 1]
    of_events, of_requests, count = match_keys([column("int", events)], [column("int", wanted)])
    there = sorted({key for key in wanted if key is not None})
    assert (of_requests.tolist(), count) == ([-1 if k is None else there.index(k) for k in wanted], len(there))
    assert of_events.tolist() == [there.index(key) if key in there else -1 for key in events]


def test_the_same_view_joined_twice_keeps_one_state() -> None:
    features = model_of(KEYED)
    assert [v.name for v in features.views] == ["by_key", "pair", "mixed", "by_kind"]
    assert len(features.joins) == 7
    assert [len(stage.joins) for stage in features.stages] == [5, 2]


class Moving(MemoryKeyValue):
    """A store whose views move on after each of the first look-ups."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[Any] = []

    def get_many(self, keys: Any) -> Any:
        found = super().get_many(keys)
        if self.moves:
            self.moves.pop()()
        return found


def test_a_look_up_by_a_feature_is_of_one_snapshot_or_is_repeated() -> None:
    features = model_of(KEYED)
    kv = Moving()
    store = OnlineStore(kv, features.views)
    plan = RequestPlan(features, kv)
    row = {"key": "a", "other": "b", "kind": "u", "n": 1}
    log: list[Any] = []

    def move() -> None:
        from trimtab.events.records import Event, encode
        from trimtab.store.ports import LogRecord

        values = (f"r{len(log)}", "a", BASE_US, float(len(log)), 1, True, "u" if len(log) % 2 else "v")
        event = Event(KEYED.name, values[0], BASE_US, BASE_US, "upsert", False, values)
        log.append(LogRecord("p0", len(log) + 1, BASE_US + len(log), encode(event)))
        moves, kv.moves = kv.moves, []
        store.apply(log[-1:])
        kv.moves = moves

    move()
    kv.moves = [move, move, move]
    found = plan.read([row], BASE_US + 10)
    assert not kv.moves
    assert found.positions == {"p0": 4}
    at = found.names.index
    assert found.values[0][at("mine.x")] == 3.0
    assert found.values[0][at("kind")] == "u"
    assert found.values[0][at("my_kind.x")] == 3.0


def test_a_column_of_the_request_and_a_feature_of_one_name_are_refused() -> None:
    v = view("by_key", source=KEYED, by="key", features={"n": latest("n")})
    wanted = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "key": str, "by_key.n": int})
    with pytest.raises(Misuse, match=r"'by_key\.n' is a column of request 'ask' and a feature of view 'by_key'"):
        feature_set(wanted, [v])
    assert feature_set(wanted, [v.join("mine")]).names == ("mine.n",)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v: [v.join(by=v["kind"])], "view by_key needs view by_key"),
        (
            lambda v: [v.join("one", by=col("two.kind")), v.join("two", by=col("one.kind"))],
            "features: view (one|two) needs view (one|two) needs view (one|two). Break the circle",
        ),
        (lambda v: [{"a": col("b") + 1, "b": col("a") + 1}], "feature a needs feature b needs feature a"),
        (
            lambda v: [{"zz": col("zz") + 1}],
            "feature 'zz': request 'ask' has no such column. It has ask_id, ",
        ),
        (lambda v: [v.join("one", by="key"), v.join("one", by="other")], "joined twice as 'one', by key and by other"),
        (lambda v: [v.join(by=["key", "kind"])], "the view has by=key, so by=key, kind must name as many columns"),
        (lambda v: [v.join(by="n")], "needs a column or feature 'n' of str; it is int"),
        (lambda v: [v.join(select=["nope"])], "no feature 'nope' among kind, n"),
        (lambda v: [v.join(select="n")], r"must be a list, such as \[\"n\"\]"),
        (lambda v: [{"f": v["nope"]}], "view 'by_key': no feature 'nope' among kind, n"),
        (lambda v: [{"f": v["n"]}], "feature 'f': no column 'by_key.n'"),
        (lambda v: [v], "feature 'by_key.kind' is a string. Mark it with .category\\(\\)"),
        (lambda v: [v.join(select=[])], "none. Give at least one"),
    ],
)
def test_joins_that_cannot_be_are_refused_with_both_sides(make: Any, message: str) -> None:
    by_key = view("by_key", source=KEYED, by="key", features={"kind": latest("kind"), "n": latest("n")})
    with pytest.raises(Misuse, match=message):
        feature_set(ASK, make(by_key))


@pytest.mark.fast
def test_entities_are_checked_against_the_source() -> None:
    with pytest.raises(Misuse, match=r"its columns must be str or int; found \{'x': 'float'\}"):
        entity("e", {"x": float})
    with pytest.raises(Misuse, match="its entity's column 'n' is str; in source 'readings' it is int"):
        view("v", source=KEYED, by=entity("e", {"n": str}), features={"c": count()})
    with pytest.raises(Misuse, match="by='x' must be a column of 'readings' of type str or int; it is float"):
        view("v", source=KEYED, by="x", features={"c": count()})
    with pytest.raises(Misuse, match="Name each column of the entity once"):
        view("v", source=KEYED, by=["key", "key"], features={"c": count()})


@pytest.mark.fast
def test_what_is_said_for_people_changes_no_address() -> None:
    def made(text: str) -> tuple[View, Join]:
        who = entity("who", {"key": str}, description=text)
        v = view("v", source=KEYED, by=who, features={"c": count()}, description=text, owner=text, tags=["pii"])
        return v, v.join("w")

    (one, joined), (other, joined_too) = made("first"), made("second")
    assert one.hash == other.hash
    assert joined.hash == joined_too.hash
    assert one.about.tags == ("pii",)
    with pytest.raises(Misuse, match="tags='pii' must be a list of texts"):
        view("v", source=KEYED, by="key", features={"c": count()}, tags="pii")
