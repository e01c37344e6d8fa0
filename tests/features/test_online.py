"""The online store against the oracle: same bits, same reasons, at any (t, P), however the log came in."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Record, oracle
from strategies import BASE_US, KEYED, KEYLESS, UNIT_US, histories, instants, own_ids, rows, views

from trimtab import features as d
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.events.records import Event, encode
from trimtab.features.definitions import View, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryKeyValue, MemoryLog

ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "key": str})
ENTITIES = ["a", "b", "c", "unknown", None]


@st.composite
def feeds(draw: st.DrawFn, of: Source) -> tuple[list[Record], list[LogRecord]]:
    """A history and a log that holds it, its partitions interleaved as they came."""
    records = draw(histories(of))
    if of.key is None:  # as ingestion makes them: no deletions, and an id is the content and an id of the row's own
        records = [_by_content(r, draw(own_ids)) for r in records if not r.deleted]
    clock = {"p0": BASE_US, "p1": BASE_US}
    last = {"p0": 0, "p1": 0}
    log: list[LogRecord] = []
    for record in records:
        passed = draw(st.sampled_from([0, 0, 1, UNIT_US]))
        live = draw(st.booleans())
        at = max(clock[record.partition] + passed, record.known_at_us if live else 0)
        clock[record.partition] = at
        between = range(last[record.partition] + 1, record.position)
        other = encode(Event("other", "i", 0, 0, "upsert", False, ()))
        log += [LogRecord(record.partition, position, at, other) for position in between]
        last[record.partition] = record.position
        log.append(LogRecord(record.partition, record.position, at, _payload(record, of, at)))
    if draw(st.booleans()):  # one partition behind the other
        log.sort(key=lambda r: r.partition, reverse=draw(st.booleans()))
    return records, log


def _payload(record: Record, of: Source, at_us: int) -> bytes:
    history = record.known_at_us < at_us
    op: Any = "delete" if record.deleted else "upsert"
    values = tuple(record.row[name] for name in of.columns)
    return encode(Event(of.name, record.id, record.event_at_us, record.known_at_us, op, history, values))


def _by_content(record: Record, own: str | None) -> Record:
    return msgspec.structs.replace(record, id=repr((own, sorted(record.row.items(), key=repr))))


class Writer:
    """A process that appends to a partition of its own."""

    def __init__(self, partition: str) -> None:
        self.partition = partition
        self.records: list[LogRecord] = []
        self.now_us = BASE_US

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        start = len(self.records) + 1
        assert at_us is None
        for position, payload in enumerate(payloads, start):
            self.records.append(LogRecord(self.partition, position, self.now_us, payload))
        return range(start, start + len(payloads))


@st.composite
def pushed(draw: st.DrawFn, of: Source) -> tuple[list[Record], list[LogRecord]]:
    """Rows that went through ingestion in two processes, and what they mean."""
    writers = {name: Writer(name) for name in ("p0", "p1")}
    clock = VirtualClock(BASE_US)
    refused: Any = MemoryLog()
    ingestors = {}
    for name, writer in writers.items():
        log: Any = writer
        ingestors[name] = Ingestor(
            log, [of], clock=clock, quarantine=Quarantine(refused), future_ok=frozenset([of.name])
        )
    records: list[Record] = []
    order: list[LogRecord] = []
    said: list[tuple[dict[str, Any], str | None]] = []
    for _ in range(draw(st.integers(0, 12))):
        writer = writers[draw(st.sampled_from(["p0", "p0", "p1"]))]
        writer.now_us += draw(st.sampled_from([0, 1, UNIT_US]))
        row: dict[str, Any] = draw(rows(draw(st.sampled_from("xy")), BASE_US + draw(instants)))
        own = draw(own_ids)
        if said and draw(st.booleans()):  # again, perhaps with the entity, the time or a value of another row
            before, own = draw(st.sampled_from(said))
            row = before | {name: row[name] for name in draw(st.sets(st.sampled_from(["key", "at", "x", "id"])))}
        known_at = draw(st.sampled_from([None, None, writer.now_us + 5 * UNIT_US]))
        deleted = draw(st.integers(0, 5)) == 0
        given = row | {"_id": own, "_known_at": known_at}
        if deleted:
            given["_op"] = "delete"
        result = ingestors[writer.partition].push(of.name, [given])
        assert result.accepted == (not deleted or of.key is not None)
        if not result.accepted:
            continue
        said.append((row, own))
        order.append(writer.records[-1])
        blank = dict.fromkeys(row) | {"id": row["id"], "at": row["at"]}
        record = Record(
            id=row["id"], row=blank if deleted else row, event_at_us=row["at"],
            known_at_us=max(writer.now_us, known_at or 0), partition=writer.partition, position=result.position,
            deleted=deleted,
        )  # fmt: skip
        records.append(record if of.key else _by_content(record, own))
    return records, order


def _bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else (type(value), value)


def check(plan: RequestPlan, v: View, records: Sequence[Record], now_us: int) -> None:
    got = plan.read([{"key": entity} for entity in ENTITIES], now_us)
    for row, entity in enumerate(ENTITIES):
        expected = oracle(records, v, entity, got.at_us, got.positions)
        found = {
            name: (value, REASONS[reason])
            for name, value, reason in zip(v.features, got.values[row], got.reasons[row], strict=True)
        }
        for name, (value, reason) in expected.items():
            value = float(value) if isinstance(found[name][0], float) and value == 0 else value
            context = (entity, v.features[name], got.at_us - BASE_US, got.positions)
            assert found[name][1] == reason, (context, found[name], expected[name])
            assert _bits(found[name][0]) == _bits(value), (context, found[name], expected[name])


class GivenLog:
    """As much of a log as a history reads."""

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self._records = records

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        return [r for r in self._records if r.partition == partition and r.position > after][:limit]

    def positions(self) -> dict[str, int]:
        return {r.partition: r.position for r in self._records}


def check_offline(plan: RequestPlan, v: View, log: Sequence[LogRecord], now_us: int) -> None:
    got = plan.read([{"key": entity} for entity in ENTITIES], now_us)
    given: Any = GivenLog(log)
    history = History(given, [v.source], upto=got.positions)
    history.refresh()
    wanted = Columns.of({"key": ("str", ENTITIES)})
    at_us = np.full(len(ENTITIES), got.at_us)
    offline = evaluate(plan.features, wanted, at_us, {v.source.name: history.frame(v.source.name)})
    for place, name in enumerate(plan.names):
        values, reasons = [row[place] for row in got.values], [row[place] for row in got.reasons]
        assert reasons == offline.reasons[name].tolist(), (name, got, offline)
        pairs = zip(values, offline.values[name].to_list(), strict=True)
        assert all(_bits(a) == _bits(b) for a, b in pairs), (name, got, offline)


def campaign(data: st.DataObject, of: Source, source_of_records: Any = feeds) -> None:
    v = data.draw(views(of))
    records, log = data.draw(source_of_records(of))
    kv = MemoryKeyValue()
    store = OnlineStore(kv, [v])
    plan = RequestPlan(feature_set(ASK, [v]), kv)
    done = 0
    while done < len(log):
        start = data.draw(st.integers(max(0, done - 3), done), label="redelivered from")
        done = min(len(log), done + data.draw(st.integers(1, 6), label="batch"))
        if data.draw(st.booleans(), label="restart"):
            store = OnlineStore(kv, [v])
        store.apply(log[start:done])
        for _ in range(data.draw(st.integers(0, 2), label="reads")):
            check(plan, v, records, data.draw(st.integers(-5, 70).map(lambda n: BASE_US + n * UNIT_US), label="now"))
    for offset in (0, 1, 55, 10**9 // 10):
        check(plan, v, records, BASE_US + offset * UNIT_US)
    check_offline(plan, v, log, BASE_US + data.draw(st.integers(-5, 70), label="wanted offline") * UNIT_US)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_online_equals_the_oracle_for_events_that_are_corrected(data: st.DataObject) -> None:
    campaign(data, KEYED)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_online_equals_the_oracle_for_events_without_a_key(data: st.DataObject) -> None:
    campaign(data, KEYLESS)


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from([KEYED, KEYLESS]))
def test_online_and_offline_equal_the_oracle_for_rows_that_were_pushed(data: st.DataObject, of: Source) -> None:
    campaign(data, of, pushed)


LATEST = view("v", source=KEYED, by="key", features={"x": d.latest("x")})


def test_a_deletion_dated_before_the_event_that_it_deletes_does_not_begin_the_entity() -> None:
    """Whatever another partition adds later, and however many versions follow, the event itself is dated after t."""
    event, deletion = {"key": "a", "at": BASE_US + 10, "op": "upsert"}, {"key": None, "at": BASE_US, "op": "delete"}
    moved = {"key": "b", "at": BASE_US + 10, "op": "upsert"}
    again = deletion | {"at": BASE_US + 10}
    for versions in ([event, deletion], [event, deletion, moved], [event, deletion, moved, moved | {"key": "c"}]):
        records, log = _versions_of_one_id(versions, late=again)
        kv = MemoryKeyValue()
        store, plan = OnlineStore(kv, [LATEST]), RequestPlan(feature_set(ASK, [LATEST]), kv)
        for record in log:
            store.apply([record])
            for offset in (0, 1, 3, 10, 11):
                check(plan, LATEST, records, BASE_US + offset)
        check_offline(plan, LATEST, log, BASE_US + 5)


def _versions_of_one_id(
    versions: Sequence[dict[str, Any]], late: dict[str, Any]
) -> tuple[list[Record], list[LogRecord]]:
    """Versions of one event, a microsecond after each other, and one of another partition right after the first."""
    records, log = [], []
    placed = [("p0", position, position, of) for position, of in enumerate(versions, 1)]
    for partition, position, known_at, of in [*placed, ("p1", 1, 1, late)]:
        row = dict.fromkeys(KEYED.columns) | {"id": "y", "key": of["key"], "at": of["at"]}
        record = Record(
            id="y", row=row, event_at_us=of["at"], known_at_us=BASE_US + known_at, partition=partition,
            position=position, deleted=of["op"] == "delete",
        )  # fmt: skip
        records.append(record)
        log.append(LogRecord(partition, position, record.known_at_us, _payload(record, KEYED, record.known_at_us)))
    return records, log
