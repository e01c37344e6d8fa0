"""Event streams with chosen hazards, read through every path and by the oracle; differences are counted by hazard."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from oracle import Record, oracle

from trimtab import features as f
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.expressions.nodes import col
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source, Time, source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.events.records import decode, known_at_us
from trimtab.features.definitions import request, view
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import KeyValue, LogRecord
from trimtab.testing import MemoryLog

HAZARDS = (
    "at exactly t", "ties", "late", "future-dated", "embargoed", "known before it came", "view behind the log",
    "t in the past", "server clock behind", "deleted", "replaced", "odd numbers", "nulls", "many keys",
    "delivered twice", "loaded history", "two partitions", "restarts",
    "column added",
)  # fmt: skip
KEYED_ONLY = {"deleted", "replaced"}

COLUMNS: dict[str, type] = {"id": str, "key": str, "kind": str, "at": Time, "x": float, "n": int, "ok": bool}
KEYED = source("keyed", time="at", key="id", columns=COLUMNS, delay=50)
PLAIN = source("plain", time="at", columns=COLUMNS, delay=50)
ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "key": str, "kind": str})
BEGIN_US = 1_700_000_000_000_000
STEP_US = 1_000  # between events, about
EVENTS = 40  # of a stream of `make soak`
FEW = 20


def features_of(of: Source) -> FeatureSet:
    """Every aggregate, by one column and by two, both boundaries."""
    hop = 4 * STEP_US
    span: dict[str, Any] = {"over": 12 * STEP_US, "hop": hop}
    many = {
        "newest": f.latest("x"), "fresh": f.latest("n", max_age=5 * STEP_US), "kind": f.latest("kind"),
        "rows": f.count(**span), "values": f.count("x", over=12 * STEP_US, hop=0), "ever": f.count(),
        "sum": f.sum("x", **span), "sum_n": f.sum("n"), "sum_ok": f.sum("ok", over=3 * STEP_US),
        "mean": f.mean("x", where=col("ok"), **span), "mean_n": f.mean("n", over=24 * STEP_US),
        "var": f.var("x", **span), "std": f.std("n", over=12 * STEP_US), "std_ever": f.std("x"),
        "first": f.first("x", **span), "first_at": f.first("at"), "last": f.last("n", **span),
        "last_x": f.last_n("x", 3, **span), "last_ever": f.last_n("n", 2),
        "kinds": f.count_distinct("kind", **span), "some": f.count_distinct("n", k=3, **span),
        "numbers": f.count_distinct("x"), "top": f.top_k("n", 3, **span), "top_ever": f.top_k("n", 2),
        "decayed": f.decayed_sum("x", half_life=4 * STEP_US), "aged": f.decayed_mean("x", half_life=2 * STEP_US),
        "before": f.count(until=hop, **span), "sum_before": f.sum("x", until=2 * hop, **span),
        "low_before": f.min("x", until=hop, **span), "last_before": f.last("x", over=12 * STEP_US, until=hop),
        "low": f.min("x", **span), "high": f.max("n"), "high_x": f.max("x", over=12 * STEP_US, hop=0),
    }  # fmt: skip
    by_key = view("by_key", source=of, by="key", features=many)
    by_pair = view("by_pair", source=of, by=["key", "kind"], features=many, boundary="inclusive")
    numbers = [name for name in by_key.features if name != "kind"]  # text would have to be a category
    by_kind = view("by_kind", source=of, by="kind", features={"n": f.count(), "x": f.sum("x", **span)})
    own = by_kind.join("own_kind", by=by_key["kind"])  # the same view twice, once by what another one gives
    return feature_set(ASK, [by_key.join(select=numbers), by_pair.join(select=numbers), by_kind, own])


class Stream:
    """A seeded stream of events with hazards, in the logs of one or two writers.

    Args:
        of: The source.
        hazards: What happens in it.
        seed: Of all that is random.
        events: How many there are to come.
    """

    def __init__(self, of: Source, hazards: Sequence[str], seed: int, events: int = EVENTS) -> None:
        self.source = of
        self.hazards = frozenset(hazards)
        self.random = random.Random(f"{seed} {sorted(hazards)} {of.name}")
        self.now_us = BEGIN_US
        self.log: list[LogRecord] = []
        self.times: list[int] = []  # event times so far
        self._said: list[dict[str, Any]] = []
        self._wider_from = 0  # how many events come before the source has its last column
        names = ("p0", "p1") if "two partitions" in self.hazards else ("p0",)
        self._clock = VirtualClock(self.now_us)
        self._writers = {name: MemoryLog(clock=self._clock) for name in names}
        self._ingestors = self._opened(of)
        if "column added" in self.hazards:  # the last one: the first events come without it
            columns = dict(list(of.columns.items())[:-1])
            self._ingestors = self._opened(msgspec.structs.replace(of, columns=columns))
            self._wider_from = events // 3

    def _opened(self, of: Source) -> dict[str, Ingestor]:
        refused: Any = MemoryLog(clock=self._clock)
        return {
            name: Ingestor(writer, [of], clock=self._clock, quarantine=Quarantine(refused))
            for name, writer in self._writers.items()
        }

    def one(self, hazard: str, share: float = 0.3) -> bool:
        """Whether a hazard happens now."""
        return hazard in self.hazards and self.random.random() < share

    def go(self) -> None:
        """One more event, or a few."""
        draw = self.random
        self.now_us += draw.choice([STEP_US, STEP_US, STEP_US // 2, 3 * STEP_US])
        self._clock.advance_to(self.now_us)
        name = draw.choice(list(self._writers))
        row = self._row()
        if len(self.log) < self._wider_from:
            row.pop(list(self.source.columns)[-1], None)
        elif self._wider_from:
            self._ingestors, self._wider_from = self._opened(self.source), 0
        if self.one("loaded history", 0.2):
            self._ingestors[name].load(self.source.name, Columns.of({
                c: (d, [row[c]]) for c, d in self.source.columns.items() if c in row
            }))  # fmt: skip
        else:
            self._ingestors[name].push(self.source.name, [row])
        self._collect()

    def _row(self) -> dict[str, Any]:
        draw = self.random
        if self._said and self.one("delivered twice"):
            return dict(draw.choice(self._said))
        if self._said and self.one("replaced"):
            before = draw.choice(self._said)
            changed = {"x": draw.uniform(-9, 9), "key": self._key(), "at": before["at"] + draw.choice([0, 0, STEP_US])}
            row = before | {name: changed[name] for name in draw.sample(sorted(changed), draw.randint(1, 3))}
        elif self._said and self.one("deleted"):
            row = draw.choice(self._said) | {"_op": "delete"}
        else:
            row = self._new()
        if self.one("embargoed"):
            row["_known_at"] = self.now_us + draw.randint(1, 15) * STEP_US
        elif self.one("known before it came"):
            row["_known_at"] = self.now_us - draw.randint(1, 15) * STEP_US
        if row.get("_op") != "delete":
            self._said.append(row)
        self.times.append(row["at"])
        return row

    def _new(self) -> dict[str, Any]:
        draw = self.random
        at = self.now_us - draw.randint(1, STEP_US // 4)
        if self.one("at exactly t"):
            at = self.now_us + draw.choice([0, 0, 1, STEP_US])
        if self.one("ties", 0.5) and self.times:
            at = draw.choice(self.times[-3:])
        if self.one("late"):
            at -= draw.randint(1, 30) * STEP_US
        if self.one("future-dated"):
            at = self.now_us + draw.randint(1, 20) * STEP_US
        x: float | None = draw.choice([draw.uniform(-5, 5), 0.1, 1e16, -1e16, 3.0])
        if self.one("odd numbers"):
            x = draw.choice([math.nan, math.inf, -math.inf, -0.0, 1e300, -1e150, 5e-324])
        row = {"id": f"e{len(self._said)}", "key": self._key(), "kind": draw.choice("uv"), "at": at, "x": x,
               "n": draw.randint(-3, 9), "ok": draw.random() < 0.6}  # fmt: skip
        if "nulls" in self.hazards:
            row |= {name: None for name in ("key", "kind", "x", "n", "ok") if draw.random() < 0.2}
        return row

    def _key(self) -> str:
        return f"k{self.random.randrange(60 if 'many keys' in self.hazards else 2)}"

    def _collect(self) -> None:
        """Take over what the writers have appended, under the partitions' names."""
        for name, writer in self._writers.items():
            have = sum(r.partition == name for r in self.log)
            for record in writer.read(writer.partition, have):
                self.log.append(LogRecord(name, record.position, record.appended_at_us, record.payload))

    def records(self) -> list[Record]:
        """What the log says, for the oracle."""
        found = []
        for record in self.log:
            event = decode(record.payload)
            row = dict.fromkeys(self.source.columns) | dict(zip(self.source.columns, event.values, strict=False))
            found.append(
                Record(
                    id=event.id, row=row, event_at_us=event.event_at_us, known_at_us=known_at_us(event, record),
                    partition=record.partition, position=record.position, deleted=event.op == "delete",
                )
            )  # fmt: skip
        return found

    def instant(self) -> int:
        """The time of the next read."""
        draw = self.random
        at = self.now_us + draw.randint(1, STEP_US // 2) * 2 - 1
        if self.one("server clock behind", 0.7):
            at = self.now_us - draw.randint(1, 20) * STEP_US
        if self.one("at exactly t", 0.8):
            at = max([self.now_us, *self.times[-6:]]) + draw.choice([0, 0, 1])
        return at

    def past_time(self) -> int | None:
        """An earlier time to read at too, if the hazards have that."""
        if "t in the past" not in self.hazards:
            return None
        if self.times and self.one("at exactly t", 0.5):
            return self.random.choice(self.times)
        return self.now_us - self.random.randint(0, 30) * STEP_US


class Given:
    """As much of a log as a history reads."""

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self._records = records

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        return [r for r in self._records if r.partition == partition and r.position > after][:limit]

    def positions(self) -> dict[str, int]:
        return {r.partition: r.position for r in self._records}


def run(
    of: Source, hazards: Sequence[str], seed: int, kv: KeyValue, events: int = EVENTS
) -> tuple[int, list[str]]:  # fmt: skip
    """One stream, read now and then through every path: how many values and reasons, and those that differ."""
    stream = Stream(of, hazards, seed, events)
    features = features_of(of)
    store, plan = OnlineStore(kv, features.views), RequestPlan(features, kv)
    applied = reads = 0
    wrong: list[str] = []
    for n in range(events):
        stream.go()
        if stream.one("restarts"):
            store, plan = OnlineStore(kv, features.views), RequestPlan(features, kv)
        if not (stream.one("view behind the log", 0.6) and n < events - 1):
            again = stream.random.randint(0, min(3, applied)) if stream.one("delivered twice") else 0
            store.apply(stream.log[applied - again :])
            applied = len(stream.log)
        if n % 4 == 3:
            some, differ = compare(stream, features, plan)
            reads += some
            wrong += differ
    return reads, wrong


def compare(stream: Stream, features: FeatureSet, plan: RequestPlan) -> tuple[int, list[str]]:
    """Ask of some entities: the online answer, the offline one and the oracle's."""
    draw = stream.random
    rows = [{"key": stream._key(), "kind": draw.choice("uv")} for _ in range(3)] + [{"key": None, "kind": "u"}]
    got = plan.read(rows, stream.instant())
    past_us = stream.past_time()
    given: Any = Given(stream.log)
    history = History(given, [stream.source], upto=got.positions)
    history.refresh()
    frames = {stream.source.name: history.frame(stream.source.name)}
    wanted = Columns.of({name: ("str", [row[name] for row in rows]) for name in ("key", "kind")})
    records = stream.records()
    reads, wrong = 0, []
    for at_us in (got.at_us, past_us):
        if at_us is None:
            continue
        offline = evaluate(features, wanted, np.full(len(rows), at_us), frames)
        lists = {name: offline.values[name].to_list() for name in features.names}
        for i, row in enumerate(rows):
            meant = answers(features, records, row, at_us, got.positions)
            for place, name in enumerate(features.names):
                reads += 1
                found = bits(lists[name][i], REASONS[offline.reasons[name][i]])
                if found != meant[name]:
                    wrong.append(f"offline {name}: {lists[name][i]!r} for {meant[name]}")
                if at_us == got.at_us:
                    reads += 1
                    online = bits(got.values[i][place], REASONS[got.reasons[i][place]])
                    if online != meant[name]:
                        wrong.append(f"online {name}: {got.values[i][place]!r} for {meant[name]}")
    return reads, wrong


def answers(
    features: FeatureSet, records: Sequence[Record], row: dict[str, Any], at_us: int, positions: Any
) -> dict[str, Any]:
    """What each feature means."""
    known, out = dict(row), {}
    for join in (join for stage in features.stages for join in stage.joins):
        key: Any = tuple(known[name] for name in join.by)
        key = key[0] if len(key) == 1 else None if None in key else key
        for name, (value, reason) in oracle(records, join.view, key, at_us, positions).items():
            known[f"{join.name}.{name}"] = value
            out[f"{join.name}.{name}"] = bits(value, reason)
    return out


def bits(value: Any, reason: str) -> Any:
    return (struct.pack("<d", value) if isinstance(value, float) else (type(value), value), reason)
