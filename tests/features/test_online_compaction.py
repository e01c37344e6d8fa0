"""What compaction gives back, by hand-made cases, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest
from test_online_store import ASK, FIXED, KEYED, PLAIN, WINDOW, event, read, values

from trimtab import features as d
from trimtab.events.records import Event, encode
from trimtab.features.definitions import View, view
from trimtab.features.online.compaction import Compacted, Compaction, largest_states
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue

AGED = view("aged", source=PLAIN, by="who", features={"x": d.latest("x", max_age=50), "n": d.count(over=20)})
AGED_KEYED = view("aged_keyed", source=KEYED, by="who", features={"x": d.latest("x", max_age=50)})
EVER = view("ever", source=PLAIN, by="who", features={"n": d.count(), "m": d.count(over=20)})

assert ASK.key == "ask_id"


def passed(position: int, at: int) -> LogRecord:
    """A record of another source: S moves on."""
    return LogRecord("p", position, at, encode(Event("other", "i", 0, 0, "upsert", False, ())))


def compacted(store: OnlineStore) -> Compacted:
    return sum(Compaction(store).whole(), Compacted())


def size(kv: MemoryKeyValue) -> int:
    return sum(len(key) + len(value) for key, value in kv.scan(b""))


@pytest.mark.fast
def test_an_entity_without_news_shrinks_to_a_stub_and_stays_known() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [WINDOW, AGED])
    store.apply([*(event(PLAIN, i, 10 * i) for i in range(1, 21)), passed(21, 5_000)])
    before, answers = size(kv), [read(kv, v, 5_000) for v in (WINDOW, AGED)]
    found = compacted(store)
    assert (found.states, found.shrunk, found.done) == (2, 2, True)
    assert found.freed_bytes > 100
    assert found.index_rows == 40
    assert size(kv) < before / 3
    assert [read(kv, v, 5_000) for v in (WINDOW, AGED)] == answers
    assert read(kv, WINDOW, 5_000).reason(0, "window_x.n") == "outside_window"
    assert read(kv, AGED, 5_000).reason(0, "aged.x") == "expired"
    again = compacted(store)
    assert (again.shrunk, again.freed_bytes, again.index_rows) == (0, 0, 0)


def test_a_latest_value_goes_only_when_it_is_older_than_its_age() -> None:
    for v, of in ((AGED, PLAIN), (AGED_KEYED, KEYED)):
        for s_us, found in ((150, "found"), (151, "expired")):
            kv = MemoryKeyValue()
            store = OnlineStore(kv, [v])
            store.apply([event(of, 1, 100, eid="e"), passed(2, s_us)])
            compacted(store)
            assert read(kv, v, 0).at_us == s_us
            assert read(kv, v, 0).reason(0, f"{v.name}.x") == found


def test_a_repetition_counts_once_in_lifetime_features_however_old_it_is() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [EVER])
    store.apply([event(PLAIN, 1, 10), passed(2, 5_000)])
    assert compacted(store).index_rows == 0
    store.apply([event(PLAIN, 3, 10, appended=5_000)])
    assert values(kv, EVER, 5_000) == [1, 0]
    assert store.counts()["ever"].duplicates == 1


@pytest.mark.parametrize(("s_us", "kept"), [(119, True), (120, True), (130, False), (131, False)])
def test_an_event_may_be_repeated_as_long_as_a_window_can_see_it(s_us: int, kept: bool) -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [WINDOW])  # over=100, hop=10: an event at 25 is seen until 129
    store.apply([event(PLAIN, 1, 25), passed(2, s_us)])
    assert compacted(store).index_rows == (not kept)
    store.apply([event(PLAIN, 3, 25, appended=s_us)])
    assert values(kv, WINDOW, s_us) == ([1, 1.0] if kept else [0, 0.0])


def test_versions_of_an_event_go_when_no_window_sees_any_of_them() -> None:
    windows = view("sums", source=KEYED, by="who", features={"s": d.sum("x", over=100, hop=10)})
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [windows, FIXED])
    store.apply([event(KEYED, 1, 10, eid="old"), event(KEYED, 2, 4_950, eid="new", who="b", x=2.0), passed(3, 5_000)])
    assert compacted(store).index_rows == 2  # of `old`: its versions, and its entity's entry; `fixed` is for ever
    assert (values(kv, windows, 5_000), values(kv, FIXED, 5_000)) == ([0.0], [0.0, None, 1.0])
    assert values(kv, windows, 5_000, "b") == [2.0]
    store.apply([event(KEYED, 4, 4_960, eid="old", x=5.0, appended=5_001)])  # it comes back
    assert (values(kv, windows, 5_001), values(kv, FIXED, 5_001)) == ([5.0], [5.0, 5.0, 5.0])


def test_compaction_goes_in_steps_and_looks_at_every_view() -> None:
    kv = MemoryKeyValue()
    views: list[View] = [WINDOW, AGED]
    store = OnlineStore(kv, views)
    names = [f"w{i}" for i in range(10)]
    store.apply([*(event(PLAIN, i, 10 + i, who=who) for i, who in enumerate(names, 1)), passed(11, 5_000)])
    compaction = Compaction(store)
    steps: list[Any] = []
    while not steps or not steps[-1].done:
        steps.append(compaction.step(3))
    assert [step.states for step in steps] == [3, 3, 3, 1, 0, 0, 0, 0, 3, 3, 3, 1, 0, 0, 0, 0, 0]
    assert max(step.index_rows for step in steps) == 3
    assert sum(steps, Compacted()).shrunk == 20


def test_the_largest_states_are_found() -> None:
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [WINDOW])
    store.apply([event(PLAIN, i, 10 * i, who="a" if i % 3 else "b") for i in range(1, 10)])
    one, other = largest_states(store, 2)
    assert (one.view, one.entity, other.entity) == ("window_x", "a", "b")
    assert one.size_bytes > other.size_bytes > 0
    assert largest_states(store, 1) == [one]
