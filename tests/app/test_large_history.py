"""Loops of projects whose events do not fit into memory: the same days as from memory, and nothing held."""

from __future__ import annotations

import shutil
from pathlib import Path

import block_process
import msgspec
import pytest
from test_block_kills import prepared

import trimtab as tt
from trimtab.app.online import history as app_history
from trimtab.app.online.history import SharedHistory
from trimtab.core.clock import VirtualClock
from trimtab.features.parts import parted_labels
from trimtab.feedback import logged_waiting
from trimtab.monitoring.quality.quality_days import stored_days
from trimtab.monitoring.signals import listed_signals

STEPS = 10 * block_process.A_DAY


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
