"""Windows of many events and values, where states are bounded: first, last, different and frequent values."""

from __future__ import annotations

import random

import numpy as np
import pytest
from oracle import Record, frame_of, oracle

import trimtab as tt
from trimtab.core.columns.data import Columns
from trimtab.events.definitions import Source
from trimtab.events.records import Event, encode
from trimtab.features.aggregates import Aggregate, Several
from trimtab.features.definitions import View
from trimtab.features.feature_set import feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue

COLUMNS = {"id": str, "key": str, "n": int, "x": float}
KEYED = tt.source("keyed", time="at", key="id", columns=COLUMNS)
PLAIN = tt.source("plain", time="at", columns=COLUMNS)
ASK = tt.request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "key": str})
FEATURES: dict[str, Aggregate | Several] = {
    "first": tt.first("x", over=300, hop=10),
    "last": tt.last_n("x", 4, over=300, hop=10),
    "few": tt.last("x", over=20, hop=10, where=tt.col("n") > 30),
    "different": tt.count_distinct("n", over=600, hop=10, k=4),
    "of_the_last": tt.count_distinct("n", over=90, hop=10, k=4),
    "before": tt.count_distinct("x", over=600, hop=10, k=8, until=200),
    "often": tt.top_k("n", 3, over=600, hop=10),
    "greatest": tt.max("x", over=500, hop=10, until=100),
    "spread": tt.std("n", over=500, hop=10, until=450),
    "decayed": tt.decayed_mean("x", half_life=64, hop=10),
}


def history(of: Source, seed: int, count: int) -> list[Record]:
    """Events one after the other, some late, some at one instant, with a key some corrected and some deleted."""
    rng = random.Random(seed)
    records: list[Record] = []
    for position in range(1, count + 1):
        now = 1_000 + 5 * position
        at = now - (rng.randrange(400) if rng.random() < 0.2 else rng.randrange(0, 8, 4))
        again = of.key is not None and records and rng.random() < 0.2
        record_id = rng.choice(records).id if again else f"r{position}"
        row = {"id": record_id, "key": "a", "n": int(rng.paretovariate(0.5)) % 60, "x": rng.gauss(5, 2), "at": at}
        deleted = bool(again and rng.random() < 0.3)
        records.append(
            Record(id=record_id, row=row, event_at_us=at, known_at_us=now, position=position, deleted=deleted)
        )
    return records


def log_of(of: Source, records: list[Record]) -> list[LogRecord]:
    return [
        LogRecord(
            "p0", r.position, r.known_at_us,
            encode(
                Event(
                    of.name, r.id, r.event_at_us, 0, "delete" if r.deleted else "upsert", False,
                    tuple(r.row[name] for name in of.columns),
                )
            ),
        )
        for r in records
    ]  # fmt: skip


def compare(of: Source, view: View, records: list[Record], batch: int) -> int:
    """Online after each batch, and offline for the same instants, against the oracle; how many reads."""
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [view])
    plan = RequestPlan(feature_set(ASK, [view]), kv)
    log = log_of(of, records)
    found, instants = [], []
    for start in range(0, len(log), batch):
        store.apply(log[start : start + batch])
        for later in (1, 77):
            now = log[: start + batch][-1].appended_at_us + later
            got = plan.read([{"key": "a"}], now)
            answer = dict(zip(plan.names, zip(got.values[0], got.reasons[0], strict=True), strict=True))
            expected = oracle(records, view, "a", now, got.positions)
            assert {n: (answer[f"{view.name}.{n}"][0], REASONS[answer[f"{view.name}.{n}"][1]]) for n in expected} == (
                expected
            )
            if later == 1:  # no later record is known then
                found.append(answer)
                instants.append(now)
    requests = Columns.of({"key": ("str", ["a"] * len(instants))})
    offline = evaluate(plan.features, requests, np.array(instants), {of.name: frame_of(records, of)})
    for name in plan.names:
        assert [answer[name][0] for answer in found] == offline.values[name].to_list()
        assert [answer[name][1] for answer in found] == offline.reasons[name].tolist()
    return len(instants)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("of", [PLAIN, KEYED], ids=["plain", "keyed"])
def test_long_histories_give_the_bits_of_the_oracle(of: Source, seed: int) -> None:
    view = tt.view("v", source=of, by="key", features=FEATURES)
    assert compare(of, view, history(of, seed, 360), batch=9) == 40


def test_more_values_than_are_ranked_are_ranked_among_those_of_least_hash() -> None:
    rng = random.Random(4)
    values = [rng.randrange(1_600) for _ in range(3_200)]
    records = [
        Record(
            id=f"r{i}", row={"id": f"r{i}", "key": "a", "n": n, "x": 0.0, "at": 5 * i}, event_at_us=5 * i,
            known_at_us=5 * i, position=i + 1,
        )
        for i, n in enumerate(values)
    ]  # fmt: skip
    features = {"ever": tt.top_k("n", 3), "often": tt.top_k("n", 5, over=14_000, hop=1_000)}
    assert compare(PLAIN, tt.view("v", source=PLAIN, by="key", features=features), records, batch=800) == 4


def test_a_state_that_only_grows_at_its_end_keeps_no_more_than_it_needs() -> None:
    features = {"last": tt.last_n("x", 4, over=10**6, hop=10), "different": tt.count_distinct("n", over=10**6, k=16)}
    view = tt.view("v", source=PLAIN, by="key", features=features)
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [view])
    sizes = []
    records = [
        Record(
            id=f"r{i}", row={"id": f"r{i}", "key": "a", "n": i, "x": 0.0, "at": 10 * i}, event_at_us=10 * i,
            known_at_us=10 * i, position=i + 1,
        )
        for i in range(4_000)
    ]  # fmt: skip
    log = log_of(PLAIN, records)
    for start in range(0, len(log), 500):
        store.apply(log[start : start + 500])
        packed = kv.get(store.plans["v"].keys.states + b"sa")
        assert packed is not None
        sizes.append(len(packed) - 48 * (start + 500))  # without the tiles' counts
    assert max(sizes) < 4_000


def test_a_state_of_events_that_share_a_instant_keeps_no_more_than_it_needs_where_they_have_a_key() -> None:
    rng = random.Random(5)
    features = {"first": tt.first("x", over=6_000, hop=500), "last": tt.last_n("x", 3, over=6_000, hop=500)}
    view = tt.view("v", source=KEYED, by="key", features=features)
    records: list[Record] = []
    for position in range(1, 1_201):
        at = position // 300 * 1_500  # of a day's events only the day is known
        again = rng.choice(records).id if records and rng.random() < 0.1 else f"r{position}"
        row = {"id": again, "key": "a", "n": 1, "x": rng.gauss(5, 2), "at": at}
        deleted = again != f"r{position}" and rng.random() < 0.5
        records.append(
            Record(id=again, row=row, event_at_us=at, known_at_us=5 * position, position=position, deleted=deleted)
        )
    assert compare(KEYED, view, records, batch=60) == 20
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [view])
    store.apply(log_of(KEYED, records))
    packed = kv.get(store.plans["v"].keys.states + b"sa")
    assert packed is not None
    assert len(packed) < 5 * (1 + 3) * 90 + 300  # of each hop one first row and three last ones
