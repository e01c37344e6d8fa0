"""A machine's clock that is ahead for a while: what is recorded meanwhile, who says so, and how it is put right."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
from alias_moves import AS_OF

import forked
from trimtab.app.inspect.doctor import examine
from trimtab.app.project import Project, open_project
from trimtab.core.clock import TOLERANCE_US, CheckedClock, SystemClock, VirtualClock
from trimtab.core.errors import Conflict, Unavailable
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.online.read.request_plan import RequestPlan

JUMP_US = 400 * DAY_US
RECOVERS = """
import os, signal, sys, threading
from trimtab.app.project import open_project
from trimtab.core.clock import VirtualClock
with open_project(sys.argv[1], clock=VirtualClock(int(sys.argv[2])), environment={}) as project:
    project.recover(dry_run=True)
    kill = threading.Timer(float(sys.argv[3]), os.kill, (os.getpid(), signal.SIGKILL))
    kill.start()
    project.recover()
    kill.cancel()
"""


class SetClock(SystemClock):
    """The machine's clock, which can be set."""

    def __init__(self, behind_us: int = 0) -> None:
        self.ahead_us = -behind_us

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us


def read(project: Project, site: str = "north") -> tuple[float | None, float | None]:
    project.views.catch_up()
    features = project.definitions.models["buyer"].features
    now_us = project.clock.now_us()
    found = RequestPlan(features, project.state.online).read([shop.visit("q", now_us, 1.0, site)], now_us)
    names = list(features.names)
    return found.values[0][names.index("site.level")], found.values[0][names.index("site.level_1d")]


def reading(at_us: int, level: float, site: str = "north") -> dict[str, Any]:
    return {"read_at": at_us, "site": site, "level": level}


@pytest.fixture
def clock() -> SetClock:
    """As the project's data ends, and running."""
    return SetClock(SystemClock().now_us() - shop.NOW_US)


