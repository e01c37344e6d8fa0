"""The recent events that are kept for the checks of inputs are those of the whole history."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
from test_retention import SITES, opened, row, write

from trimtab.app.data import recent_events
from trimtab.app.data.recent_events import KIND, RecentEvents
from trimtab.app.project import Project
from trimtab.app.state.state import INDEX
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.events.columns.frames import EventFrame
from trimtab.events.columns.history import History
from trimtab.monitoring.inputs.checks.feeds import REACH_US, Arrivals
from trimtab.store.ports import Remove


@pytest.fixture(autouse=True)
def old_events_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_events, "_FEW", 0)
    monkeypatch.setattr(recent_events, "_BATCH", 7)


def some(rng: random.Random, now_us: int) -> list[dict[str, Any]]:
    """Events of few ids, so that many are repeated, corrected, deleted, or come after their first version is old."""
    return [
        row(rng.choice("abcdefgh"), now_us - rng.randrange(4) * HOUR_US, rng.choice([1.0, 2.0, None]))
        | ({"_op": "delete"} if rng.random() < 0.2 else {})
        for _ in range(rng.randrange(1, 9))
    ]


def whole(project: Project) -> EventFrame:
    history = History(project.state.events, project.sources, tables=lambda: project.state.moved(project.sources))
    history.refresh()
    return history.frame("readings")


def versions(frame: EventFrame, since_us: int) -> list[tuple[Any, ...]]:
    """The versions that became known after a time, in some order."""
    recent = frame.take(frame.known_at_us > since_us)
    assert recent.loaded_h is not None
    level = recent.columns["level"].to_list()
    own = (recent.event_at_us, recent.known_at_us, recent.deleted, recent.position, recent.loaded_h)
    return sorted(zip(*(field.tolist() for field in own), map(repr, level), strict=True))


def same(project: Project, found: EventFrame) -> int:
    """Compare with the history, and return how many versions are recent."""
    expected, since_us = whole(project), project.clock.now_us() - REACH_US
    assert versions(found, since_us) == versions(expected, since_us)
    a, b = Arrivals(found), Arrivals(expected)
    # by the time at which events became known: the newest date of all that were known then
    newest = [dict(zip(one.known_us.tolist(), one.newest_us.tolist(), strict=True)) for one in (a, b)]
    recent = [{known: one[known] for known in one if known > since_us} for one in newest]
    assert recent[0] == recent[1]
    loads = [one.loads.until(project.clock.now_us()) for one in (a, b)]
    assert (loads[0] is None) == (loads[1] is None)
    assert loads[0] is None or loads[0].tolist() == loads[1].tolist()
    return len(recent[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 3, *(pytest.param(one, marks=pytest.mark.soak) for one in (1, 2, 4, 5))])
def test_they_are_those_of_the_history(tmp_path: Path, seed: int) -> None:
    rng, now_us = random.Random(seed), shop.NOW_US
    write(tmp_path)
    seen = dropped = 0
    for step in range(18):
        now_us += rng.choice([HOUR_US, 2 * DAY_US, 19 * DAY_US])
        with opened(tmp_path, now_us) as project:
            if rng.random() < 0.3:
                project.ingestor.push("readings", some(rng, now_us - 3 * DAY_US), history=True)
            project.push("readings", some(rng, now_us))
            if rng.random() < 0.3:
                project.retain()
            if rng.random() < 0.1:  # a file is damaged, or the record in the catalogue is gone
                for file in (tmp_path / ".trimtab" / INDEX).glob("*.recent"):
                    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
            elif rng.random() < 0.1:
                project.state.catalog.write([Remove(KIND, "all")])
            recent = RecentEvents(project)
            seen += same(project, recent.frame("readings"))
            assert recent.frame("readings") is recent.frame("readings")
            project.push("readings", some(rng, now_us))
            same(project, recent.frame("readings"))
            dropped += whole(project).rows - recent.frame("readings").rows
            assert step < 17 or len(list((tmp_path / ".trimtab" / INDEX).glob("*.recent"))) == 1
    assert seen > 50
    assert dropped > 10


def test_two_processes_that_read_at_once_store_what_is_right(tmp_path: Path) -> None:
    write(tmp_path)
    rng = random.Random(1)
    with opened(tmp_path) as project, opened(tmp_path) as other:
        one, two = RecentEvents(project), RecentEvents(other)
        for number in range(8):
            project.push("readings", some(rng, shop.NOW_US))
            same(project, (one if number % 3 else two).frame("readings"))
            other.push("readings", some(rng, shop.NOW_US))
            same(project, (two if number % 2 else one).frame("readings"))
        same(project, RecentEvents(project).frame("readings"))


def test_of_many_events_a_sample_of_ids_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(recent_events, "_MOST", 60)
    with opened(tmp_path) as project:
        for first in range(0, 500, 50):
            project.push("readings", [row(f"r{n}", shop.NOW_US - n, float(n)) for n in range(first, first + 50)])
            RecentEvents(project).frame("readings")
        project.push("readings", [row(f"r{n}", shop.NOW_US - n, -1.0) for n in range(500)])
        frame, expected = RecentEvents(project).frame("readings"), whole(project)
        assert 15 < frame.rows <= 60
        places = np.isin(expected.position, frame.position)
        assert versions(frame, 0) == versions(expected.take(places), 0)
        ids = set(expected.columns["id"].values[places].tolist())
        assert np.isin(expected.columns["id"].values, list(ids)).sum() == frame.rows


def test_a_column_that_is_added_is_read_from_the_log_again(tmp_path: Path) -> None:
    write(tmp_path)
    with opened(tmp_path) as project:
        project.push("readings", some(random.Random(2), shop.NOW_US))
        assert "extra" not in RecentEvents(project).frame("readings").columns
    write(tmp_path, definitions=SITES.replace('"level": float}', '"level": float, "extra": int}'))
    with opened(tmp_path) as project:
        project.push("readings", [row("x", shop.NOW_US, 1.0) | {"extra": 3}])
        frame = RecentEvents(project).frame("readings")
        same(project, frame)
        assert frame.columns["extra"].to_list()[-1] == 3
