"""Counts of what came, against a naive reading of the records."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Column, Columns
from trimtab.core.time import HOUR_US
from trimtab.events.arriving import arrivals
from trimtab.events.columns.history import History
from trimtab.events.definitions import source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.events.records import decode, known_at_us

KEYED = source("keyed", time="at", key="k", columns={"k": str, "x": float})
PLAIN = source("plain", time="at", columns={"who": str, "x": float})

steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # the clock moves by
        st.sampled_from(["keyed", "plain"]),
        st.sampled_from(["upsert", "upsert", "upsert", "delete"]),
        st.sampled_from("abc"),
        st.integers(0, 2),  # x
        st.integers(-5, 3),  # event time from now
    ),
    max_size=25,
)


def naive(log: Any, name: str) -> dict[str, int | None]:
    """One id after the other, in the order in which its versions became known."""
    chains: dict[str, list[Any]] = {}
    for record in log.records.get("p1", []):
        event = decode(record.payload)
        if event.source == name:
            chains.setdefault(event.id, []).append((known_at_us(event, record), record.position, event))
    out: dict[str, Any] = dict.fromkeys(("accepted", "events", "corrections", "deletions", "duplicates", "live"), 0)
    newest = []
    for chain in chains.values():
        out["events"] += 1
        before = None
        for known_at, _, event in sorted(chain, key=lambda version: version[:2]):
            out["accepted"] += 1
            same = before is not None and (
                (before.op == event.op == "delete")
                or (before.op, before.event_at_us, before.values) == (event.op, event.event_at_us, event.values)
            )
            if same:
                out["duplicates"] += 1
                continue
            if before is not None:
                out["deletions" if event.op == "delete" else "corrections"] += 1
            before = event
            newest.append(known_at)
        out["live"] += before.op == "upsert"
    return {**out, "newest_arrival_us": max(newest, default=None)}


@pytest.mark.fast
@given(steps=steps)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_are_those_of_a_naive_reading(steps: list[Any], make_log: Any) -> None:
    log, clock = make_log(), VirtualClock(0)
    quarantine = Quarantine(make_log("q1"))
    ingestor = Ingestor(log, [KEYED, PLAIN], clock=clock, quarantine=quarantine)
    for moved, name, op, key, x, ahead in steps:
        clock.advance_to(clock.now_us() + moved)
        log.now_us = clock.now_us()
        row = {"at": clock.now_us() + ahead, ("k" if name == "keyed" else "who"): key, "x": float(x)}
        ingestor.push(name, [row], op=op if name == "keyed" else "upsert")
    history = History(log, [KEYED, PLAIN])
    history.refresh()
    for found in arrivals(history, [KEYED, PLAIN], quarantine, now_us=clock.now_us()):
        wanted = naive(log, found.source)
        assert {name: getattr(found, name) for name in wanted} == wanted
        parts = found.events, found.corrections, found.deletions, found.duplicates, found.id_conflicts
        assert sum(parts) == found.accepted


def test_lateness_and_ages_are_told_of_the_recent_past(log: Any, make_log: Any) -> None:
    clock, quarantine = VirtualClock(0), Quarantine(make_log("q1"))
    ingestor = Ingestor(log, [PLAIN], clock=clock, quarantine=quarantine)
    ingestor.push("plain", [{"at": -50 * HOUR_US, "who": "long ago"}])
    for hour in range(1, 101):
        clock.advance_to(hour * HOUR_US)
        log.now_us = clock.now_us()
        ingestor.push("plain", [{"at": clock.now_us() - hour, "who": str(hour)}])
    ingestor.push("plain", [{"at": 200 * HOUR_US, "who": "ahead"}, {"at": "soon"}])
    history = History(log, [PLAIN])
    (nothing,) = arrivals(history, [PLAIN], now_us=5)
    assert (nothing.accepted, nothing.late_max_us, nothing.event_age_us, nothing.arrival_age_us) == (
        0,
        None,
        None,
        None,
    )
    history.refresh()
    (found,) = arrivals(history, [PLAIN], quarantine, now_us=101 * HOUR_US, recent_us=101 * HOUR_US)
    assert (found.recent, found.late_p50_us, found.late_p95_us, found.late_max_us) == (100, 50, 95, 100)
    assert (found.newest_event_us, found.event_age_us) == (100 * HOUR_US - 100, HOUR_US + 100)
    assert (found.newest_arrival_us, found.arrival_age_us) == (100 * HOUR_US, HOUR_US)
    assert (found.quarantined, found.future) == ({"future": 1, "bad_time": 1}, 1)
    (older,) = arrivals(history, [PLAIN], now_us=101 * HOUR_US, recent_us=1)
    assert (older.recent, older.late_p50_us, older.accepted) == (0, None, 101)


def test_a_million_records_take_no_longer_than_some_passes_over_arrays(make_log: Any) -> None:
    from trimtab.events.columns.frames import NEVER_US, EventFrame

    rows = 1_000_000
    at = np.arange(rows, dtype=np.int64)
    superseded = np.where(at % 3 == 0, at + 1, NEVER_US)
    keys = np.array([f"k{i // 3}" for i in range(rows)], object)
    frame = EventFrame(
        "keyed",
        Columns({"k": Column("str", keys)}),
        at,
        at,
        superseded,
        (at % 300 == 1),
        np.zeros(rows, np.int16),
        at,
        ("p1",),
    )

    class Ready(History):
        def frame(self, source: str) -> EventFrame:
            return frame

    history = Ready(make_log(), [KEYED])
    begun = time.perf_counter()
    (found,) = arrivals(history, [KEYED], now_us=rows)
    assert time.perf_counter() - begun < 30  # a second on an idle core
    assert (found.accepted, found.deletions) == (rows, int((at % 300 == 1).sum()))