def test_a_jump_ahead_is_refused_and_leaves_no_trace(
    trained: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr("trimtab.app.experiments.ticking.tick_experiments", lambda system: looked.append(system) or [])
    with open_project(trained, clock=clock, environment={}) as project:
        project.push("readings", [reading(shop.NOW_US - 1, 5.0)])
        assert read(project) == (5.0, pytest.approx(read(project)[1]))
        clock.ahead_us += JUMP_US
        bad = {"read_at": "nonsense", "site": "north", "level": 1.0}
        for rows in ([reading(shop.NOW_US, 6.0)], [bad]):
            with pytest.raises(Unavailable, match=r"clock jumped ahead by 576,000 minutes"):
                project.push("readings", rows)
        with pytest.raises(Unavailable, match="clock jumped ahead"):
            project.predict("buyer", [shop.visit("q", shop.NOW_US)])
        works = project.tick, project.skew, project.retain, project.teacher("learner").teach
        for work in works:  # each would note a time that is still to come as done
            with pytest.raises(Unavailable, match="clock jumped ahead"):
                work()  # type: ignore[operator]  # they take nothing
        assert looked == []  # no ramp takes a step that is still to come
        assert [line for line in project.status().red if "clock jumped ahead" in line]
        clock.ahead_us -= JUMP_US
        project.push("readings", [reading(shop.NOW_US, 7.0)])
        assert read(project)[0] == 7.0
        assert project.predict("buyer", [shop.visit("q", shop.NOW_US)])[0].score is not None
        assert not [line for line in project.status().red if "clock" in line]
        assert project.quarantined() == []


@pytest.mark.parametrize("there", [False, True], ids=["in the log", "in tables too"])
def test_what_a_process_under_a_clock_ahead_stamped_is_red_and_put_right(trained: Path, there: bool) -> None:
    """As one that began while the clock was wrong: nothing told it so."""
    with shop.opened(trained, shop.NOW_US + JUMP_US) as project:
        project.push("readings", [reading(shop.NOW_US - 2, 5.0)])
    with shop.opened(trained, shop.NOW_US + HOUR_US) as project:
        project.push("readings", [reading(shop.NOW_US - 1, 6.0)])  # its append time does not decrease
        if there:
            project.retain()
            project.push("readings", [reading(shop.NOW_US - 1, 6.5, "south")])
        assert read(project) == (None, None)  # nothing is so young
        red = [line for line in project.status().red if "stamped" in line]
        assert any("p0001" in line and "399d ahead" in line and "trimtab storage recover" in line for line in red)
        planned = project.recover(dry_run=True)
        assert planned.stamped_ahead
        assert not planned.lost
        done = project.recover(actor="me")
        assert done.stamped_ahead == planned.stamped_ahead
        level, mean = read(project)
        assert (level, mean is not None) == (6.0, True)
        assert not [line for line in project.status().red if "stamped" in line]
        assert project.recover().is_empty
        row = next(d for d in project.ledger() if d.act == "restamp")
        assert (row.actor, row.at_us) == ("me", shop.NOW_US + HOUR_US)
        project.push("readings", [reading(shop.NOW_US + HOUR_US - 1, 8.0)])
        assert read(project)[0] == 8.0
        project.materialise()
        rows = project.state.tables(project.sources, make=False)["readings"].scan()
        assert rows["_append_at"].values.max() <= shop.NOW_US + HOUR_US
        assert rows["_known_at"].values.max() <= shop.NOW_US + HOUR_US
        assert len(set(zip(rows["_partition"].to_list(), rows["_position"].to_list(), strict=True))) == rows.rows
    with shop.opened(trained, shop.NOW_US + HOUR_US) as project:
        before = project.views.store.s_us, read(project)
        project.rebuild_all()
        assert (project.views.store.s_us, read(project)) == before
        frame = project.history.frames_at(["readings"])[0]["readings"]
        assert int(np.max(frame.known_at_us)) <= shop.NOW_US + HOUR_US


@pytest.mark.slow
def test_killing_recover_at_any_time_leaves_it_to_be_finished(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained, shop.NOW_US + JUMP_US) as project:
        project.push("readings", [reading(shop.NOW_US - 2, 5.0)])
        project.materialise()
        project.push("readings", [reading(shop.NOW_US - 1, 6.0)])
        project.views.catch_up()
    steps = 0
    for n in range(6):
        folder = Path(shutil.copytree(trained, tmp_path / f"killed{n}"))
        words = [str(folder), str(shop.NOW_US), str(0.01 * n)]
        killed = forked.run([sys.executable, "-c", RECOVERS, *words], check=False, timeout=60)
        steps += killed.returncode == -9
        with shop.opened(folder) as project:
            project.recover()
            assert project.recover().is_empty
            assert read(project)[0] == 6.0
            rows = project.state.tables(project.sources, make=False)["readings"].scan()
            assert rows["_append_at"].values.max() <= shop.NOW_US
            frame = project.history.frames_at(["readings"])[0]["readings"]
            assert int(np.max(frame.known_at_us)) <= shop.NOW_US
            assert project.verify_ledger()
    assert steps > 2


def test_the_doctor_names_what_a_clock_ahead_stamped(trained: Path) -> None:
    now_us = SystemClock().now_us()
    with shop.opened(trained, now_us + JUMP_US) as project:
        project.push("readings", [reading(shop.NOW_US - 2, 5.0)])
    (found,) = [one for one in examine(trained, {}) if one.name == "logs"]
    assert found.state == "missing"
    assert "400d ahead of the clock" in found.found or "399d ahead" in found.found
    assert "trimtab storage recover" in found.fix


def test_nothing_is_put_right_beside_a_service(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained, shop.NOW_US + JUMP_US) as project:
        project.push("readings", [reading(shop.NOW_US - 2, 5.0)])
    with shop.serving(trained, "--as-of", AS_OF), shop.opened(trained) as project:
        with pytest.raises(Conflict, match=r"a service is running\. Stop it"):
            project.recover()
        assert project.recover(dry_run=True).stamped_ahead


@pytest.mark.fast
def test_a_clock_that_is_set_back_or_corrected_little_by_little_is_believed() -> None:
    wall, passed = VirtualClock(0), [0]
    clock = CheckedClock(wall, elapsed_us=lambda: passed[0])
    for _ in range(5):  # more than the tolerance in all, never at once
        wall.advance_to(wall.now_us() + TOLERANCE_US)
        assert clock.now_us() == wall.now_us()
    passed[0] += 3 * TOLERANCE_US  # as if it was set back, and then to the right time again
    assert clock.now_us() == wall.now_us()
    wall.advance_to(wall.now_us() + 3 * TOLERANCE_US)
    assert clock.now_us() == wall.now_us()
    wall.advance_to(wall.now_us() + 2 * TOLERANCE_US)
    with pytest.raises(Unavailable):
        clock.now_us()
    passed[0] += 30 * DAY_US  # a machine that slept
    wall.advance_to(wall.now_us() + 30 * DAY_US - 2 * TOLERANCE_US)
    assert clock.jump() is None
