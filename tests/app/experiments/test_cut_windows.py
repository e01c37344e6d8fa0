"""When an experiment ends, all units get one variant, so units whose windows had not ended do not count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.experiments.reading.results import Reading

BEGIN_US = parse_time_us("2024-03-01T00:00:00Z")
PROJECT = """
import trimtab as tt

orders = tt.source("orders", time="at", columns={"user": str})
tt.experiment("e", unit="user", variants={"old": 1, "new": 2},
    metrics=[tt.metric("orders", source=orders, by="user", within="4d", value=tt.count(), role="primary")])
"""


def run(folder: Path, end: str, *, days: int = 10) -> Reading:
    """While a unit gets the new variant, it orders twice as often; all units come back each day."""
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT)
    clock, rng, units = VirtualClock(BEGIN_US), np.random.default_rng(1), list[str]()
    with open_project(folder, clock=clock, environment={}) as project:
        project.start_experiment("e", why="A test.")
        for day in range(days + 5):
            clock.advance_to(BEGIN_US + day * DAY_US + HOUR_US)
            if day == days:
                _end(project, end)
            if day < days:
                new = [f"{day}_{n}" for n in range(150)]
                project.expose_units("e", new)
                units += new
            rate = [0.4 if project.assign("e", unit).variant == "new" else 0.2 for unit in units]
            came = rng.random(len(units)) < rate
            at_us = clock.now_us() + 1
            project.push("orders", [{"user": one, "at": at_us} for one, some in zip(units, came, strict=True) if some])
        clock.advance_to(BEGIN_US + 30 * DAY_US)
        return project.experiment_report("e")


def _end(project: Project, end: str) -> None:
    if end == "stop":
        project.stop_experiment("e", why="A test.")
    else:
        project.conclude_experiment("e", end, why="A test.")


@pytest.mark.parametrize("end", ["stop", "new"])
def test_the_end_of_an_experiment_does_not_dilute_its_effect(end: str, tmp_path: Path) -> None:
    reading = run(tmp_path, end)
    (metric,) = reading.metrics
    assert reading.decision.act == "ship"
    assert metric.looks[-1].relative == pytest.approx(1.0, abs=0.15)
    assert sum(metric.looks[-1].units) == 6 * 150
    ages = [look.relative for look in metric.by_age.values()]
    assert len(ages) == 4
    assert all(one == pytest.approx(1.0, abs=0.4) for one in ages)  # nothing wears off
    assert reading.notes == [
        "600 units that were first exposed from 2024-03-07 01:00 on do not count: their windows of 4d had not ended "
        "when the experiment did, and since then all units get one variant"
    ]


def test_an_experiment_that_ends_within_the_first_windows_counts_no_unit(tmp_path: Path) -> None:
    reading = run(tmp_path, "stop", days=3)
    assert reading.decision.text == (
        "no difference shown: it ended before the window of any unit had ended, so no unit counts."
    )
    assert reading.notes[0].startswith("450 units that were first exposed from 2024-03-01 00:00 on do not count")
