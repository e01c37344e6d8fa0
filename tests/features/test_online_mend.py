"""States mended after an erasure: byte for byte those of views that are filled anew from the erased log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BASE_US, KEYED, KEYLESS, UNIT_US, views
from test_online import ASK, GivenLog, feeds, pushed

from trimtab.events.definitions import Source, source
from trimtab.events.records import Event, decode, encode, erased, known_at_us
from trimtab.features.aggregates import count, latest
from trimtab.features.aggregates import sum as total
from trimtab.features.definitions import View, view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.fill.fill import fill
from trimtab.features.online.fill.history import SourceRows
from trimtab.features.online.fill.partial_rebuild import Gone, Read, mend
from trimtab.features.online.generations import place
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue


def without(log: Sequence[LogRecord], of: Source, key: str) -> tuple[list[LogRecord], list[Gone]]:
    """A log from which an entity was erased as `trimtab forget` does, and what that knows of the events it touched.

    Where an event was another entity's before, a deletion takes the place of this one's version.
    """
    events = {(r.partition, r.position): decode(r.payload) for r in log}
    places = sorted(
        (events[r.partition, r.position].id, known_at_us(events[r.partition, r.position], r), r.partition, r.position)
        for r in log
        if events[r.partition, r.position].source == of.name
    )
    instead: dict[tuple[str, int], bytes] = {}
    gone: list[Gone] = []
    at = list(of.columns).index("key")
    for _, group in groupby(places, key=lambda one: one[0]):
        versions = [((partition, position), events[partition, position]) for _, _, partition, position in group]
        another, changed = False, False
        for where, event in versions:
            wanted = event.values[at] == key
            another |= of.key is not None and not wanted and event.op != "delete"
            if wanted and another:
                values = zip(of.columns, event.values, strict=True)
                kept = tuple(value if name in (of.key, of.time) else None for name, value in values)
                instead[where] = encode(msgspec.structs.replace(event, op="delete", values=kept))
            elif wanted or (of.key is not None and event.op == "delete" and not another):
                instead[where] = erased(of.name)
            changed |= where in instead
        if changed:
            known = [event for where, event in versions if of.key is not None or where in instead]
            gone += [Gone(event.event_at_us, event.id, event.values) for event in known]
    there = [(r, instead.get((r.partition, r.position), r.payload)) for r in log]
    return [LogRecord(r.partition, r.position, r.appended_at_us, payload) for r, payload in there], gone


def reader(log: Any) -> Read:
    return lambda of, upto, only: SourceRows(log, of, upto, only=only)


def pairs_of(store: OnlineStore, kv: MemoryKeyValue) -> dict[tuple[str, bytes], bytes]:
    """All that a store's only view has, wherever its generation lies."""
    (plan,) = store.plans.values()
    place(plan, store.cursors()[plan.cursor_name].generation)
    kinds: Mapping[str, bytes] = {"i": plan.index_prefix, "r": plan.rows_prefix, "v": plan.state_prefix}
    return {(k, key[len(p) :]): value for k, p in kinds.items() for key, value in kv.scan(p, limit=10**6)}


def asked(plan: RequestPlan, now_us: int) -> Any:
    found = plan.read([{"key": entity} for entity in ("a", "b", "c", None)], now_us)
    return found.values, found.reasons, found.at_us


def mended(v: View, log: Sequence[LogRecord], key: str, *, applied: bool) -> tuple[OnlineStore, MemoryKeyValue, Any]:
    """A store of one view that knew an entity, which was erased; the erased log."""
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [v])
    if applied:
        store.apply(log)
    else:
        list(fill(store, GivenLog(log)))  # type: ignore[arg-type]
    new, gone = without(log, v.source, key)
    given: Any = GivenLog(new)
    left = mend(store, {v.source.name: gone}, reader(given), most_share=1.0)
    assert left == []
    return store, kv, given


