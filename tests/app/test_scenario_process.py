"""Scenarios that are replayed in a child process."""

from __future__ import annotations

import csv
import logging
import pickle
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import shop

from trimtab.app.replay.scenario_process import ChildReplay, ReplayTask, replay_scenarios, split
from trimtab.app.replay.scenarios import scenarios_of
from trimtab.core.config import ScenarioSettings
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, format_time
from trimtab.run import Line, Workplace
from trimtab.simulation.results import ScenarioResult

PLAIN = """
tt.deployment(tt.model(
    "plain", request=visit, features=[{"x": tt.col("x")}],
    label=tt.label(sales, key="visit_id", value="bought", wait="2d"), estimator=batch, metric="log_loss"),
    retrain=tt.every("4d"), gate=tt.beats_champion(margin=-0.5, calibration=0.5))
"""
SETTINGS = f"""
[demo]
loader = "load.py:load"
start = "{format_time(shop.NOW_US - 12 * DAY_US)}"
until = "{format_time(shop.NOW_US - 4 * DAY_US)}"
lines = [
    {{ name = "policy", model = "buyer", policy = "project" }},
    {{ name = "plain", model = "plain", policy = "project" }},
]
"""


@pytest.fixture
def task(tmp_path: Path) -> ReplayTask:
    """A project with recorded events in files, and its scenario of other features."""
    folder = shop.write_project(tmp_path / "project", settings=SETTINGS)
    file = folder / "project.py"
    file.write_text(file.read_text() + PLAIN)
    files: dict[str, str] = {}
    with shop.opened(folder) as project:
        shop.load(project)
        project.history.refresh()
        for name, source in project.definitions.sources.items():
            rows = project.history.frame(name).columns.to_rows()
            files[name] = str(tmp_path / f"{name}.csv")
            with Path(files[name]).open("w", newline="") as out:
                table = csv.DictWriter(out, list(source.columns))
                table.writeheader()
                for row in rows:
                    table.writerow(
                        {n: format_time(row[n]) if d == "time" else row[n] for n, d in source.columns.items()}
                    )
        here, away = split(scenarios_of(project.definitions, project.config.demo.lines if project.config.demo else []))
    assert ([one.name for one in here], [one.name for one in away]) == (["policy", "plain"], [])  # both are declared
    return ReplayTask(str(folder), files, str(tmp_path / "state"), ["plain"], seed=3)


@pytest.mark.parametrize("like", ["early", "earlier", "no-such", "other"])
def test_a_batch_made_ahead_needs_the_versions_of_a_live_scenario(tmp_path: Path, like: str) -> None:
    lines = [
        ScenarioSettings(name="early", model="", policy="day_ahead", like=like),
        ScenarioSettings(name="earlier", model="", policy="day_ahead", like="policy"),
        ScenarioSettings(name="policy", model=""),
        ScenarioSettings(name="other", model="another"),
    ]
    with (
        shop.opened(shop.write_project(tmp_path / "project")) as project,
        pytest.raises(Misuse, match="is none of the live lines of its model: policy"),
    ):
        scenarios_of(project.definitions, lines)


def test_a_child_process_replays_what_this_one_would(
    task: ReplayTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "level", logging.root.level)  # set by the task, restored after it
    shown: list[str] = []
    with closing(ChildReplay(task, shown.append)) as child:
        found = child.results()["plain"]
    here: list[object] = []
    again = ReplayTask(task.project, task.files, str(tmp_path / "again"), task.scenarios, task.seed)
    own: ScenarioResult = pickle.loads(replay_scenarios(msgspec.msgpack.encode(again), Workplace(here.append)))["plain"]
    assert found.scores.tolist() == own.scores.tolist() != []
    assert found.decisions == own.decisions
    assert shown == [one.text for one in here if isinstance(one, Line)] != []


def test_an_error_in_the_child_is_raised_here(task: ReplayTask) -> None:
    Path(task.project, "project.py").write_text("import trimtab as tt\ntt.source('none', time='at', columns={})\n")
    with closing(ChildReplay(task, lambda text: None)) as child, pytest.raises(NotFound, match="no source"):
        child.results()


def test_closing_ends_the_child(task: ReplayTask) -> None:
    child = ChildReplay(task, lambda text: None)
    child.close()
    assert child._executor._child is None
