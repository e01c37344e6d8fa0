"""Scenarios that are replayed in child processes."""

from __future__ import annotations

import logging
import pickle
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import shop

from trimtab.app.replay import scenario_process
from trimtab.app.replay.scenario_process import (
    ChildReplay,
    ReplayTask,
    ScenarioSource,
    divide_among_processors,
    divide_by_features,
    replay_scenarios,
    replay_side_by_side,
    write_recording,
)
from trimtab.app.replay.scenarios import scenarios_of
from trimtab.core.config import ScenarioSettings
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.time import DAY_US
from trimtab.run import Line, Workplace
from trimtab.simulation.policies import never
from trimtab.simulation.replay import Recording, ReplaySettings
from trimtab.simulation.results import ReplayResult
from trimtab.simulation.scenarios.scenario import Scenario

PLAIN = """
tt.deployment(tt.model(
    "plain", request=visit, features=[{"x": tt.col("x")}],
    label=tt.label(sales, key="visit_id", value="bought", wait="2d"), estimator=batch, metric="log_loss"),
    retrain=tt.every("4d"), gate=tt.beats_champion(margin=-0.5, calibration=0.5))
"""
LINES = [
    ScenarioSettings(name="policy", model="buyer"),
    ScenarioSettings(name="plain", model="plain"),
    ScenarioSettings(name="never", model="buyer", policy="never"),
]
SETTINGS = ReplaySettings(start_us=shop.NOW_US - 12 * DAY_US, until_us=shop.NOW_US - 4 * DAY_US, seed=3)
YEAR = ReplaySettings(start_us=shop.NOW_US - 365 * DAY_US, until_us=shop.NOW_US, seed=3)


class Given(NamedTuple):
    """A project with recorded events, and its scenarios."""

    source: ScenarioSource
    scenarios: list[Scenario]
    recording: Recording
    folder: Path

    def child(self, name: str, shown: list[str]) -> ChildReplay:
        """Begin to replay the scenario "plain" in a child process."""
        file = self.folder / "recording.pickle"
        write_recording(self.recording, SETTINGS, file)
        return ChildReplay(self.scenarios[1:2], self.source, file, self.folder / name, shown.append)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    folder = shop.write_project(tmp_path / "project")
    file = folder / "project.py"
    file.write_text(file.read_text() + PLAIN)
    source = ScenarioSource(str(file), lines=LINES)
    with shop.opened(folder) as project:
        shop.load(project)
        project.history.refresh()
        sources = project.definitions.sources
        tables = {name: project.history.frame(name).columns for name in sources}
        scenarios = source.scenarios(project.definitions)
        return Given(source, scenarios, Recording(tables, list(sources.values())), tmp_path)


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


def test_a_child_process_replays_what_this_one_would(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "level", logging.root.level)  # set by the task, restored after it
    shown: list[str] = []
    with closing(given.child("child", shown)) as child:
        found = child.result().lines["plain"]
        assert child.reached_us() == SETTINGS.until_us
    here: list[object] = []
    task = ReplayTask(
        given.source,
        {"plain": given.scenarios[1].deployment.hash},
        str(given.folder / "recording.pickle"),
        str(given.folder / "again"),
        sends_decisions=True,
    )
    file = replay_scenarios(pickle.dumps(task), Workplace(here.append)).decode()
    result: ReplayResult = pickle.loads(Path(file).read_bytes())
    own = result.lines["plain"]
    assert found.scores.tolist() == own.scores.tolist() != []
    assert found.decisions == own.decisions
    assert shown == [one.text for one in here if isinstance(one, Line)] != []


def test_several_processes_give_the_result_of_one(given: Given) -> None:
    reached_us: list[int] = []
    for name in ("many", "one"):
        (given.folder / name).mkdir()
    parts = [given.scenarios[:2], given.scenarios[2:]]  # the first two write into one ledger
    many = replay_side_by_side(
        parts, given.source, given.recording, given.folder / "many", SETTINGS, reached=reached_us.append
    )
    one = replay_side_by_side([given.scenarios], given.source, given.recording, given.folder / "one", SETTINGS)
    assert list(many.lines) == list(one.lines) == ["policy", "plain", "never"]
    for name, line in one.lines.items():
        assert many.lines[name].scores.tolist() == line.scores.tolist() != []
        assert many.lines[name].decisions == line.decisions
        assert (many.lines[name].fits, many.lines[name].fitted_rows) == (line.fits, line.fitted_rows)
    assert (many.start_us, many.entered, many.refused_starts) == (one.start_us, one.entered, [])
    assert reached_us == sorted(reached_us)
    assert reached_us[-1] == SETTINGS.until_us
    assert not (given.folder / "many" / "recording.pickle").exists()


