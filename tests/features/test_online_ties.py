"""Many events of an entity at one instant: the greatest counts, each once, and each costs what the first did."""

from __future__ import annotations

import random
from typing import Any

import pytest
from test_online import GivenLog

from trimtab import features as d
from trimtab.events.definitions import source
from trimtab.events.records import Event, encode
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.compaction import Compaction
from trimtab.features.online.fill.fill import fill
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue

PLAIN = source("daily", time="at", columns={"who": str, "x": int})
KEYED = source("daily", time="at", key="id", columns={"id": str, "who": str, "x": int})
ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": str})
DAY_US = 86_400_000_000
ALONE = {"x": d.latest("x", max_age="5d")}
WINDOWED = {"x": d.latest("x"), "n": d.count(over="7d"), "last": d.last("x", over="7d")}


def event(
    position: int, at_us: int, n: int, appended_us: int, known_us: int | None = None, *, keyed: bool = False
) -> LogRecord:
    values: tuple[Any, ...] = ("w", n, at_us)
    values = (f"{at_us}-{n}", *values) if keyed else values
    known = 0 if known_us is None else known_us
    payload = encode(Event("daily", f"{at_us}-{n}", at_us, known, "upsert", known_us is not None, values))
    return LogRecord("p0", position, appended_us, payload)


def read(kv: MemoryKeyValue, v: View, now_us: int) -> list[Any]:
    return RequestPlan(feature_set(ASK, [v]), kv).read([{"who": "w"}], now_us).values[0]


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("features", [ALONE, WINDOWED], ids=["alone", "windowed"])
@pytest.mark.parametrize("seed", range(4))
def test_the_greatest_of_many_at_one_instant_counts_however_they_come_again(
    seed: int, features: dict[str, Any], keyed: bool
) -> None:
    rng = random.Random(seed)
    v = view("v", source=KEYED if keyed else PLAIN, by="who", features=features)
    kv, log = MemoryKeyValue(), list[LogRecord]()
    store = OnlineStore(kv, [v])
    now_us, first = DAY_US * 10, dict[tuple[int, int], tuple[int, int]]()
    done = 0
    for position in range(1, 900):
        now_us += rng.randrange(3)
        at_us = DAY_US * (8 if position < 500 or rng.random() < 0.2 else 9)
        n = rng.randrange(150) if position % 300 < 250 else 149 - position % 150  # in the end from the last on
        history = None if rng.random() < 0.5 else max(at_us, now_us - rng.randrange(2_000))
        log.append(event(position, at_us, n, now_us, history, keyed=keyed))
        place = (now_us if history is None else history, position)
        first[at_us, n] = min(first.get((at_us, n), place), place)
        if rng.random() < 0.1 or position == 899:
            if seed == 1 and not done:
                given: Any = GivenLog(log)
                list(fill(store, given, most_rows=rng.choice([50, 10_000])))
            else:
                store.apply(log[done:])
            done = len(log)
            (_, winner), _ = max(first.items(), key=lambda item: (item[0][0], item[1]))
            assert read(kv, v, now_us + 2_000)[0] == winner
    assert read(kv, v, now_us + 2_000)[1:] == ([] if features is ALONE else [len(first), winner])
    filled, every = MemoryKeyValue(), GivenLog(log)
    list(fill(OnlineStore(filled, [v]), every))  # type: ignore[arg-type]  # as much of a log as is read
    assert read(filled, v, now_us + 2_000) == read(kv, v, now_us + 2_000)


@pytest.mark.parametrize("features", [ALONE, {**ALONE, "n": d.count(over="7d")}], ids=["alone", "windowed"])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_state_does_not_grow_with_the_events_of_an_instant(features: dict[str, Any], keyed: bool) -> None:
    kv, v = MemoryKeyValue(), view("v", source=KEYED if keyed else PLAIN, by="who", features=features)
    store = OnlineStore(kv, [v])
    sizes = []
    for n in range(1, 1_001):
        store.apply([event(n, DAY_US, n, DAY_US + n, keyed=keyed)])
        sizes.append(len(kv.get(store.plans["v"].keys.states + b"sw") or b""))
    assert max(sizes) < 1.2 * max(sizes[:100])


def rows_kept(store: OnlineStore, kv: MemoryKeyValue) -> int:
    return len(list(kv.scan(store.plans["v"].keys.rows)))


def test_what_is_kept_of_an_instant_goes_with_it() -> None:
    kv, v = MemoryKeyValue(), view("v", source=PLAIN, by="who", features=ALONE)
    store = OnlineStore(kv, [v])
    store.apply([event(n, DAY_US, n, DAY_US + n) for n in range(1, 501)])
    assert rows_kept(store, kv) > 400
    store.apply([event(501, 2 * DAY_US, 1, 2 * DAY_US + 1)])
    assert rows_kept(store, kv) == 0
    store.apply([event(501 + n, 3 * DAY_US, n, 3 * DAY_US + n) for n in range(1, 501)])
    assert rows_kept(store, kv) > 400
    other = encode(Event("other", "i", 0, 0, "upsert", False, ()))
    store.apply([LogRecord("p0", 1_002, 9 * DAY_US, other)])
    list(Compaction(store).whole())
    assert rows_kept(store, kv) == 0
    assert read(kv, v, 9 * DAY_US) == [None]
