"""The project file changes while a version is in service: what answers, from what, and how the change arrives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import shop

import forked
from trimtab.app.data.training_data import LivingData
from trimtab.app.features.feature_runs import run_in_memory
from trimtab.app.project import Project
from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.serving.answer.batch import batch_predictions

PLAIN = """
@tt.transform
def doubled(x):
    return 2 * x
"""
A = shop.PROJECT.replace(
    'features=[{"x": tt.col("x"),', 'features=[{"x": tt.col("x"), "xx": doubled(tt.col("x")),'
).replace("readings = tt.source", PLAIN + "\nreadings = tt.source")
B = (
    A.replace('columns={"site": str, "level": float}', 'columns={"mood": str, "site": str, "level": float}')
    .replace('"level": tt.latest("level", max_age="9h"), ', "")
    .replace('over="1d")})', 'over="2d"), "low": tt.min("level", over="6h")})')
    .replace("def doubled(x):\n    return 2 * x", "def doubled(x):\n    return 2 * x + 0.0")
)
KEPT = "import before\n" + B  # where the old function still is


def edited(folder: Path, text: str) -> None:
    (folder / "project.py").write_text(text)
    (folder / "before.py").write_text("import trimtab as tt\n" + PLAIN)


@pytest.fixture(scope="session")
def first_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shop.write_project(tmp_path_factory.mktemp("versions") / "first")
    edited(folder, A)
    with shop.opened(folder) as project:
        shop.load(project)
        assert [d.act for d in project.train("buyer")][-1] == "promote"
    return folder


@pytest.fixture
def first(first_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first_once, tmp_path / "project"))


def ask(project: Project, key: str, hours: int = 0) -> tuple[str, float]:
    answer = project.predict("buyer", [shop.visit(key, shop.NOW_US + hours * HOUR_US)])[0]
    return answer.version, answer.score


def trimtab(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: a function that is gone from the file is unknown there."""
    command = [sys.executable, "-c", "from trimtab.cli import main; main()", *arguments]
    return forked.run(command, cwd=folder, env=shop.environment(), capture_output=True, text=True, check=False)


def push(project: Project, n: int, level: float, **more: object) -> None:
    project.push("readings", [{"site": "north", "level": level, "read_at": shop.NOW_US - 100 + n, **more}])


def test_the_champion_answers_the_same_bits_after_the_project_file_changed(first: Path) -> None:
    with shop.opened(first) as project:
        push(project, 1, 5.0)
        before = ask(project, "a")
    edited(first, KEPT)
    with shop.opened(first) as project:
        assert ask(project, "b") == before
        push(project, 2, 50.0, mood="bright")
        changed = ask(project, "c")
        assert changed != before
    edited(first, A)
    with shop.opened(first) as project:
        assert ask(project, "d") == changed


def test_a_function_whose_code_is_gone_is_named_with_what_to_do(first: Path) -> None:
    edited(first, B)
    asked = trimtab(first, "predict", "buyer", "--row", json.dumps(shop.visit("a", shop.NOW_US)))
    assert asked.returncode == 2
    assert "buyer@2 cannot answer here: transform 'doubled'" in asked.stderr
    assert "in a file that the project file imports" in asked.stderr
    assert "RED  buyer: buyer@2 cannot answer: transform 'doubled'" in trimtab(first, "status").stdout
    edited(first, KEPT)
    assert trimtab(first, "predict", "buyer", "--row", json.dumps(shop.visit("a", shop.NOW_US))).returncode == 0


def test_a_new_version_serves_on_the_new_definitions_and_the_old_one_again_after_a_roll_back(first: Path) -> None:
    with shop.opened(first) as project:
        push(project, 1, 5.0)
        one = ask(project, "a")
    edited(first, KEPT)
    with shop.opened(first) as project:
        assert [d.act for d in project.train("buyer")][-1] == "promote"
        two = ask(project, "b")
        assert two[0] != one[0]
        assert [view.name for view in project.views.views] == ["site", "site"]
        project.registry.roll_back("buyer", "champion", why="It was better.")
        assert ask(project, "c") == one


def test_the_online_features_of_a_version_that_is_out_of_service_go_after_its_quiet_time_and_come_back(
    first: Path,
) -> None:
    with shop.opened(first) as project:
        push(project, 1, 5.0)
        one = ask(project, "a")
    edited(first, KEPT)
    with shop.opened(first) as project:
        project.apply()
        project.train("buyer")
        ask(project, "b")
        assert project.views.unneeded() == []
        shop.move(project, 8 * DAY_US)
        assert len(project.views.unneeded()) == 1
        assert project.views.drop()
        assert [view.name for view in project.views.views] == ["site"]
        project.registry.roll_back("buyer", "champion", why="It was better.")
        again = project.predict("buyer", [shop.visit("c", shop.NOW_US)], at=shop.NOW_US + HOUR_US)[0]
        assert again.version == one[0]
        assert ask(project, "d")[0] == one[0]
        project.views.catch_up()
        assert len(project.views.views) == 2