def campaign(data: st.DataObject, of: Source) -> None:
    v = data.draw(views(of))
    records, log = data.draw(st.one_of(feeds(of), pushed(of)))
    if not records:
        return
    done = data.draw(st.integers(len(log) // 2, len(log)), label="known then")
    key, applied = data.draw(st.sampled_from("abc")), data.draw(st.booleans(), label="applied one by one")
    begun = log[:done] if done and any(decode(r.payload).source == of.name for r in log[:done]) else log
    store, kv, new = mended(v, begun, key, applied=applied)
    fresh_kv = MemoryKeyValue()
    fresh = OnlineStore(fresh_kv, [v])
    list(fill(fresh, new))
    if not applied:
        assert pairs_of(store, kv) == pairs_of(fresh, fresh_kv)
    features = feature_set(ASK, [v])
    plan, again = RequestPlan(features, kv), RequestPlan(features, fresh_kv)
    moments = [BASE_US + n * UNIT_US for n in (-5, 0, 7, 30, 70)]
    assert [asked(plan, t) for t in moments] == [asked(again, t) for t in moments]
    rest = [r for r in log[len(begun) :] if r.position > store.positions().get(r.partition, 0)]
    for one in (store, fresh):  # what comes afterwards, repetitions and corrections of what was erased among it
        one.apply(rest)
    assert [asked(plan, t) for t in moments] == [asked(again, t) for t in moments]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_mended_equals_filled_anew_for_events_that_are_corrected(data: st.DataObject) -> None:
    campaign(data, KEYED)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_mended_equals_filled_anew_for_events_without_a_key(data: st.DataObject) -> None:
    campaign(data, KEYLESS)


def test_an_event_that_was_set_aside_for_one_that_is_erased_counts_from_then_on() -> None:
    """Sources without a key may hold records of other content under one id; the first counts."""
    v = view("v", source=KEYLESS, by="key", features={"n": count(over=100), "sum": total("n"), "x": latest("x")})

    def record(position: int, key: str, event_id: str, n: int) -> LogRecord:
        values = (event_id, key, BASE_US, 0.5, n, None, None)
        event = Event(KEYLESS.name, event_id, BASE_US, BASE_US, "upsert", False, values)
        return LogRecord("p0", position, BASE_US, encode(event))

    log = [record(1, "c", "other", 1), record(2, "a", "same", 2), record(3, "b", "same", 4), record(4, "b", "other", 8)]
    for applied in (True, False):
        store, kv, _ = mended(v, log, "a", applied=applied)
        found = RequestPlan(feature_set(ASK, [v]), kv).read([{"key": key} for key in "abc"], BASE_US + 1)
        assert found.values == [[0, 0, None], [1, 4, 0.5], [1, 1, 0.5]]
        store.apply([record(5, "a", "same", 2)])  # delivered again: the place is taken by now
        assert RequestPlan(feature_set(ASK, [v]), kv).read([{"key": "a"}], BASE_US + 1).values == [[0, 0, None]]


def test_a_view_of_which_much_is_touched_is_left_to_be_filled_and_one_of_another_source_alone() -> None:
    v = view("v", source=KEYLESS, by="key", features={"n": count()})
    elsewhere = source("elsewhere", time="at", columns={"key": str})
    other = view("other", source=elsewhere, by="key", features={"n": count()})
    events = [
        Event(KEYLESS.name, str(n), BASE_US, BASE_US, "upsert", False, (str(n), "ab"[n > 2], BASE_US, *[None] * 4))
        for n in range(8)
    ]
    log = [LogRecord("p0", n, BASE_US, encode(event)) for n, event in enumerate(events, 1)]
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [v, other])
    store.apply(log)
    new, gone = without(log, KEYLESS, "a")
    given: Any = GivenLog(new)
    before = dict(kv.scan(b"v", limit=10))
    assert mend(store, {KEYLESS.name: gone}, reader(given), most_share=0.0) == []
    assert len(dict(kv.scan(b"v", limit=10))) == len(before) - 1  # nothing is left of it to be read again
    new, gone = without(log, KEYLESS, "b")
    given = GivenLog([*new[:-1], log[-1]])  # one of them stays
    assert mend(store, {KEYLESS.name: gone}, reader(given), most_share=0.1) == ["v"]


def test_what_is_too_much_to_be_mended_is_given_up_before_it_lies_in_memory() -> None:
    v = view("v", source=KEYLESS, by="key", features={"n": count()})
    log = [
        LogRecord("p0", n, BASE_US, encode(Event(KEYLESS.name, str(n), BASE_US, BASE_US, "upsert", False, values)))
        for n in range(1, 1_001)
        for values in [(str(n), "a" if n < 951 else "b", BASE_US, *[None] * 4)]
    ]
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [v])
    store.apply(log)
    gone = [Gone(BASE_US, "1", (None, "a", BASE_US, *[None] * 4))]
    held: list[int] = []

    def read(of: Source, upto: Mapping[str, int], only: Any) -> Any:
        for chunk in SourceRows(GivenLog(log), of, upto, only=only):  # type: ignore[arg-type]
            for n in range(0, chunk.rows, 10):
                held.append(len(range(chunk.rows)[n : n + 10]))
                yield chunk.take(slice(n, n + 10))

    assert mend(store, {KEYLESS.name: gone}, read, most_share=0.1) == ["v"]
    assert 100 <= sum(held) <= 120
    held.clear()
    assert mend(store, {KEYLESS.name: gone}, read, most_share=1.0) == []
    assert sum(held) == 1_900