def test_the_end_is_reported_when_a_child_process_ends_last(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_process, "_POLL_S", 60.0)  # the child process ends between two reports
    reached_us: list[int] = []
    (given.folder / "many").mkdir()
    parts = [given.scenarios[2:], given.scenarios[:2]]
    replay_side_by_side(
        parts, given.source, given.recording, given.folder / "many", SETTINGS, reached=reached_us.append
    )
    assert reached_us[-1] == SETTINGS.until_us


def test_all_scenarios_begin_at_the_first_start_at_which_each_has_a_version(given: Given) -> None:
    first_day = int(given.recording.tables["visit"]["at"].values.min()) // DAY_US
    starts_us = tuple((first_day + days) * DAY_US for days in (20, 22, 23))
    until_us = starts_us[2] + DAY_US
    settings = msgspec.structs.replace(SETTINGS, start_us=starts_us[0], or_start_us=starts_us[1:], until_us=until_us)
    # on day 20, "plain" has a version, but that of "policy" is refused
    parts = [given.scenarios[1:2], given.scenarios[:1]]
    for name in ("alone", "both", "one"):
        (given.folder / name).mkdir()
    alone = replay_side_by_side(parts[:1], given.source, given.recording, given.folder / "alone", settings)
    found = replay_side_by_side(parts, given.source, given.recording, given.folder / "both", settings)
    assert alone.start_us == starts_us[0]
    assert found.start_us == starts_us[1]
    assert [one.at_us for one in found.refused_starts] == [starts_us[0]]
    assert len(found.lines["plain"].scores) == len(found.lines["policy"].scores)
    one = replay_side_by_side([given.scenarios[:2]], given.source, given.recording, given.folder / "one", settings)
    assert (one.start_us, one.refused_starts) == (found.start_us, found.refused_starts)
    assert [one.lines[name].scores.tolist() for name in found.lines] == [
        line.scores.tolist() for line in found.lines.values()
    ]


def test_an_error_in_a_child_ends_the_replay_and_is_raised(given: Given) -> None:
    Path(given.source.project_file).write_text("import trimtab as tt\ntt.source('none', time='at', columns={})\n")
    parts = [given.scenarios[:1], given.scenarios[1:2]]
    (given.folder / "state").mkdir()
    with pytest.raises(Misuse, match="no model 'buyer'"):
        replay_side_by_side(parts, given.source, given.recording, given.folder / "state", SETTINGS)


@pytest.mark.parametrize("change", [('"x": tt.col("x")', '"x": 2 * tt.col("x")'), ("margin=-0.5", "margin=-0.4")])
def test_a_changed_project_file_is_an_error(given: Given, change: tuple[str, str]) -> None:
    file = Path(given.source.project_file)
    file.write_text(file.read_text().replace(*change))
    with closing(given.child("child", [])) as child, pytest.raises(Conflict, match="was changed since"):
        child.result()


def test_closing_ends_the_child(given: Given) -> None:
    child = given.child("child", [])
    child.close()
    assert child._executor._child is None


@pytest.mark.parametrize(
    ("processors", "names"),
    [
        (1, [["project", "never", "ungated 30d", "every 30d", "mine"]]),
        (2, [["project", "ungated 30d", "mine"], ["never", "every 30d"]]),
        (3, [["never", "mine"], ["every 30d"], ["project", "ungated 30d"]]),
    ],
)
def test_policies_are_divided_among_the_processors(
    given: Given, monkeypatch: pytest.MonkeyPatch, processors: int, names: list[list[str]]
) -> None:
    monkeypatch.setattr(scenario_process, "_processors", lambda: processors)
    mine = msgspec.structs.replace(never(), name="mine")  # has a function, which cannot be sent to another process
    source = ScenarioSource(
        given.source.project_file, policies=["project", "never", "ungated 30d", "30d", mine], model="buyer"
    )
    with shop.opened(Path(source.project_file).parent) as project:
        scenarios = source.scenarios(project.definitions)
    assert [[one.name for one in share] for share in divide_among_processors(scenarios, source, YEAR)] == names
    short = divide_among_processors(scenarios, source, SETTINGS)
    assert short == [scenarios]  # 8 days are not worth the start of a process


def test_scenarios_of_several_models_are_not_divided(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario_process, "_processors", lambda: 4)
    assert divide_among_processors(given.scenarios, given.source, YEAR) == [given.scenarios]


def test_scenarios_with_the_features_of_the_first_one_stay_in_the_process_of_the_demo(given: Given) -> None:
    plain = msgspec.structs.replace(given.scenarios[1], main=False)
    parts = divide_by_features([given.scenarios[0], plain, given.scenarios[2]])
    assert [[one.name for one in part] for part in parts] == [["policy", "never"], ["plain"]]
    assert divide_by_features(given.scenarios[:1]) == [given.scenarios[:1]]
