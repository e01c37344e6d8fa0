"""Four days of flights as a stream, late, repeated, ahead of the clock, corrected: every path gives the same bits."""

from __future__ import annotations

import random
import struct
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from trimtab import features as f
from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.expressions.nodes import col
from trimtab.core.time import HOUR_US, MINUTE_US, parse_time_us
from trimtab.core.urls import store_url
from trimtab.events import History, Quarantine
from trimtab.events.definitions import Time, source
from trimtab.events.ingest import Ingestor
from trimtab.events.records import decode, known_at_us
from trimtab.features.definitions import request, view
from trimtab.features.feature_set import FeatureSet, feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.store.ports import LogRecord
from trimtab.testing import MemoryLog

sys.path.append(str(Path(__file__).parents[1] / "features"))
from oracle import Record, oracle  # the oracle of the features' own tests

FROM_US, UNTIL_US = parse_time_us("2013-02-10T05:00:00Z"), parse_time_us("2013-02-14T05:00:00Z")
WRONG_WIND = 1_000.0  # mph; EWR has 1,048 on 12 February, a real fault of the data
EVERY_US = 15 * MINUTE_US

LANDINGS = source("landings", time="landed_at", key="flight_id", columns={
    "flight_id": str, "carrier": str, "origin": str, "dest": str, "arr_delay": float,
})  # fmt: skip
WEATHER = source("weather", time="observed_at", key="reading", columns={
    "reading": str, "origin": str, "temp": float, "wind_speed": float, "visib": float,
})  # fmt: skip
FLIGHT = request("flight", key="flight_id", time="scheduled_at", columns={
    "flight_id": str, "carrier": str, "origin": str, "dest": str, "scheduled_at": Time,
})  # fmt: skip


def model() -> FeatureSet:
    late = col("arr_delay") >= 30
    rolling = {
        "late_7d": f.mean(late, over="7d"), "late_3h": f.mean(late, over="3h"), "landings_1d": f.count(over="1d"),
        "delay_1d": f.sum("arr_delay", over="1d"), "worst_3h": f.max("arr_delay", over="3h"),
        "spread_3d": f.std("arr_delay", over="3d"), "last_3": f.last_n("arr_delay", 3, over="1d"),
        "planes_2d": f.count_distinct("flight_id", over="2d", k=64), "aged": f.decayed_mean(late, half_life="6h"),
        "usual": f.top_k("arr_delay", 2, over="1d"), "yesterday": f.mean(late, over="2d", until="1d"),
        "newest": f.latest("arr_delay", max_age="6h"), "early": f.count(where=col("arr_delay") < 0, over="12h"),
    }  # fmt: skip
    carrier = view("carrier", source=LANDINGS, by="carrier", features=rolling)
    route = view("route", source=LANDINGS, by=["origin", "dest"], features=rolling)
    airport = view("airport", source=LANDINGS, by="dest", features={"landings_1h": f.count(over="1h")})
    sky = view("sky", source=WEATHER, by="origin", features={
        "wind": f.latest("wind_speed", max_age="3h"), "wind_max_1d": f.max("wind_speed", over="1d"),
        "wind_mean_6h": f.mean("wind_speed", over="6h"), "cold": f.count(where=col("temp") < 32, over="2d"),
    })  # fmt: skip
    return feature_set(FLIGHT, [
        carrier, route, airport.join("there"), airport.join("here", by="origin"), sky,
        {"trend": carrier["late_3h"] - carrier["late_7d"]},
    ])  # fmt: skip


Arrival = tuple[int, str, dict[str, Any]]  # when, of which source, the row


def rows_of(file: Path, columns: str, time: str) -> list[dict[str, Any]]:
    """These days' rows of a file, times as microseconds."""
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT {columns}, epoch_us({time}) AS {time} FROM read_parquet(?) "
            f"WHERE epoch_us({time}) BETWEEN ? AND ? ORDER BY ALL",
            [str(file), FROM_US, UNTIL_US],
        )
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def arrivals(files: dict[str, Path], draw: random.Random) -> tuple[list[Arrival], Counter[str]]:
    """These days' events in the order in which they arrive, and how many of them arrive strangely."""
    found: list[Arrival] = []
    counts: Counter[str] = Counter()
    for row in rows_of(files["landings"], "flight_id, carrier, origin, dest, arr_delay", "landed_at"):
        at = row["landed_at"] + draw.randint(1, 3 * MINUTE_US)
        if draw.random() < 0.02:
            counts["late"] += 1
            at = row["landed_at"] + draw.randint(MINUTE_US, 6 * HOUR_US)
        elif draw.random() < 0.1:
            counts["ahead of the clock"] += 1
            at = row["landed_at"] - draw.randint(1, 2 * MINUTE_US)
        found.append((at, "landings", row))
        if draw.random() < 0.03:
            counts["twice"] += 1
            found.append((at + draw.randint(0, 12 * HOUR_US), "landings", row))
    reading = "origin || '|' || observed_at AS reading, origin, temp, wind_speed, visib"
    for row in rows_of(files["weather"], reading, "observed_at"):
        at = row["observed_at"] + draw.randint(0, HOUR_US)
        found.append((at, "weather", row))
        if row["wind_speed"] is not None and row["wind_speed"] > WRONG_WIND:
            counts["corrected"] += 1
            found.append((at + 5 * HOUR_US, "weather", row | {"wind_speed": row["wind_speed"] / 100}))
    return sorted(found, key=lambda arrival: arrival[0]), counts