def test_a_column_that_is_added_anywhere_and_one_that_is_removed_leave_recorded_events_what_they_were(
    first: Path,
) -> None:
    with shop.opened(first) as project:
        project.materialise()
        before = project.history
        before.refresh()
        old = before.frame("readings").columns.to_rows()
    edited(first, KEPT)
    with shop.opened(first) as project:
        push(project, 7, 3.0, mood="calm")
        project.history.refresh()
        rows = project.history.frame("readings").columns.to_rows()
        assert [{**row, "mood": None} for row in old] == [{**row} for row in rows[:-1]]
        assert (rows[-1]["mood"], rows[-1]["level"]) == ("calm", 3.0)
        assert project.materialise().rows["readings"] == 1
    edited(first, A)
    with shop.opened(first) as project:
        with pytest.raises(Misuse, match=r"unknown column 'mood'\. Declared columns: site, level, read_at"):
            push(project, 8, 4.0, mood="calm")
        push(project, 8, 4.0)
        project.history.refresh()
        assert project.history.frame("readings").columns.to_rows()[-2:] == [
            rows[-1],
            {**rows[-1], "read_at": shop.NOW_US - 92, "level": 4.0, "mood": None},
        ]
        assert project.materialise().rows["readings"] == 1


def test_a_column_of_another_type_is_refused_once_something_is_recorded(first: Path) -> None:
    edited(first, A.replace('"level": float}', '"level": int}'))
    with (
        shop.opened(first) as project,
        pytest.raises(Misuse, match="'level' is declared int, but recorded events hold"),
    ):
        push(project, 1, 5)


def test_requests_that_were_asked_with_other_columns_are_learnt_from_by_the_names_of_their_columns(first: Path) -> None:
    with shop.opened(first) as project:
        project.predict("buyer", [shop.visit(f"new{n}", shop.NOW_US, x=n / 10) for n in range(3)])
    edited(
        first,
        "import before\n"
        + A.replace('"visit_id": str, "site": str, "at"', '"age": int, "site": str, "visit_id": str, "at"'),
    )
    with shop.opened(first) as project:
        again = project.predict("buyer", [shop.visit("same", shop.NOW_US)])[0]  # in the columns that its version knows
        assert again.version == "buyer@2"
        loop = project.loop("buyer")
        assert loop.deployment.model.request.columns["age"] == "int"
        data = LivingData(
            partial(run_in_memory, project.history), project.predictions, request_of=project.live.request_of
        )
        found = data.training_set(loop.deployment.model, cut_us=shop.NOW_US)
        rows = {row["visit_id"]: row for row in found.requests.to_rows()}
        assert data.other_shapes == 0
        assert [rows[f"new{n}"]["x"] for n in range(3)] == [0.0, 0.1, 0.2]
        assert rows["new1"]["age"] is None
        assert rows["new1"]["site"] == "north"


def test_a_table_is_answered_with_the_definitions_and_columns_of_the_version_in_service(first: Path) -> None:
    rows = [shop.visit(f"t{n}", shop.NOW_US - HOUR_US, x=n / 10) for n in range(3)]
    table = Columns.of(
        {
            "visit_id": ("str", [r["visit_id"] for r in rows]),
            "site": ("str", ["north"] * 3),
            "at": ("time", [r["at"] for r in rows]),
            "x": ("float", [r["x"] for r in rows]),
        }
    )
    with shop.opened(first) as project:
        before = project.predict_table("buyer", table, at=shop.NOW_US - HOUR_US)
        scores = [p.score for part in batch_predictions(before, project.predictions) for p in part]
    edited(
        first, "import before\n" + B.replace('"visit_id": str, "site": str', '"visit_id": str, "age": int, "site": str')
    )
    with shop.opened(first) as project:
        after = project.predict_table("buyer", table, at=shop.NOW_US - HOUR_US + 1)
        assert [p.score for part in batch_predictions(after, project.predictions) for p in part] == scores


def test_after_a_roll_back_the_version_in_service_answers_until_the_other_ones_features_are_there(first: Path) -> None:
    with shop.opened(first) as project:
        push(project, 1, 5.0)
        one = ask(project, "a")
    edited(first, KEPT)
    with shop.opened(first) as project:
        project.apply()
        project.train("buyer")
        two = ask(project, "b")
        shop.move(project, 8 * DAY_US)
        assert project.views.drop()
        served = project.served("buyer")
        project.registry.roll_back("buyer", "champion", why="It was better.")
        assert served.refresh().version.name == two[0]  # nobody has filled what the other one needs
        with project.views.follow().start():
            answered = set()
            for _ in range(600):
                answered.add(served.refresh().version.name)
                assert served.endpoint.answer([shop.visit("c", shop.NOW_US)])[0].score > 0
                if one[0] in answered:
                    break
                time.sleep(0.02)
            project.views.release()
        assert answered <= {one[0], two[0]}
        assert one[0] in answered
