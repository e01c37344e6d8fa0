"""Ids with many versions: what is kept of them is little, and no value or reason depends on what is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record
from strategies import BASE_US, KEYED, UNIT_US, rows, views
from test_online import ASK, GivenLog, check, check_offline

from trimtab import features as d
from trimtab.events.definitions import source
from trimtab.events.records import Event, encode
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.fill.fill import fill
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue


@st.composite
def much_corrected(draw: st.DrawFn) -> tuple[list[Record], list[LogRecord]]:
    """A log of many versions of few ids: repeated, deleted, ahead of themselves, and loaded between older ones."""
    records: list[Record] = []
    log: list[LogRecord] = []
    now_us, last = BASE_US, {"p0": 0, "p1": 0}
    contents = [
        draw(rows("x", BASE_US + n * UNIT_US)) for n in draw(st.lists(st.integers(-4, 12), min_size=2, max_size=4))
    ]
    for _ in range(draw(st.integers(3, 24))):
        partition = draw(st.sampled_from(["p0", "p0", "p1"]))
        last[partition] += 1
        now_us += draw(st.sampled_from([0, 0, 1, UNIT_US]))
        record_id = draw(st.sampled_from(["x", "x", "y"]))
        row = {**draw(st.sampled_from(contents)), "id": record_id}
        between = st.integers(-3, 40).map(lambda n: BASE_US + n * UNIT_US // 2)
        known_at = max(
            draw(st.one_of(st.just(now_us), between)), min(now_us, row["at"] + 1)
        )  # once it happened, or later
        deleted = draw(st.integers(0, 4)) == 0
        event_at = row["at"]
        if deleted:
            row = dict.fromkeys(row) | {"id": record_id, "at": event_at}
        position = last[partition]
        records.append(
            Record(id=record_id, row=row, event_at_us=event_at, known_at_us=known_at, partition=partition,
                   position=position, deleted=deleted)
        )  # fmt: skip
        values = tuple(row[name] for name in KEYED.columns)
        payload = encode(
            Event(
                "readings", record_id, event_at, known_at, "delete" if deleted else "upsert", known_at < now_us, values
            )
        )
        log.append(LogRecord(partition, position, now_us, payload))
    return records, log


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_online_and_filled_equal_the_oracle_for_ids_of_many_versions(data: st.DataObject) -> None:
    v = data.draw(views(KEYED))
    records, log = data.draw(much_corrected())
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [v])
    plan = RequestPlan(feature_set(ASK, [v]), kv)
    done = data.draw(st.one_of(st.just(0), st.integers(0, len(log))), label="filled up to")
    if done:
        begun: Any = GivenLog(log[:done])
        for _ in fill(store, begun, most_rows=data.draw(st.sampled_from([1, 3, 100]), label="rows at once")):
            pass
    while True:
        for _ in range(data.draw(st.integers(0, 2), label="reads")):
            check(plan, v, records, data.draw(st.integers(-5, 70).map(lambda n: BASE_US + n * UNIT_US), label="now"))
        if done >= len(log):
            break
        end = min(len(log), done + data.draw(st.integers(1, 8), label="batch"))
        store.apply(log[done:end])
        done = end
    for offset in (0, 1, 55, 10**8):
        check(plan, v, records, BASE_US + offset * UNIT_US)
    check_offline(plan, v, log, BASE_US + data.draw(st.integers(-5, 70), label="wanted offline") * UNIT_US)


ORDERS = source("orders", time="at", key="id", columns={"id": str, "who": str, "x": float})
VIEWS: dict[str, View] = {
    "max_age": view("v", source=ORDERS, by="who", features={"x": d.latest("x", max_age="1h")}),
    "forever": view("v", source=ORDERS, by="who", features={"x": d.latest("x"), "n": d.count(), "lo": d.min("x")}),
    "window": view(
        "v",
        source=ORDERS,
        by="who",
        features={"s": d.sum("x", over="1h"), "m": d.max("x", over="1h", hop=0), "u": d.count_distinct("x", over="1h")},
    ),
}


def order(position: int, *, ahead_us: int = 0, x: float | None = None, known_us: int = 0) -> LogRecord:
    """The next version of one order, a second after the one before."""
    at = BASE_US + position * 1_000_000
    event_at = at + ahead_us - 10
    values = ("one", "w", float(position) if x is None else x, event_at)
    return LogRecord(
        "p", position, at, encode(Event("orders", "one", event_at, known_us, "upsert", known_us > 0, values))
    )


class Counting(MemoryKeyValue):
    """How many bytes a write has."""

    written = 0

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        self.written = sum(len(key) + len(value) for key, value in puts.items())
        super().write(puts, deletes)

    @property
    def size(self) -> int:
        return sum(len(key) + len(value) for key, value in self.scan(b""))


@pytest.mark.parametrize("name", list(VIEWS))
@pytest.mark.parametrize("ahead_us", [0, 86_400_000_000], ids=["past", "dated ahead"])
@pytest.mark.parametrize("batch", [1, 250])
def test_what_an_id_takes_and_an_event_writes_does_not_grow_with_its_versions(
    name: str, ahead_us: int, batch: int
) -> None:
    kv = Counting()
    store = OnlineStore(kv, [VIEWS[name]])
    sizes: list[tuple[int, int]] = []
    for first in range(1, 2_001, batch):
        store.apply([order(n, ahead_us=ahead_us) for n in range(first, first + batch)])
        sizes.append((kv.written, kv.size))
    few, many = sizes[min(250 // batch, len(sizes) - 2)], sizes[-1]
    assert many[0] < 1.2 * few[0]
    assert many[1] < 1.2 * few[1]
    assert many[1] < 2_000


def test_versions_kept_by_an_earlier_trimtab_are_read_and_shortened() -> None:
    kv, v = MemoryKeyValue(), VIEWS["forever"]
    store = OnlineStore(kv, [v])
    store.apply([order(n) for n in range(1, 501)])
    key = store.plans["v"].keys.index + b"sone"
    long = [
        [
            r.appended_at_us,
            "p",
            r.position,
            r.appended_at_us - 10,
            False,
            ["one", "w", float(r.position), r.appended_at_us - 10],
        ]
        for r in map(order, range(1, 501))
    ]
    kv.write({key: msgspec.msgpack.encode(long)})
    assert values_of(kv, v, 501) == [500.0, 1, 500.0]
    store.apply([order(501)])
    assert values_of(kv, v, 502) == [501.0, 1, 501.0]
    assert len(msgspec.msgpack.decode(kv.get(key) or b"")) == 3


def test_of_many_repetitions_the_first_and_the_last_are_kept_and_one_between_them_counts_again() -> None:
    kv, v = MemoryKeyValue(), VIEWS["forever"]
    store = OnlineStore(kv, [v])
    same = order(1)
    store.apply([order(1), *(LogRecord("p", n, BASE_US + n * 1_000_000, same.payload) for n in range(2, 1_001))])
    kept = msgspec.msgpack.decode(kv.get(store.plans["v"].keys.index + b"sone") or b"")
    assert len(kept) < 100
    assert [kept[0][2], kept[-1][2]] == [1, 1_000]
    store.apply([order(1_001, x=7.0, known_us=BASE_US + 500_000_000)])  # what came after it says the old content again
    assert values_of(kv, v, 1_002) == [1.0, 1, 1.0]
    store.apply([order(1_002, x=8.0)])
    assert values_of(kv, v, 1_003) == [8.0, 1, 8.0]


def values_of(kv: MemoryKeyValue, v: View, seconds: int) -> list[Any]:
    ask = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": str})
    plan = RequestPlan(feature_set(ask, [v]), kv)
    return plan.read([{"who": "w"}], BASE_US + seconds * 1_000_000).values[0]


@pytest.mark.soak
def test_a_million_versions_of_one_id_take_what_a_hundred_take(soak_report: Callable[..., None]) -> None:
    kv = Counting()
    store = OnlineStore(kv, [VIEWS["max_age"]])
    figures: dict[str, float] = {}
    for first in range(1, 1_000_001, 500):
        records = [order(n) for n in range(first, first + 500)]
        begun = time.perf_counter()
        store.apply(records)
        if first - 1 in (0, 10_000, 100_000, 999_500):
            figures[f"us_an_event_at_{first - 1}"] = (time.perf_counter() - begun) * 2_000
            figures[f"bytes_at_{first - 1}"] = kv.size
    # not compared with the first 500, whose positions take fewer bytes
    grown = figures["bytes_at_999500"] / figures["bytes_at_10000"]
    soak_report("versions", runs=1_000_000, failures=int(grown > 1.2), **figures)
    assert grown < 1.2
    assert values_of(kv, VIEWS["max_age"], 1_000_001) == [1_000_000.0]