class Days:
    """The days as they pass: events into two partitions of a log and on into LMDB, questions in between."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.features = model()
        self.log: list[LogRecord] = []
        self.asked: list[tuple[dict[str, Any], int, dict[str, int], list[Any], list[int]]] = []
        self._clock = VirtualClock(FROM_US - HOUR_US)
        self._writers = {name: MemoryLog(clock=self._clock) for name in ("p0", "p1")}
        self._quarantine = Quarantine(MemoryLog(clock=self._clock))
        self._ingestors = {
            name: Ingestor(writer, [LANDINGS, WEATHER], clock=self._clock, quarantine=self._quarantine)
            for name, writer in self._writers.items()
        }
        self.kv = store.open(store_url("lmdb", folder / "online"), "kv")
        self._online = OnlineStore(self.kv, self.features.views)
        self._plan = RequestPlan(self.features, self.kv)

    def pass_by(self, events: list[Arrival], flights: list[dict[str, Any]]) -> None:
        """Let it happen."""
        due, applied = FROM_US, 0
        for at_us, name, row in events:
            while due < at_us:
                self._ask(due, flights)
                due += EVERY_US
            self._clock.advance_to(max(at_us, self._clock.now_us()))
            partition = self.draw.choice(sorted(self._writers))
            assert self._ingestors[partition].push(name, [row]).accepted == 1
            self._take(partition)
            if self.draw.random() < 0.2:  # the views stay behind until then
                self._online.apply(self.log[applied:])
                applied = len(self.log)
            if self.draw.random() < 0.002:  # another process goes on
                self._online = OnlineStore(self.kv, self.features.views)

    def _take(self, partition: str) -> None:
        writer = self._writers[partition]
        last = next((r.position for r in reversed(self.log) if r.partition == partition), 0)
        for record in writer.read(writer.partition, last):
            self.log.append(LogRecord(partition, record.position, record.appended_at_us, record.payload))

    def _ask(self, now_us: int, flights: list[dict[str, Any]]) -> None:
        rows = self.draw.sample(flights, 3)
        found = self._plan.read(rows, now_us)
        for i, row in enumerate(rows):
            answer = (row, found.at_us, dict(found.positions), found.values[i], found.reasons[i])
            self.asked.append(answer)


class Upto:
    """A log up to some positions, as far as a history reads one."""

    def __init__(self, records: list[LogRecord]) -> None:
        self._of: dict[str, list[LogRecord]] = {}
        for record in records:
            self._of.setdefault(record.partition, []).append(record)

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        return self._of[partition][after : after + limit]

    def positions(self) -> dict[str, int]:
        return {name: records[-1].position for name, records in self._of.items()}


def bits(value: Any, reason: str | None) -> Any:
    return (struct.pack("<d", value) if isinstance(value, float) else (type(value), value), reason)


@pytest.mark.slow
def test_strange_days_give_the_same_bits_online_offline_and_by_brute_force(
    files: dict[str, Path], tmp_path: Path
) -> None:
    days = Days(tmp_path, seed=7)
    events, counts = arrivals(files, days.draw)
    assert counts["corrected"] == 1
    assert min(counts["late"], counts["twice"], counts["ahead of the clock"]) > 50
    days.pass_by(events, rows_of(files["flight"], "flight_id, carrier, origin, dest", "scheduled_at"))
    assert len(days.asked) > 1_000
    names = days.features.names
    differ = 0
    groups = groupby(days.asked, key=lambda asked: asked[2])
    for positions, of_group in [(p, list(g)) for p, g in groups][::12]:
        given: Any = Upto(days.log)
        history = History(given, [LANDINGS, WEATHER], upto=positions)
        history.refresh()
        frames = {one.name: history.frame(one.name) for one in (LANDINGS, WEATHER)}
        requests = Columns.of({
            name: (dtype, [asked[0][name] for asked in of_group]) for name, dtype in FLIGHT.columns.items()
        })  # fmt: skip
        offline = evaluate(days.features, requests, np.array([asked[1] for asked in of_group]), frames)
        for place, name in enumerate(names):
            values = offline.values[name].to_list()
            reasons = offline.reasons[name].tolist() if name in offline.reasons else None
            for i, asked in enumerate(of_group):
                online = bits(asked[3][place], REASONS[asked[4][place]] if reasons else None)
                differ += online != bits(values[i], REASONS[reasons[i]] if reasons else None)
    assert differ == 0
    records = recorded(days.log)
    for row, at_us, positions, values, reasons in days.draw.sample(days.asked, 25):
        for name, expected in meant(days.features, records, row, at_us, positions).items():
            place = names.index(name)
            assert bits(values[place], REASONS[reasons[place]]) == expected, (name, row, at_us)
    days.kv.close()


def recorded(log: list[LogRecord]) -> dict[str, list[Record]]:
    """What the log says of each source, for the oracle."""
    columns = {LANDINGS.name: list(LANDINGS.columns), WEATHER.name: list(WEATHER.columns)}
    found: dict[str, list[Record]] = {name: [] for name in columns}
    for record in log:
        event = decode(record.payload)
        found[event.source].append(
            Record(
                id=event.id, row=dict(zip(columns[event.source], event.values, strict=True)),
                event_at_us=event.event_at_us, known_at_us=known_at_us(event, record),
                partition=record.partition, position=record.position, deleted=event.op == "delete",
            )
        )  # fmt: skip
    return found


def meant(
    features: FeatureSet, records: dict[str, list[Record]], row: dict[str, Any], at_us: int, positions: dict[str, int]
) -> dict[str, Any]:
    """What each feature of a view means."""
    out: dict[str, Any] = {}
    for join in features.joins:
        key: Any = tuple(row[name] for name in join.by)
        key = key[0] if len(key) == 1 else key
        answers = oracle(records[join.view.source.name], join.view, key, at_us, positions)
        out |= {f"{join.name}.{name}": bits(value, reason) for name, (value, reason) in answers.items()}
    return out
