"""The applier follows every partition of the event log, retries what may pass and shows what does not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Corrupt, Unavailable
from trimtab.serving.applier import Applier
from trimtab.store.ports import LogRecord
from trimtab.store.sqlite.log import SqliteLog
from trimtab.testing import MemoryLog


class View:
    """A view that keeps what it was given, and fails on request."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.failures: list[Exception] = []

    def apply(self, records: Sequence[LogRecord]) -> None:
        if self.failures:
            raise self.failures.pop()
        self.records += records

    def positions(self) -> dict[str, int]:
        return {r.partition: r.position for r in self.records}


def applier(log: Any, view: View, **options: Any) -> Applier:
    return Applier(log, view.apply, view.positions, **options)


def test_records_of_all_partitions_are_applied_once_by_append_time(tmp_path: Path) -> None:
    clock = VirtualClock(0)
    view = View()
    with SqliteLog(tmp_path, clock=clock) as a, SqliteLog(tmp_path, clock=clock) as b:
        said = []
        for n in range(200):
            clock.advance_to(n // 3)
            log = b if n % 3 == 1 else a
            said.append((clock.now_us(), log.partition, log.append([b"%d" % n])[0]))
        with applier(a, view, batch=7).start() as running:
            running.wait_applied(a.positions(), 10)
            assert running.lag_records() == 0
    assert [(r.appended_at_us, r.partition, r.position) for r in view.records] == sorted(said)


def test_it_goes_on_from_where_the_view_stands() -> None:
    log, view = MemoryLog(), View()
    log.append([b"%d" % n for n in range(10)])
    view.records = log.read(log.partition, 0, limit=4)
    with applier(log, view).start() as running:
        running.wait_applied(log.positions(), 10)
    assert [r.position for r in view.records] == list(range(1, 11))


def test_waiting_returns_as_soon_as_the_record_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.serving.applier._PAUSE_S", 120.0)  # waiting wakes it
    log, view = MemoryLog(), View()
    with applier(log, view).start() as running:
        for n in range(20):
            position = log.append([b"x"])[0]
            running.wait_applied({log.partition: position}, 60)
            assert len(view.records) == n + 1


def test_waiting_in_vain_says_that_the_record_is_safe() -> None:
    log, view = MemoryLog(), View()
    with applier(log, view).start() as running, pytest.raises(Unavailable, match="safe in the log"):
        running.wait_applied({log.partition: 1}, 0.05)


def test_what_may_pass_is_retried() -> None:
    log, view = MemoryLog(), View()
    view.failures = [Unavailable("busy")] * 3
    log.append([b"x"])
    with applier(log, view).start() as running:
        running.wait_applied(log.positions(), 10)
    assert view.failures == []
    assert len(view.records) == 1


def test_the_logged_pause_is_the_one_that_follows(caplog: pytest.LogCaptureFixture) -> None:
    """It was half as long."""
    log, view = MemoryLog(), View()
    view.failures = [Unavailable("busy.")] * 2
    log.append([b"x"])
    with applier(log, view).start() as running:
        running.wait_applied(log.positions(), 10)
    assert [line for line in caplog.messages if "Retrying" in line] == [
        "applier: busy. Retrying within 0.04 s.",
        "applier: busy. Retrying within 0.08 s.",
    ]


def test_what_does_not_pass_stops_it_and_is_shown() -> None:
    log, view = MemoryLog(), View()
    view.failures = [Corrupt("record 1 is damaged")]
    log.append([b"x"])
    with applier(log, view).start() as running:
        with pytest.raises(Unavailable, match="record 1 is damaged"):
            running.wait_applied(log.positions(), 10)
        assert isinstance(running.failure, Corrupt)
        assert running.lag_records() == 1


def test_records_appended_by_many_threads_are_applied_once() -> None:
    log, view = MemoryLog(), View()
    with applier(log, view, batch=16).start() as running:
        writers = [threading.Thread(target=lambda: [log.append([b"x"] * 3) for _ in range(50)]) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        running.wait_applied(log.positions(), 10)
    assert [r.position for r in view.records] == list(range(1, 601))
