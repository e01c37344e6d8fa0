"""A small world in which every question is answered on every path: offline, online and by the oracle."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from oracle import Record, oracle

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import parse_time_us
from trimtab.events.columns.history import History
from trimtab.events.definitions import Source, Time, source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.events.records import decode, known_at_us
from trimtab.features.aggregates import Aggregate
from trimtab.features.definitions import Boundary, request, view
from trimtab.features.feature_set import feature_set
from trimtab.features.frames import REASONS
from trimtab.features.offline.evaluation import evaluate
from trimtab.features.online.read.request_plan import OnlineRows, RequestPlan
from trimtab.features.online.store import OnlineStore
from trimtab.testing import MemoryKeyValue, MemoryLog

COLUMNS: dict[str, type] = {"id": str, "who": str, "at": Time, "x": float, "n": int, "ok": bool, "kind": str}
KEYED = source("keyed", time="at", key="id", columns=COLUMNS, delay="1h", future_tolerance="10d")
PLAIN = source("plain", time="at", columns=COLUMNS, delay="1h", future_tolerance="10d")
ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": str})


class World:
    """Events of one source, one view, one clock. Times are texts such as "2013-03-01T10:00".

    Args:
        aggregate: The view's only feature.
        of: Its source.
        boundary: The view's.
    """

    def __init__(self, aggregate: Aggregate, of: Source = KEYED, boundary: Boundary = "before") -> None:
        self.view = view("v", source=of, by="who", features={"f": aggregate}, boundary=boundary)
        self._of = of
        self._features = feature_set(ASK, [self.view.join(select=["f"])])
        self._clock = VirtualClock(0)
        self.log = MemoryLog(clock=self._clock)
        self.quarantine = Quarantine(MemoryLog(clock=self._clock))
        self._ingestor = Ingestor(self.log, [of], clock=self._clock, quarantine=self.quarantine)
        self._kv = MemoryKeyValue()
        self._online = OnlineStore(self._kv, [self.view])
        self._plan = RequestPlan(self._features, self._kv)

    def push(self, now: str, *rows: dict[str, Any]) -> Any:
        """Events that come at `now`; what is left out of a row is null, its entity "a"."""
        self._clock.advance_to(max(parse_time_us(now), self._clock.now_us()))
        return self._ingestor.push(self._of.name, [self._row(row) for row in rows])

    def load(self, now: str, *rows: dict[str, Any]) -> Any:
        """Events that are loaded as history at `now`."""
        self._clock.advance_to(max(parse_time_us(now), self._clock.now_us()))
        full = [self._row(row) for row in rows]
        of = {name: (dtype, [row.get(name) for row in full]) for name, dtype in self._of.columns.items()}
        return self._ingestor.load(self._of.name, Columns.of(of))

    def ask(self, at: str | int, who: str | None = "a") -> tuple[Any, str]:
        """The value and the reason as of `at` and of all events so far: the same on every path, or a failed test.

        The online path has no past: it answers only when `at` is not before the last event came.
        """
        at_us = at if isinstance(at, int) else parse_time_us(at)
        history = History(self.log, [self._of])
        history.refresh()
        wanted = Columns.of({"who": ("str", [who])})
        found = evaluate(self._features, wanted, np.array([at_us]), {self._of.name: history.frame(self._of.name)})
        answer = found.values["v.f"].to_list()[0], REASONS[found.reasons["v.f"][0]]
        expected = oracle(self._records(), self.view, who, at_us)["f"]
        assert _bits(answer) == _bits(expected), f"offline {answer}, meant {expected}"
        online = self.ask_online(at_us, who)
        if online.at_us == at_us:
            read = online.values[0][0], REASONS[online.reasons[0][0]]
            assert _bits(read) == _bits(answer), f"online {read}, offline {answer}"
        return answer

    def ask_online(self, at_us: int, *who: str | None) -> OnlineRows:
        """What the online path alone says of some entities."""
        self._online.apply([r for p in self.log.positions() for r in self.log.read(p, 0)])
        return self._plan.read([{"who": one} for one in who], at_us)

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        at = {"at": parse_time_us(row["at"])} if isinstance(row.get("at"), str) else {}
        return {"id": f"e{self.log.positions()}", "who": "a"} | row | at

    def _records(self) -> list[Record]:
        found = []
        for partition in self.log.positions():
            for record in self.log.read(partition, 0):
                event = decode(record.payload)
                row = dict(zip(self._of.columns, event.values, strict=True))
                found.append(
                    Record(
                        id=event.id, row=row, event_at_us=event.event_at_us, known_at_us=known_at_us(event, record),
                        partition=record.partition, position=record.position, deleted=event.op == "delete",
                    )
                )  # fmt: skip
        return found


def _bits(answer: tuple[Any, str]) -> Any:
    value, reason = answer
    return (struct.pack("<d", value) if isinstance(value, float) else (type(value), value), reason)
