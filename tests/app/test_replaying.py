"""`simulate`: a replay of the log shows each version of an event when it became known, and no sooner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from click.testing import CliRunner

from trimtab.app.project import Project
from trimtab.app.replay import replaying
from trimtab.app.replay.replay_tables import table
from trimtab.app.replay.scenarios import given_policies
from trimtab.cli.group import trimtab
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, HOUR_US, format_time
from trimtab.simulation import Policy, fault
from trimtab.simulation.results import ReplayResult
from trimtab.store.file_lock import FileLock

START_US = shop.NOW_US - 12 * DAY_US
LATER_US = shop.NOW_US - 4 * DAY_US


@pytest.fixture
def project(trained: Path) -> Any:
    with shop.opened(trained, shop.NOW_US + DAY_US) as opened:
        yield opened


def simulate(project: Project) -> ReplayResult:
    return project.simulate(lines=["never"], start=START_US, until=shop.NOW_US)


def corrected(project: Project, known_us: int) -> None:
    """From `known_us` on it is known that what was sold was not, and the other way round; readings come late."""
    project.history.refresh()
    sales = project.history.frame("sales")
    turned = ~sales.columns["bought"].values
    known = np.full(sales.rows, known_us)
    columns = sales.columns.replace(
        {
            "bought": msgspec.structs.replace(sales.columns["bought"], values=turned),
            "_known_at": msgspec.structs.replace(sales.columns["closed_at"], values=known),
        }
    )
    project.ingestor.load("sales", columns)
    late = {
        "site": ("str", ["north", "south"]),
        "level": ("float", [99.0, -99.0]),
        "read_at": ("time", [START_US + DAY_US] * 2),
        "_known_at": ("time", [known_us] * 2),
    }
    project.ingestor.load("readings", Columns.of(late))  # type: ignore[arg-type]


def test_a_correction_that_came_later_changes_nothing_before_it(project: Project) -> None:
    before = simulate(project)
    corrected(project, LATER_US)
    gone = [{"visit_id": key, "_known_at": LATER_US} for key in ("v00001", "v01000")]
    project.ingestor.push("visit", gone, op="delete", history=True)
    after = simulate(project)
    line, other = before.lines["never"], after.lines["never"]
    assert line.at_us.tolist() == other.at_us.tolist()
    assert len(line.at_us) > 300
    assert line.scores.tolist() == other.scores.tolist()
    known = (line.at_us + 2 * DAY_US) < LATER_US
    assert (line.labels[known] != other.labels[known]).any()  # the judgement at the end knows them
    assert [d.version for d in line.decisions] == [d.version for d in other.decisions]
    corrected(project, START_US - DAY_US)  # and one that came before does change it
    assert simulate(project).lines["never"].scores.tolist() != line.scores.tolist()


def test_every_version_is_fed_at_its_own_known_at_with_deletions(project: Project) -> None:
    source = project.definitions.sources["sales"]
    row = {"visit_id": "new", "site": "north", "bought": True, "closed_at": shop.NOW_US}
    project.push("sales", [row])
    shop.move(project, HOUR_US)
    project.push("sales", [{**row, "bought": False}])
    shop.move(project, HOUR_US)
    project.ingestor.push("sales", [{"visit_id": "new"}], op="delete")
    project.history.refresh()
    fed = replaying._recorded(source, project.history.frame("sales")).to_rows()[-3:]
    hours = [(one["_known_at"] - shop.NOW_US - DAY_US) // HOUR_US for one in fed]
    assert [(one["_op"], hour) for one, hour in zip(fed, hours, strict=True)] == [
        ("upsert", 0),
        ("upsert", 1),
        ("delete", 2),
    ]


def test_events_without_a_key_that_say_the_same_stay_apart(project: Project) -> None:
    source = project.definitions.sources["readings"]
    row = {"site": "north", "level": 1.0, "read_at": shop.NOW_US}
    project.push("readings", [{**row, "_id": "a"}, {**row, "_id": "b"}, {**row, "_id": "a"}])
    project.history.refresh()
    fed = replaying._recorded(source, project.history.frame("readings")).to_rows()[-2:]
    assert fed[0]["_id"] != fed[1]["_id"]
    assert fed[0]["level"] == fed[1]["level"] == 1.0


def test_requests_that_were_only_asked_belong_to_the_replay(project: Project) -> None:
    shop.move(project, HOUR_US)
    asked_us = project.clock.now_us()
    project.predict("buyer", [shop.visit("asked", shop.NOW_US)])  # asked after its time
    project.predict("buyer", [shop.visit("what if", shop.NOW_US)], at=shop.NOW_US)
    project.history.refresh()
    request = project.definitions.requests["visit"]
    rows = replaying._requests(project, request, project.history.frame("visit")).to_rows()
    assert [r["_known_at"] for r in rows if r["visit_id"] == "asked"] == [asked_us]
    assert [r for r in rows if r["visit_id"] == "what if"] == []
    result = project.simulate(lines=["never"], start=START_US, until=asked_us + 1)
    assert result.lines["never"].at_us[-1] == asked_us


def test_a_replay_leaves_the_project_as_it_is(project: Project) -> None:
    decisions, positions = project.ledger(), project.state.events.positions()
    simulate(project)
    assert project.ledger() == decisions
    assert project.state.events.positions() == positions
    assert [p.name for p in project.state_folder.iterdir() if p.name.startswith("trimtab-replay")] == []


def leftovers(project: Project) -> list[str]:
    return sorted(path.name for path in project.state_folder.iterdir() if path.name.startswith("trimtab-replay"))


def test_what_killed_replays_left_goes_with_the_next_one_and_what_runs_stays(project: Project) -> None:
    for name in ("killed", "early", "runs", "runs-since-long"):
        (project.state_folder / f"trimtab-replay-{name}" / "log").mkdir(parents=True)
        (project.state_folder / f"trimtab-replay-{name}" / "log" / "p0001.lock").touch()
    (project.state_folder / "trimtab-replay-killed" / "replay.lock").touch()
    running = FileLock.take(project.state_folder / "trimtab-replay-runs" / "replay.lock")
    older = FileLock.take(project.state_folder / "trimtab-replay-runs-since-long" / "log" / "p0001.lock")
    assert running is not None
    assert older is not None  # of a trimtab that locked its logs alone
    during: list[list[str]] = []

    def look(done_us: int, all_us: int) -> None:
        if not during:
            assert replaying.clear_replays(project.state_folder) == []  # as another simulation would
            during.append(leftovers(project))

    project.simulate(lines=["never"], start=START_US, until=shop.NOW_US, progress=look)
    assert len(during[0]) == 3
    assert leftovers(project) == ["trimtab-replay-runs", "trimtab-replay-runs-since-long"]
    running.release()
    older.release()
    assert replaying.clear_replays(project.state_folder) == ["trimtab-replay-runs", "trimtab-replay-runs-since-long"]


def test_policies_are_replayed_side_by_side_from_python_and_the_command_line(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.config.folder / "rules.py").write_text("def idle(standing):\n    return None\n")
    words = ["project", "ungated 4d", "rules.py:idle"]
    result = project.simulate(policies=words, model="buyer", start=START_US, until=shop.NOW_US)
    assert list(result.lines) == ["project", "ungated 4d", "idle"]
    acts = [[d.act for d in line.decisions].count("promote") for line in result.lines.values()]
    assert acts[1] == 4  # at the start, and after four, eight and twelve days
    assert acts[2] == 1
    with pytest.raises(Misuse, match="both lines and policies"):
        project.simulate(lines=["never"], policies=words)
    with pytest.raises(Misuse, match="both lines and model"):
        project.simulate(lines=["never"], model="buyer")
    with pytest.raises(NotFound, match="nosuch"):
        project.simulate(model="nosuch")
    with pytest.raises(Misuse, match="found seed=-1"):
        project.simulate(seed=-1)
    for made in (None, "history=30 days=21 per_day=60"):
        with pytest.raises(Misuse, match="is not before the end"):
            project.simulate(start=LATER_US, until=START_US, stream=made)
    for kind, at_us in (("outage", shop.NOW_US), ("freeze", START_US - 2 * DAY_US)):
        fault = {"kind": kind, "start": at_us, "end": at_us + DAY_US, "source": "sales" if kind == "outage" else ""}
        with pytest.raises(Misuse, match=f"the fault {kind}.* is outside of the replayed time"):
            project.simulate(faults=[fault], start=START_US, until=shop.NOW_US)
    project.close()
    monkeypatch.chdir(project.config.folder)
    given = [part for word in words for part in ("--policy", word)]
    told = CliRunner().invoke(trimtab, ["simulate", *given, "--model", "buyer", "--start", format_time(START_US)])
    assert told.exit_code == 0, told.output
    assert [name for name in ("project", "ungated 4d", "idle") if name in told.stdout] == list(result.lines)


@pytest.mark.slow
def test_a_generated_stream_with_faults_is_reported_alike_for_the_same_seed(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = project.config.folder
    project.close()
    monkeypatch.chdir(folder)
    (folder / "faults.csv").write_text(
        "kind,start,end,source,column,size\nnull_column,2024-02-20,2024-02-22,,x,\nrestart,2024-02-20T12:00Z,,,,\n"
    )
    words = ["simulate", "--model", "buyer", "--policy", "ungated 7d", "--policy", "never", "--seed", "3"]
    words += ["--stream", "history=30 days=21 per_day=60 concept=10", "--faults", "faults.csv"]
    files = [tmp_path / "one.html", tmp_path / "two.html"]
    told, shown = (
        CliRunner().invoke(trimtab, [*more, *words, "--html", str(file)])
        for more, file in zip((["--json"], []), files, strict=True)
    )
    assert (told.exit_code, shown.exit_code) == (0, 0), told.output
    assert files[0].read_bytes() == files[1].read_bytes()
    page = files[0].read_text("utf-8")
    assert "concept shift" in page
    assert "concept shift of x, size 1: 2024-02-10T00:00" in shown.stdout
    assert "null_column x: 2024-02-20T00:00 to 2024-02-22T00:00" in shown.stdout
    assert "Seed 3." in shown.stdout
    assert "null_column x" in page
    assert "optimum" in page
    document = json.loads(told.stdout)
    assert document["seed"] == 3
    never = document["lines"]["never"]
    last = [day for day in never["days"] if day["day_us"] >= never["final_until_us"]]
    assert len(last) >= 1  # the wait for their labels was not over at the end
    assert not any(day["judged"] for day in last)
    assert never["reference"] == "optimum"
    assert never["days_above"] > 0
    assert 0 < never["bad_requests"] < never["predictions"]  # none before the shift
    assert document["lines"]["ungated 7d"]["fits"] == 4  # at the start, and every week up to the end
    assert document["faults"][0]["kind"] == "null_column"
    assert document["shifts"][0]["kind"] == "concept"
    for part in ("days above", "bad requests", "CPU s", "Shifts and faults", "dashed: the mean of optimum"):
        assert part in shown.stdout
    assert "days before each day" not in shown.stdout  # the charts of a terminal are by day


@pytest.mark.slow
def test_a_search_chooses_on_the_first_half_and_shows_the_second(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.close()
    monkeypatch.chdir(project.config.folder)
    words = ["simulate", "--search", "--model", "buyer", "--policy", "never", "--policy", "ungated 5d", "--seed", "2"]
    words += ["--stream", "history=30 days=30 per_day=60 concept=4"]
    told = CliRunner().invoke(trimtab, ["--json", *words])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["chosen"] == "ungated 5d"  # from day 4 on what never learns is wrong
    assert found["gains"]["never"]["high"] < 0
    shown = CliRunner().invoke(trimtab, words)
    assert shown.exit_code == 0, shown.output
    assert "ungated 5d: It has the lowest loss of the first part" in shown.stdout
    assert CliRunner().invoke(trimtab, ["simulate", "--search", "--line", "never"]).exit_code == 2


def refused(*words: str) -> str:
    told = CliRunner().invoke(trimtab, ["simulate", *words])
    assert told.exit_code == 2, told.output
    return told.output


@pytest.mark.fast
def test_what_a_replay_could_not_write_or_compare_is_refused_before_it(tmp_path: Path) -> None:
    assert "ends in .svg" in refused("--plot", "x.png")
    (tmp_path / "file").write_text("")
    for option, name in (("--html", "x.html"), ("--plot", "x.svg")):
        assert "folder cannot be made" in refused(option, str(tmp_path / "file" / name))
        assert f"{option} has no effect on a search" in refused("--search", option, str(tmp_path / name))
    assert "found never alone, needed two or more" in refused("--search", "--policy", "never")


def test_policies_and_streams_of_other_types_are_refused_or_taken(project: Project) -> None:
    for given, said in (([], "policies is empty"), ([30], "found the policy 30"), (30, "found the policy 30")):
        with pytest.raises(Misuse, match=said):
            project.simulate(policies=given, model="buyer")  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="found stream=5"):
        project.simulate(stream=5, model="buyer")  # type: ignore[arg-type]
    words = "history=5 days=4 per_day=5"
    for start in ("2023-01-01", "2024-01-01"):
        with pytest.raises(Misuse, match="needed one after the first generated request"):
            project.simulate(stream=words, model="buyer", start=start)
    with pytest.raises(Misuse, match="can be judged"):
        project.simulate(stream=words, model="buyer", start="2024-01-09T12:00:00Z")
    single = fault("freeze", "2025-02-20", "2025-02-22")
    with pytest.raises(Misuse, match="fault freeze: 2025-02-20"):
        project.simulate(faults=single, stream=words, model="buyer")


def test_functions_are_policies_of_their_name() -> None:
    def idle(standing: object) -> None:
        return None

    (made, named) = given_policies((idle, "30d"))
    assert isinstance(made, Policy)
    assert (made.name, made.decide, named) == ("idle", idle, "30d")
    assert given_policies("never,30d") == ["never", "30d"]
    assert given_policies(made) == [made]


def test_columns_of_numbers_are_right_aligned() -> None:
    assert table(("name", "rows"), [("a", "1,000"), ("b", "-")]).sides == ("left", "right")
    assert table(("name", "rows"), []).sides == ("left", "left")
