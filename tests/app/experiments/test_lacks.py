"""Experiments whose project file changed while they run, or whose time is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from trimtab.app.project import Project, open_project
from trimtab.cli.group import trimtab
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import NotFound
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.days import stored_days

NOW_US = 1_700_000_000_000_000 // DAY_US * DAY_US + HOUR_US
VISITS = 'import trimtab as tt\nvisits = tt.source("visits", time="at", columns={"customer": str, "amount": float})\n'
ORDERS = 'orders = tt.source("orders", time="at", columns={"customer": str, "amount": float})\n'
EXPERIMENT = """
tt.experiment("{name}", unit="customer", variants={{"a": 1, "b": 2}}, {more} metrics=[
    tt.metric("revenue", source={source}, by="customer", value=tt.sum("amount"), within="1d", role="primary")])
"""
MADE = EXPERIMENT.format(name="made", source="visits", more="")
TAKEN = EXPERIMENT.format(name="taken", source="orders", more="")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trimtab.toml").write_text("")
    return tmp_path


def opened(folder: Path, text: str, at_us: int = NOW_US) -> Project:
    (folder / "project.py").write_text(text)
    return open_project(folder, clock=VirtualClock(at_us), environment={})


def expose(project: Project, name: str, units: Iterator[str] | list[str]) -> None:
    for unit in units:
        project.assign(name, unit, expose=True)


@pytest.mark.parametrize("left", ["", ORDERS.replace("amount", "paid")])
def test_a_source_that_is_gone_stops_only_the_experiments_that_read_it(folder: Path, left: str) -> None:
    with opened(folder, VISITS + ORDERS + MADE + TAKEN) as project:
        for name in ("made", "taken"):
            project.start_experiment(name, why="A test.")
            expose(project, name, [f"c{n}" for n in range(20)])
    what = "column 'amount' of 'orders'" if left else "source 'orders'"
    with opened(folder, VISITS + left + MADE, NOW_US + 4 * DAY_US) as project:
        assert project.tick() == []
        assert len(stored_days(project.state.catalog, "made", 1)) == 3
        assert stored_days(project.state.catalog, "taken", 1) == []
        (red,) = [line for line in project.status().red if line.startswith("experiment")]
        assert "experiment taken: running, 0 closed days: blocked: no day can be closed: " in red
        assert f"lacks {what}, which metric 'revenue' reads. Declare it again, or stop the experiment" in red
        reading = project.experiment_report("taken")
        assert reading.decision.act == "blocked"
        assert what in reading.decision.text
        assert "does not declare it any more" in reading.notes[0]
        project.stop_experiment("taken", why="Its source is gone.")
        assert project.tick() == []
        assert "the last days could not be closed" in project.experiment("taken").note
        assert "the last days could not be closed" in project.experiment_report("taken").decision.text
        assert not [line for line in project.status().red if line.startswith("experiment")]
    with opened(folder, VISITS + ORDERS + MADE + TAKEN, NOW_US + 6 * DAY_US) as project:
        project.tick()
        assert len(stored_days(project.state.catalog, "taken", 1)) == 4  # the end cut the windows of a fifth
        assert project.experiment("taken").note == ""


def test_a_unit_that_becomes_a_tester_is_left_out_of_the_days_that_are_closed_later(folder: Path) -> None:
    with opened(folder, VISITS + MADE) as project:
        project.start_experiment("made", why="A test.")
        expose(project, "made", [f"c{n}" for n in range(20)])
    declared = MADE.replace("metrics=", 'overrides={"c1": "b", "c2": "b"}, metrics=')
    with opened(folder, VISITS + declared, NOW_US + 3 * DAY_US) as project:
        variants = project.experiment_report("made").variants
        assert (sum(one.units for one in variants), sum(one.testers for one in variants)) == (18, 2)


def test_what_an_earlier_start_said_stays_readable(folder: Path) -> None:
    with opened(folder, VISITS + MADE) as project:
        project.start_experiment("made", why="A test.")
        expose(project, "made", [f"c{n}" for n in range(20)])
    with opened(folder, VISITS + MADE, NOW_US + 4 * DAY_US) as project:
        before = project.experiment_report("made")
        project.stop_experiment("made", why="Another try.")
        stopped = project.experiment_report("made")
        project.start_experiment("made", why="A test.")
        now, past = project.experiment_report("made"), project.experiment_report("made", generation=1)
        assert (now.generation, now.days) == (2, 0)
        assert (past.generation, past.phase, past.days) == (1, "stopped", 3)
        assert past.variants == before.variants == stopped.variants
        why = "all 20 units that count came on 2023-11-14"
        assert (why in stopped.decision.text, why in past.decision.text) == (True, True)
        assert project.experiment_report("made", generation=2).generation == 2
        with pytest.raises(NotFound, match="no start 3"):
            project.experiment_report("made", generation=3)
    shown = CliRunner().invoke(trimtab, ["experiment", "show", "made", "--generation", "1", "--project", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "made: experiment" in shown.output
    assert "Stopped" in shown.output


def test_a_clock_that_was_ahead_is_named(folder: Path) -> None:
    with opened(folder, VISITS + MADE) as project:
        project.start_experiment("made", why="A test.")
    with opened(folder, VISITS + MADE, NOW_US + 90 * DAY_US) as project:
        project.experiment_report("made")
    with opened(folder, VISITS + MADE, NOW_US + DAY_US) as project:
        assert "closed by a process whose clock was ahead" in project.experiment("made").note
        assert "closed by a process whose clock was ahead" in "".join(project.experiment_report("made").notes)


def test_the_global_holdout_of_the_start_stays_until_the_end(folder: Path) -> None:
    units, settings = [f"c{n}" for n in range(200)], folder / "trimtab.toml"

    def held_out(project: Project) -> int:
        return sum(project.assign("made", one).reason == "holdout" for one in units)

    settings.write_text("[experiments]\nholdout = 0.1\n")
    with opened(folder, VISITS + MADE) as project:
        project.start_experiment("made", why="A test.")
        before = held_out(project)
    assert 5 < before < 40
    settings.write_text("[experiments]\nholdout = 0.5\n")
    with opened(folder, VISITS + MADE) as project:
        assert held_out(project) == before
        project.conclude_experiment("made", "b", why="A test.")
        assert held_out(project) > 70


def test_an_experiment_whose_planned_time_is_over_says_so(folder: Path) -> None:
    text = VISITS + EXPERIMENT.format(name="made", source="visits", more='duration="2d",')
    over = "its planned time is over, so no more units count: "
    wait = f"{over}wait until 2023-11-17 01:00, when the windows of its last units end, then conclude or stop it"
    with opened(folder, text) as project:
        project.start_experiment("made", why="A test.")
        assert project.experiment("made").note == ""
    with opened(folder, text, NOW_US + 2 * DAY_US) as project:
        assert project.experiment("made").note == wait
    with opened(folder, text, NOW_US + 3 * DAY_US) as project:
        over += "conclude or stop it"
        assert over in project.experiment("made").note
        assert over in project.status().experiments["made"]
        assert over in "\n".join(project.experiment_report("made").lines())
        project.stop_experiment("made", why="It is over.")
        assert project.experiment("made").note == ""


@pytest.mark.parametrize(("kept", "said"), [("3d", True), ("4d", False)])
def test_exposures_that_are_kept_too_shortly_for_late_events_are_said(kept: str, said: bool, folder: Path) -> None:
    (folder / "trimtab.toml").write_text(f'[retention]\npredictions = "{kept}"\n')
    with opened(folder, VISITS + MADE) as project:
        project.start_experiment("made", why="A test.")
        assert ("exposures are not kept long enough" in project.experiment("made").note) == said
