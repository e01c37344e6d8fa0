"""What the online benchmarks share: Zipf events, views over them, their log, and the same bytes in bare LMDB."""

from __future__ import annotations

import bisect
import gc
import hashlib
import itertools
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from trimtab import features as d
from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.expressions.nodes import col
from trimtab.events.definitions import source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.events.records import Event, encode
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.online.packed.keys import name_bytes
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import POSITIONS_KEY, OnlineStore
from trimtab.serving.applier import Applier

KEYS = 100_000
BATCH = 1_000
BEGIN_US = 1_700_000_000_000_000
WEEK_US = 7 * 86_400_000_000
LIVE_STEP_US = 1_000
HISTORY_STEP_US = 600_000

PAYMENTS = source("payments", time="at", columns={"user": str, "shop": str, "amount": float, "ok": bool})

LATEST = view("card", source=PAYMENTS, by="user", features={"amount": d.latest("amount"), "ok": d.latest("ok")})
WINDOWS = view(
    "spending",
    source=PAYMENTS,
    by="user",
    features={
        "payments_1h": d.count(over="1h"),
        "payments_1d": d.count(over="1d"),
        "amount_1h": d.sum("amount", over="1h"),
        "amount_7d": d.sum("amount", over="7d"),
        "mean_1d": d.mean("amount", over="1d"),
        "ok_7d": d.mean(col("ok"), over="7d"),
        "least_1d": d.min("amount", over="1d"),
        "most_7d": d.max("amount", over="7d"),
    },
)
TEN_FEATURES = [  # over three views
    view("last", source=PAYMENTS, by="user", features={"amount": d.latest("amount"), "ok": d.latest("ok")}),
    view(
        "recent",
        source=PAYMENTS,
        by="user",
        features={
            "payments_1h": d.count(over="1h"),
            "payments_1d": d.count(over="1d"),
            "amount_1d": d.sum("amount", over="1d"),
            "mean_7d": d.mean("amount", over="7d"),
            "most_7d": d.max("amount", over="7d"),
        },
    ),
    view(
        "shop",
        source=PAYMENTS,
        by="shop",
        features={"ok_7d": d.mean(col("ok"), over="7d"), "payments_7d": d.count(over="7d"), "ever": d.count()},
    ),
]
ASK = request("ask", key="id", time="asked_at", columns={"id": str, "user": str, "shop": str})


