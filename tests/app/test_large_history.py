"""Loops of large projects: the same days and signals as from the whole history, which is not read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import block_process
import msgspec
import pytest
import shop
from test_block_kills import prepared

import trimtab as tt
from trimtab.app.data.recent_events import RecentEvents
from trimtab.app.inspect import skew
from trimtab.app.online.history import SharedHistory
from trimtab.app.system import System
from trimtab.core.clock import VirtualClock
from trimtab.core.time import HOUR_US
from trimtab.events.columns.frames import EventFrame
from trimtab.events.definitions import Source
from trimtab.feedback import logged_waiting
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.monitoring.signals import listed_signals

STEPS = 7 * block_process.A_DAY


def refuse(self: SharedHistory) -> int:
    raise AssertionError("the history was read into memory")


@pytest.fixture(autouse=True)
def no_skew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the daily comparison of features with the history, which reads it."""
    monkeypatch.setattr(skew, "check_skew", lambda *args, **options: None)


def from_memory(patch: pytest.MonkeyPatch) -> None:
    """Let loops read labels and recent events from the whole history."""

    def with_key(self: System, source: Source, column: str, keys: Sequence[Any]) -> EventFrame:
        return self.history.frames_at([source.name])[0][source.name]

    def frame(self: RecentEvents, source: str) -> EventFrame:
        return self._system.history.frames_at([source])[0][source]

    patch.setattr(System, "events_with", with_key)
    patch.setattr(RecentEvents, "frame", frame)


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
    with monkeypatch.context() as patch:
        from_memory(patch)
        lived(folder, 0, STEPS, found["memory"])
    with monkeypatch.context() as patch:
        patch.setattr(SharedHistory, "refresh", refuse)
        lived(other, 0, STEPS, found["disk"])
    assert found["disk"] == found["memory"]


def test_the_page_of_a_deployment_reads_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tt.open(prepared(tmp_path / "one"), clock=VirtualClock(block_process.NOW_US), environment={}) as project:
        monkeypatch.setattr(SharedHistory, "refresh", refuse)
        assert "nothing is wrong" not in project.quality_page("one", to=tmp_path / "page.html").read_text()


def signals_of(folder: Path) -> list[str]:
    """What is red after the readings of a source have stopped for half a day, while visits were answered."""
    with shop.opened(folder) as project:
        for hours in range(16):
            if hours < 3:  # after the file of history, readings are sent
                project.push("readings", [{"site": "north", "level": 1.0, "read_at": project.clock.now_us()}])
            project.predict("buyer", [shop.visit(f"asked {hours}", project.clock.now_us(), x=3.0)])
            shop.move(project, HOUR_US)
        project.tick()
        found = listed_signals(project.state.catalog, "buyer")
    assert "source readings" in {one.subject for one in found if one.kind == "feed_stopped"}
    return [msgspec.json.encode(one).decode() for one in found]


def test_feeds_are_checked_as_from_memory(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(trained, tmp_path / "disk")
    with monkeypatch.context() as patch:
        from_memory(patch)
        expected = signals_of(trained)
    monkeypatch.setattr(SharedHistory, "refresh", refuse)
    assert signals_of(other) == expected
