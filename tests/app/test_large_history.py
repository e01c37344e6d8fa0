"""Loops of projects whose events do not fit into memory: the same days as from memory, and nothing held."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import block_process
import msgspec
import pytest
import shop
from test_block_kills import prepared

import trimtab as tt
from trimtab.app.data import recent_events
from trimtab.app.data.recent_events import RecentEvents
from trimtab.app.features import recorded_events
from trimtab.app.online import history as app_history
from trimtab.app.online.history import SharedHistory
from trimtab.core.clock import VirtualClock
from trimtab.core.time import HOUR_US
from trimtab.events.columns.frames import EventFrame
from trimtab.features.parts import parted_labels
from trimtab.feedback import logged_waiting
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.monitoring.signals import listed_signals
from trimtab.store.duckdb_opening import open_duckdb

STEPS = 7 * block_process.A_DAY


def refuse(self: SharedHistory) -> int:
    raise AssertionError("the history was read into memory")


def beyond_memory(patch: pytest.MonkeyPatch) -> None:
    """Let no event fit into memory, and labels be found in several parts."""
    patch.setattr(app_history, "_EVENT_BYTES", 10**12)
    patch.setattr(parted_labels, "_PER_ROW_BYTES", 2**26)


def lived(folder: Path, first: int, last: int, kept: list[str]) -> None:
    """Answer, take in labels and tick in some steps; note the blocks and the signals after the last step."""
    clock = VirtualClock(block_process.NOW_US + first * block_process.STEP_US)
    with tt.open(folder, clock=clock, environment={}) as project:
        version = project.registry.alias("one", "champion")
        assert version is not None
        for step in range(first, last):
            clock.advance_to(block_process.NOW_US + step * block_process.STEP_US)
            block_process.answered(project, step, version.id)
            block_process.looked(project, step)
        days = stored_days(project.state.catalog, "one", slices=True)
        signals = listed_signals(project.state.catalog, "one")
        kept += [msgspec.json.encode(one).decode() for one in (*days, *signals)]
        assert len(days) > last // block_process.A_DAY
        assert last < STEPS or sum(day.amended is not None for day in days) > 3


def test_days_close_and_are_amended_as_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepared(tmp_path / "memory")
    other = shutil.copytree(folder, tmp_path / "disk")
    found: dict[str, list[str]] = {"memory": [], "disk": []}
    monkeypatch.setattr(logged_waiting, "_CHUNK_ROWS", 50)  # so that a day is judged in several parts
    lived(folder, 0, STEPS, found["memory"])
    with monkeypatch.context() as patch:
        beyond_memory(patch)
        patch.setattr(SharedHistory, "refresh", refuse)
        lived(other, 0, STEPS, found["disk"])
    assert found["disk"] == found["memory"]
    assert not list((other / ".trimtab" / "backfill").glob("*"))


def test_the_page_of_a_deployment_reads_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tt.open(prepared(tmp_path / "one"), clock=VirtualClock(block_process.NOW_US), environment={}) as project:
        monkeypatch.setattr(SharedHistory, "refresh", refuse)
        assert "nothing is wrong" not in project.quality_page("one", to=tmp_path / "page.html").read_text()


def signals_of(folder: Path, *, beyond: bool) -> list[str]:
    """What is red after the readings of a source have stopped for half a day, while visits were answered."""
    with shop.opened(folder) as project:
        for hours in range(16):
            if hours < 3:  # after the file of history, readings are sent
                project.push("readings", [{"site": "north", "level": 1.0, "read_at": project.clock.now_us()}])
            project.predict("buyer", [shop.visit(f"asked {hours}", project.clock.now_us(), x=3.0)])
            shop.move(project, HOUR_US)
        project.tick()
        found = listed_signals(project.state.catalog, "buyer")
        assert ("_history" in vars(project)) == (not beyond)
    assert "source readings" in {one.subject for one in found if one.kind == "feed_stopped"}
    return [msgspec.json.encode(one).decode() for one in found]


def test_feeds_are_checked_as_from_memory(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(trained, tmp_path / "disk")
    expected = signals_of(trained, beyond=False)
    beyond_memory(monkeypatch)
    assert signals_of(other, beyond=True) == expected


def rows_of(frame: EventFrame) -> list[tuple[Any, ...]]:
    """The versions of a frame, in some order."""
    values = [column.to_list() for name, column in frame.columns.by_name.items() if column.dtype in ("float", "int")]
    assert frame.loaded_h is not None
    own = (frame.event_at_us, frame.known_at_us, frame.superseded_at_us, frame.deleted, frame.position, frame.loaded_h)
    return sorted(zip(*(field.tolist() for field in own), *values, strict=True))


def test_a_sample_of_a_source_has_all_versions_of_its_ids(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.opened(trained) as project:
        shop.move(project, HOUR_US)
        for row in ({"bought": True}, {"bought": True}, {"bought": False}):
            project.push("sales", [{"visit_id": "v00001", "site": "north", "closed_at": shop.NOW_US, **row}])
        project.history.refresh()
        for source in ("sales", "readings"):
            whole = rows_of(project.history.frame(source))
            assert rows_of(RecentEvents(project, "buyer").frame(source)) == whole
            with monkeypatch.context() as patch:
                patch.setattr(recent_events, "_ALL_EVENTS", 300)
                sampled = rows_of(RecentEvents(project, "buyer").frame(source))
            assert 30 < len(sampled) < 200
            assert set(sampled) < set(whole)


def test_a_loop_drops_the_history_once_it_does_not_fit(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.opened(trained) as project:
        project.predict("buyer", [shop.visit("asked", shop.NOW_US)])
        project.tick()
        history = weakref.ref(project.history)
        shop.move(project, HOUR_US)
        beyond_memory(monkeypatch)
        project.tick()
        gc.collect()
        assert history() is None


def test_the_files_of_many_moves_are_merged(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_events, "_MOST_SMALL", 2)
    with shop.opened(trained) as project:
        source = project.definitions.sources["readings"]
        for hour in range(5):
            shop.move(project, HOUR_US)
            project.push("readings", [{"site": "north", "level": float(hour), "read_at": project.clock.now_us()}])
            events = recorded_events.recorded_events(project, source)
        table = project.state.table("readings", make=False)
        assert table is not None
        assert len(recorded_events.table_files(table)) <= 3
        project.history.refresh()
        with open_duckdb() as connection:
            assert events.count(connection) == project.history.frame("readings").rows
        levels = table.scan(["level"])["level"].to_list()
        assert levels[-5:] == [0.0, 1.0, 2.0, 3.0, 4.0]