class Events:
    """Payments without end: users Zipf 1.1 of 100,000, known up to a second late."""

    def __init__(self, keys: int = KEYS, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self._weights = list(itertools.accumulate((i + 1) ** -1.1 for i in range(keys)))
        self.now_us = BEGIN_US

    def user(self) -> str:
        place = self._random.random() * self._weights[-1]
        return f"u{bisect.bisect(self._weights, place)}"

    def rows(self, step_us: int, count: int = BATCH) -> tuple[list[dict[str, Any]], list[int]]:
        """Rows and the times at which they become known; one every `step_us` on average."""
        chance = self._random
        rows, times = [], []
        for _ in range(count):
            self.now_us += chance.randrange(2 * step_us)
            event_at = self.now_us - chance.randrange(1_000_000)
            shop, amount = f"s{chance.randrange(1_000)}", round(chance.gauss(50, 20), 2)
            rows.append(
                {"user": self.user(), "shop": shop, "amount": amount, "ok": chance.random() < 0.9, "at": event_at}
            )
            times.append(self.now_us)
        return rows, times

    def batch(self, step_us: int, count: int = BATCH) -> tuple[list[bytes], list[int]]:
        """Payloads and append times; one every `step_us` on average."""
        rows, times = self.rows(step_us, count)
        ids = [f"{self._random.getrandbits(64):016x}" for _ in rows]
        events = [
            Event("payments", made, row["at"], 0, "upsert", False, tuple(row.values()))
            for made, row in zip(ids, rows, strict=True)
        ]
        return list(map(encode, events)), times


class Row(msgspec.Struct):
    """A row of `PAYMENTS`, with the types that are checked by hand."""

    user: str
    shop: str
    amount: float
    ok: bool
    at: int


class Ingest:
    """A log, a view that an applier keeps up to date from it as in a service, and the same by hand next to them.

    A week of history comes first, so that windows are full and their tails move; then 1,000 events a second. The
    applier's thread reads the log and applies what it finds, up to its own measure of records in one synced
    transaction.
    """

    def __init__(self, folder: Path, view: View, warm: int = 60) -> None:
        self._clock = VirtualClock(BEGIN_US)
        self._log = store.open(f"sqlite://{folder}/log", "log", clock=self._clock)
        self._kv = store.open(f"lmdb://{folder}/online?mode=relaxed", "kv")  # as a project opens it
        self._online = OnlineStore(self._kv, [view])
        refused = Quarantine(store.open(f"sqlite://{folder}/quarantine", "log"))
        self._ingestor = Ingestor(self._log, [PAYMENTS], clock=self._clock, quarantine=refused)
        self._events = Events()
        self._bare = lmdb.open(str(folder / "bare"), map_size=1 << 30)
        self._bare_log = sqlite3.connect(folder / "bare.db", isolation_level=None)
        for line in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE event (position INTEGER PRIMARY KEY, id TEXT, payload BLOB)",
        ):
            self._bare_log.execute(line)
        self._prefix = self._online.plans[view.name].keys.states
        self.apply(warm, step_us=WEEK_US // (warm * BATCH))
        self.put(warm)

    def ingest(self, batches: int) -> float:
        """Events per second: checked, identified and appended in durable batches of 1,000, and applied to the view."""
        ready = [(self._events.rows(LIVE_STEP_US)[0], self._events.now_us) for _ in range(batches)]
        return self._applied(batches, lambda: [self._push(rows, now_us) for rows, now_us in ready][-1])

    def apply(self, batches: int, step_us: int = LIVE_STEP_US) -> float:
        """Events per second that are read from the log and applied to the view, durable."""
        for _ in range(batches):
            payloads, times = self._events.batch(step_us)
            positions = self._log.append(payloads, at_us=times)
        return self._applied(batches, lambda: positions[-1])

    def _push(self, rows: list[dict[str, Any]], now_us: int) -> int:
        self._clock.advance_to(now_us)
        pushed = self._ingestor.push("payments", rows)
        assert pushed.accepted == BATCH
        return pushed.position

    def _applied(self, batches: int, appended: Callable[[], int]) -> float:
        before = sum(self._online.positions().values())
        with Applier(self._log, self._online.apply, self._online.positions) as applier:
            gc.collect()
            begin = time.perf_counter()
            applier.start()
            applier.wait_applied({self._log.partition: appended()}, 600)
            took_s = time.perf_counter() - begin
        assert sum(self._online.positions().values()) == before + batches * BATCH
        return batches * BATCH / took_s

    def by_hand(self, batches: int) -> float:
        """Events per second by hand: types checked, an id from the content, SQLite and LMDB, both synced, one thread.

        A row of 200 bytes is put under the key of each event.
        """
        ready = [self._events.rows(LIVE_STEP_US)[0] for _ in range(batches)]
        encoded = msgspec.msgpack.Encoder().encode
        gc.collect()
        begin = time.perf_counter()
        for rows in ready:
            checked = msgspec.convert(rows, list[Row])
            payloads = list(map(encoded, checked))
            ids = [hashlib.blake2b(payload, digest_size=16).hexdigest() for payload in payloads]
            self._bare_log.execute("BEGIN IMMEDIATE")
            self._bare_log.executemany("INSERT INTO event (id, payload) VALUES (?, ?)", zip(ids, payloads, strict=True))
            self._bare_log.execute("COMMIT")
            with self._bare.begin(write=True) as transaction:
                for row in checked:
                    transaction.put(self._prefix + name_bytes(row.user), bytes(200))
        return batches * BATCH / (time.perf_counter() - begin)

    def put(self, batches: int) -> float:
        """Rows per second into bare LMDB: as many rows, under the same keys, of 200 bytes, a sync a batch."""
        ready = [
            [(self._prefix + name_bytes(self._events.user()), bytes(200)) for _ in range(BATCH)] for _ in range(batches)
        ]
        gc.collect()
        begin = time.perf_counter()
        for rows in ready:
            with self._bare.begin(write=True) as transaction:
                for key, value in rows:
                    transaction.put(key, value)
        return batches * BATCH / (time.perf_counter() - begin)


class Reads:
    """Three views over 60,000 events, and the same bytes in bare LMDB."""

    def __init__(self, folder: Path, rows: int) -> None:
        kv = store.open(f"lmdb://{folder}/online", "kv")
        online = OnlineStore(kv, TEN_FEATURES)
        events = Events(keys=2_000)
        log = store.open(f"sqlite://{folder}/log", "log")
        for _ in range(60):
            payloads, times = events.batch(HISTORY_STEP_US)
            positions = log.append(payloads, at_us=times)
            online.apply(log.read(log.partition, positions.start - 1, limit=BATCH))
        self._plan = RequestPlan(feature_set(ASK, TEN_FEATURES), kv)
        self._now_us = events.now_us + 60_000_000
        chance = random.Random(3)
        self._asked = [
            [{"user": events.user(), "shop": f"s{chance.randrange(1_000)}"} for _ in range(rows)] for _ in range(300)
        ]
        self._bare = lmdb.open(str(folder / "bare"), map_size=1 << 30, readahead=False)
        with self._bare.begin(write=True) as transaction:
            for prefix in (b"v", POSITIONS_KEY):
                for key, value in kv.scan(prefix, limit=1_000_000):
                    transaction.put(key, value)
        plans = list(online.plans.values())
        self._keys = [
            [POSITIONS_KEY, *(p.keys.states + name_bytes(row[p.view.by[0]]) for row in rows for p in plans)]
            for rows in self._asked
        ]
        found = sum(reason == 0 for rows in self._asked for why in self._ask(rows).reasons for reason in why)
        assert found > 0.5 * 10 * rows * len(self._asked)

    def _ask(self, rows: Sequence[dict[str, Any]]) -> Any:
        return self._plan.read(rows, self._now_us)

    def ours(self) -> float:
        """Median microseconds of one read: values and reasons of all features."""
        return _median_us([(self._ask, rows) for rows in self._asked])

    def floor(self) -> float:
        """Median microseconds to get the same bytes in one transaction and decode them."""
        decode = msgspec.msgpack.Decoder().decode

        def get(keys: list[bytes]) -> list[Any]:
            with self._bare.begin() as transaction:
                return [None if raw is None else decode(raw) for raw in map(transaction.get, keys)]

        return _median_us([(get, keys) for keys in self._keys])


def _median_us(calls: list[tuple[Any, Any]]) -> float:
    clock, times = time.perf_counter_ns, []
    for what, argument in calls * 3:
        begin = clock()
        what(argument)
        times.append(clock() - begin)
    return statistics.median(times) / 1_000
