"""How history enters the log, and how far the process that checks the online path follows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import worlds
from worlds import ORIGIN_US

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Column, Columns, column
from trimtab.core.time import HOUR_US, MINUTE_US
from trimtab.events import Event, Quarantine, decode
from trimtab.features.online.store import OnlineStore
from trimtab.simulation.feed import Entered, Feed
from trimtab.simulation.spot_check_worker import Follower
from trimtab.store.ports import Log

NAMES = ("readings", "sales", "visit")


class Rig:
    """A feed of a world into logs in one folder."""

    def __init__(self, folder: Path, tables: dict[str, Columns]) -> None:
        self.clock = VirtualClock(ORIGIN_US)
        self.folder = folder / "events"
        self.logs = {n: store.open(f"sqlite://{self.folder}?mode=relaxed", "log", clock=self.clock) for n in NAMES}
        self.refused = store.open(f"sqlite://{folder}/refused?mode=relaxed", "log", clock=self.clock)
        self.quarantine = Quarantine(self.refused)
        self.feed = Feed(
            tables, worlds.SOURCES, [worlds.visit], self.logs, clock=self.clock, quarantine=self.quarantine
        )

    def events(self, name: str) -> list[tuple[int, Event]]:
        """Append time and event of one source, as logged."""
        log: Log = self.logs[name]
        return [(r.appended_at_us, decode(r.payload)) for r in log.read(log.partition, 0, limit=10**6)]

    def close(self) -> None:
        for log in (*self.logs.values(), self.refused):
            log.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, worlds.make(1, days=1))
    yield made
    made.close()


@pytest.mark.fast
def test_every_event_enters_at_the_moment_it_became_known_and_every_question_when_asked(rig: Rig) -> None:
    rig.feed.load_history(ORIGIN_US)
    for hour in range(0, 48, 5):
        rig.feed.advance(ORIGIN_US + hour * HOUR_US)
    for name, delay_us in (("readings", HOUR_US), ("sales", 0), ("visit", 0)):
        events = rig.events(name)
        assert len(events) > 20
        assert all(appended == event.event_at_us + delay_us for appended, event in events)


@pytest.mark.fast
def test_at_one_instant_events_enter_before_questions(rig: Rig) -> None:
    tables = worlds.make(1, days=1)
    known = tables["readings"]["read_at"].values + HOUR_US
    both_us = int(np.intersect1d(known, tables["visit"]["at"].values)[5])  # a question and a reading share this moment
    rig.feed.load_history(ORIGIN_US)
    rig.feed.advance(both_us)
    assert max(appended for appended, _ in rig.events("readings")) == both_us
    assert max(appended for appended, _ in rig.events("visit")) < both_us
    rig.feed.advance(both_us + 1)
    assert max(appended for appended, _ in rig.events("visit")) == both_us


def test_history_is_marked_and_keeps_its_own_moments(rig: Rig) -> None:
    until_us = ORIGIN_US + 10 * HOUR_US
    rig.clock.advance_to(until_us)
    rig.feed.load_history(until_us)
    assert {event.history for _, event in rig.events("sales")} == {True}
    assert {appended for appended, _ in rig.events("sales")} == {until_us}
    rig.feed.advance(until_us + HOUR_US)
    assert [event.history for _, event in rig.events("sales")].count(False) > 0


def test_stretches_of_any_length_give_the_same_log(tmp_path: Path) -> None:
    found = []
    for name, hours in (("one", [20]), ("many", list(range(21)))):
        rig = Rig(tmp_path / name, worlds.make(1, days=1))
        rig.feed.load_history(ORIGIN_US)
        counts = [rig.feed.advance(ORIGIN_US + hour * HOUR_US) for hour in hours]
        found.append((sum(c.accepted for c in counts), [rig.events(n) for n in NAMES]))
        rig.close()
    assert found[0] == found[1]


def test_rows_without_a_time_are_refused_once_with_the_history(tmp_path: Path) -> None:
    tables = worlds.make(2, days=1)
    times = [None, None, *tables["sales"]["closed_at"].to_list()[2:]]
    tables["sales"] = tables["sales"].replace({"closed_at": column("time", times)})
    rig = Rig(tmp_path, tables)
    assert rig.feed.load_history(ORIGIN_US).quarantined == 2
    assert rig.feed.advance(ORIGIN_US + HOUR_US).quarantined == 0
    assert rig.feed.advance(ORIGIN_US + HOUR_US) == Entered(0, 0)
    assert [(row.source, row.field) for row in rig.quarantine.read()] == [("sales", "closed_at")] * 2
    rig.close()


def test_the_follower_waits_for_every_partition_though_one_is_written_far_ahead(rig: Rig, tmp_path: Path) -> None:
    """A replay writes a stretch source by source: who reads meanwhile sees one source whole and nothing of others."""
    rig.feed.load_history(ORIGIN_US)
    streams = {stream._source.name: stream for stream in rig.feed._streams}
    log = store.open(f"sqlite://{rig.folder}", "log")
    with store.open(f"lmdb://{tmp_path}/online", "kv") as kv:
        online = OnlineStore(kv, [worlds.site, worlds.past])
        follower = Follower(log, online)
        streams["readings"].advance(ORIGIN_US + 20 * HOUR_US)
        follower.apply_until(ORIGIN_US + 2 * HOUR_US)
        for hour in (4, 9, 13):
            streams["sales"].advance(ORIGIN_US + hour * HOUR_US)
            streams["visit"].advance(ORIGIN_US + hour * HOUR_US)
            follower.apply_until(ORIGIN_US + hour * HOUR_US)
            reached = online.positions()
            for name in NAMES:
                known = np.array([appended for appended, _ in rig.events(name)])
                assert reached[rig.logs[name].partition] == (known <= ORIGIN_US + hour * HOUR_US).sum(), name
        follower.apply_until(2**63 - 1)
        assert online.positions() == log.positions()
        assert online.s_us == ORIGIN_US + 19 * HOUR_US
    log.close()


def test_visits_share_instants_with_readings_so_that_the_rules_of_one_instant_are_tried() -> None:
    tables = worlds.make(1, days=1)
    known = set((tables["readings"]["read_at"].values + HOUR_US).tolist())
    asked = tables["visit"]["at"].values
    assert np.isin(asked, list(known)).sum() > 100
    assert not (asked % MINUTE_US).any()


def test_what_says_when_it_became_known_enters_then_deletions_included(tmp_path: Path) -> None:
    tables = worlds.make(1, days=1)
    sales = tables["sales"].take(slice(0, 3))
    closed = sales["closed_at"].values
    hours = np.array([5, 2, 9]) * HOUR_US
    ops = column("str", ["upsert", "upsert", "delete"])
    known = Column("time", closed + hours, np.array([True, True, True]))
    rig = Rig(tmp_path, {**tables, "sales": sales.replace({"_known_at": known, "_op": ops})})
    rig.feed.load_history(ORIGIN_US)
    until_us = int((closed + hours).max()) + 1
    for at_us in range(ORIGIN_US, until_us + HOUR_US, HOUR_US):
        rig.feed.advance(at_us)
    found = [(at_us, event.id, event.op) for at_us, event in rig.events("sales")]
    wanted = zip((closed + hours).tolist(), sales["visit_id"].to_list(), ops.to_list(), strict=True)
    assert found == sorted(wanted)
    rig.close()
