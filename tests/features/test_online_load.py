"""Views filled from history: the same values and reasons as from the log record by record, then and ever after."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record
from strategies import BASE_US, KEYED, KEYLESS, UNIT_US, views
from test_online import ASK, GivenLog, check, check_offline, feeds, pushed

from trimtab.events.definitions import Source
from trimtab.events.records import Event, encode
from trimtab.features import aggregates as d
from trimtab.features.definitions import view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.fill.fill import fill
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue


def campaign(data: st.DataObject, of: Source, source_of_records: Any = feeds) -> None:
    v = data.draw(views(of))
    records, log = data.draw(source_of_records(of))
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [v])
    plan = RequestPlan(feature_set(ASK, [v]), kv)
    done = data.draw(st.integers(len(log) // 3, len(log)), label="filled up to")
    begun: Any = GivenLog(log[:done])
    for _ in fill(store, begun, most_rows=data.draw(st.sampled_from([1, 3, 100]), label="rows at once")):
        pass
    while True:
        for _ in range(data.draw(st.integers(0, 2), label="reads")):
            check(plan, v, records, data.draw(st.integers(-5, 70).map(lambda n: BASE_US + n * UNIT_US), label="now"))
        if done == len(log):
            break
        end = min(len(log), done + data.draw(st.integers(1, 6), label="batch"))
        store.apply(log[done:end])
        done = end
    for offset in (0, 1, 55, 10**9 // 10):
        check(plan, v, records, BASE_US + offset * UNIT_US)
    check_offline(plan, v, log, BASE_US + data.draw(st.integers(-5, 70), label="wanted offline") * UNIT_US)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_filled_equals_the_oracle_for_events_that_are_corrected(data: st.DataObject) -> None:
    campaign(data, KEYED)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_filled_equals_the_oracle_for_events_without_a_key(data: st.DataObject) -> None:
    campaign(data, KEYLESS)


@settings(deadline=None, max_examples=30)
@given(st.data(), st.sampled_from([KEYED, KEYLESS]))
def test_filled_equals_the_oracle_for_rows_that_were_pushed(data: st.DataObject, of: Source) -> None:
    campaign(data, of, pushed)


def test_a_fill_in_parts_keeps_the_first_of_an_entitys_ended_versions() -> None:
    """Entity "b" had a version dated now that was deleted, and one dated later that another version replaced."""
    records = [
        _record(1, "b", BASE_US, deleted=False),
        _record(2, None, BASE_US, deleted=True),
        _record(3, "b", BASE_US + 590, deleted=False),
        _record(4, "a", BASE_US, deleted=False),
    ]
    log = [
        LogRecord("p0", r.position, BASE_US, encode(Event("readings", r.id, r.event_at_us, 0, op, False, values)))
        for r in records
        for op, values in [("delete" if r.deleted else "upsert", tuple(r.row.values()))]
    ]
    v = view("v", source=KEYED, by="key", features={"x": d.latest("x")})
    kv = MemoryKeyValue()
    given: Any = GivenLog(log)
    list(fill(OnlineStore(kv, [v]), given, most_rows=1))
    check(RequestPlan(feature_set(ASK, [v]), kv), v, records, BASE_US + 560)


def _record(position: int, key: str | None, at_us: int, *, deleted: bool) -> Record:
    row = {"id": "y", "key": key, "at": at_us, "x": None, "n": None, "ok": None, "kind": None}
    return Record(id="y", row=row, event_at_us=at_us, known_at_us=BASE_US, position=position, deleted=deleted)
