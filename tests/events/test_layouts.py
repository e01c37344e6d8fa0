"""Columns come, go and move: what was recorded is read by the names that it was recorded under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.events import History, Ingestor, Quarantine
from trimtab.events.definitions import Source, source
from trimtab.events.layouts import Layout, decode_layout, laid_out, layout_with
from trimtab.events.tables import materialise
from trimtab.features import aggregates
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.delta.table import DeltaTable
from trimtab.testing import MemoryKeyValue, MemoryLog

KINDS: dict[str, type] = {"a": float, "b": str, "c": int, "d": float}
VALUES: dict[str, Any] = {"a": 1.5, "b": "text", "c": 7, "d": -2.0}
declarations = st.lists(
    st.permutations(list(KINDS)).flatmap(lambda p: st.integers(0, 4).map(lambda n: p[:n])), min_size=1, max_size=6
)


def declared(names: list[str], *, key: bool) -> Source:
    columns = {name: KINDS[name] for name in names} | {"who": str, "id": str}
    return source("s", time="at", key="id" if key else None, columns=columns)


def test_a_column_that_is_no_longer_declared_is_not_absent_from_rows() -> None:
    placed = laid_out(declared(["a", "b"], key=True), layout_with(None, declared(["a", "c", "b"], key=True)))
    clock = VirtualClock(1_000)
    ingestor = Ingestor(MemoryLog(clock=clock), [placed], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
    assert ingestor.push("s", [{"at": 0, "id": "x", "who": "y", "b": "text"}]).absent == ("a",)


@given(declarations, st.booleans(), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_recorded_values_stay_under_their_names_through_any_changes(
    changes: list[list[str]], key: bool, per: int
) -> None:
    clock = VirtualClock(1_000)
    log = MemoryLog(clock=clock)
    layout: Layout | None = None
    truth: list[dict[str, Any]] = []
    for step, names in enumerate(changes):
        layout = layout_with(layout, declared(names, key=key))
        placed = laid_out(declared(names, key=key), layout)
        ingestor = Ingestor(log, [placed], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
        for n in range(per):
            row = {name: VALUES[name] for name in names} | {"who": "x", "id": f"{step}.{n}", "at": clock.now_us()}
            assert ingestor.push("s", [row]).accepted == 1
            truth.append(row)
            clock.advance_to(clock.now_us() + 1_000)
        with pytest.raises(Misuse, match="unknown column"):
            ingestor.push("s", [{"who": "x", "id": "z", "at": 1, "e": 1}])
        history = History(log, [placed])
        history.refresh()
        found = history.frame("s").columns.to_rows()
        assert found == [{name: row.get(name) for name in layout.columns} for row in truth]


def test_a_removed_column_takes_no_new_values_and_comes_back_with_its_old_ones() -> None:
    layout = layout_with(None, declared(["a", "b"], key=False))
    without = laid_out(declared(["b"], key=False), layout_with(layout, declared(["b"], key=False)))
    assert without.hidden == ("a",)
    assert list(without.declared) == ["b", "who", "id", "at"]
    clock = VirtualClock(10)
    ingestor = Ingestor(MemoryLog(clock=clock), [without], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
    with pytest.raises(Misuse, match="unknown column 'a'"):
        ingestor.push("s", [{"a": 1.0, "who": "x", "at": 1}])
    assert laid_out(declared(["a", "b"], key=False), layout).hidden == ()


def test_another_type_is_refused_with_what_to_do() -> None:
    layout = Layout({"at": "time", "a": "int"})
    with pytest.raises(Misuse, match=r"'a' is declared float, but recorded events hold it as int\. Declare it int"):
        layout_with(layout, source("s", time="at", columns={"a": float}))


def views_of(placed: Source) -> list[View]:
    return [
        view(
            "v",
            source=placed,
            by="who",
            features={"last": aggregates.latest("a"), "sum": aggregates.sum("a", over="1d")},
        )
    ]


@pytest.mark.parametrize("key", [False, True])
def test_a_view_goes_on_over_a_column_that_is_added_in_front_and_has_the_same_address(key: bool) -> None:
    clock = VirtualClock(10_000_000)
    log, kv = MemoryLog(clock=clock), MemoryKeyValue()
    first = layout_with(None, declared(["a"], key=key))
    then = layout_with(first, declared(["b", "a"], key=key))
    before, after = laid_out(declared(["a"], key=key), first), laid_out(declared(["b", "a"], key=key), then)
    assert views_of(before)[0].hash == views_of(after)[0].hash
    pushes = [(before, {"a": 1.0}, "1"), (after, {"a": 2.0, "b": "t"}, "2"), (after, {"a": 4.0, "b": "t"}, "1")]
    done = 0
    for placed, values, name in pushes:
        ingestor = Ingestor(log, [placed], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
        ingestor.push("s", [{"who": "x", "id": name, "at": clock.now_us(), **values}])
        clock.advance_to(clock.now_us() + 1_000_000)
        store = OnlineStore(kv, views_of(placed))
        records = log.read(log.partition, done)
        store.apply(records)
        done = records[-1].position
    question = request("q", key="id", time="at", columns={"id": str, "who": str})
    plan = RequestPlan(feature_set(question, views_of(after)), kv)
    found = plan.read([{"id": "q", "who": "x", "at": 1}], clock.now_us())
    assert found.values == [[4.0, 6.0 if key else 7.0]]
    if key:  # a deletion of what was recorded before there was the column
        ingestor.push("s", [{"id": "1", "_op": "delete"}])
        store.apply(log.read(log.partition, done))
        assert plan.read([{"id": "q", "who": "x", "at": 1}], clock.now_us() + 1).values == [[2.0, 2.0]]


def test_a_table_of_record_takes_added_columns_and_is_read_by_definitions_of_before_and_after(tmp_path: Path) -> None:
    clock = VirtualClock(10_000)
    log, table = MemoryLog(clock=clock), DeltaTable(tmp_path / "s")
    layout: Layout | None = None
    truth: list[dict[str, Any]] = []
    for step, names in enumerate((["a"], ["b", "a"], ["b"], ["c", "a", "b"])):
        layout = layout_with(layout, declared(names, key=False))
        placed = laid_out(declared(names, key=False), layout)
        ingestor = Ingestor(log, [placed], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
        row = {name: VALUES[name] for name in names} | {"who": "x", "id": str(step), "at": 1_000 + step}
        before = History(log, [placed], tables={"s": table})
        before.refresh()  # the table lacks the new column still
        assert before.frame("s").rows == step
        ingestor.push("s", [row])
        truth.append(row)
        assert materialise(log, [placed], {"s": table}).rows == {"s": 1}
        log.truncate(log.partition, log.positions()[log.partition])
        history = History(log, [placed], tables={"s": table})
        history.refresh()
        assert history.frame("s").columns.to_rows() == [{n: r.get(n) for n in layout.columns} for r in truth]
    table.compact()
    assert table.scan(["c"])["c"].to_list() == [None, None, None, 7]
    with pytest.raises(Misuse, match="found none, needed time"):
        table.append(Columns.of({"a": ("float", [1.0])}), writer="w", position=1)
    table.close()


def pushed(log: MemoryLog, placed: Source, row: dict[str, Any]) -> None:
    clock = VirtualClock(10_000)
    ingestor = Ingestor(log, [placed], clock=clock, quarantine=Quarantine(MemoryLog(clock=clock)))
    assert ingestor.push("s", [row], history=True).accepted == 1


@pytest.mark.fast
def test_an_event_without_a_key_is_the_same_again_after_columns_were_added() -> None:
    log = MemoryLog(clock=VirtualClock(10_000))
    rows = [{"who": "x", "id": None, "at": 1_000}, {"who": "x", "id": "i", "a": 1.0, "at": 1_000}]
    layout: Layout | None = None
    for names in (["a"], ["b", "a"], ["c", "b", "a"], ["a"]):
        layout = layout_with(layout, declared(names, key=False))
        for row in rows:
            pushed(log, laid_out(declared(names, key=False), layout), row)
    history = History(log, [laid_out(declared(["a"], key=False), layout)])
    history.refresh()
    assert history.frame("s").rows == 2
    assert history.duplicates == {"s": 6}
    assert history.id_conflicts == {"s": 0}


def test_what_an_added_column_says_is_part_of_what_an_event_without_a_key_is() -> None:
    log = MemoryLog(clock=VirtualClock(10_000))
    first = layout_with(None, declared(["a"], key=False))
    then = layout_with(layout_with(first, declared(["b", "a"], key=False)), declared(["c", "b", "a"], key=False))
    placed = laid_out(declared(["c", "b", "a"], key=False), then)
    row = {"who": "x", "id": "i", "at": 1_000}
    for more in ({}, {"b": "t"}, {"c": 7}, {"b": "t", "c": 7}, {"c": 7}, {}):
        pushed(log, placed, row | more)
    history = History(log, [placed])
    history.refresh()
    assert history.frame("s").rows == 4


def test_a_layout_of_before_there_were_added_columns_is_read_and_keeps_its_ids() -> None:
    kept = decode_layout(b'{"columns":{"who":"str","at":"time"},"format":1}', "s")
    assert kept.first is None
    wider = layout_with(kept, source("s", time="at", columns={"who": str, "a": float}))
    assert (list(wider.columns), wider.first) == (["who", "at", "a"], 2)
    assert layout_with(wider, source("s", time="at", columns={"who": str, "a": float, "b": str})).first == 2
