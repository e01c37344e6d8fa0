"""Training again before there are days that the champion has not seen: what is judged all the same, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import shop

from trimtab.core.errors import Unavailable
from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US, HOUR_US, format_time

ESTIMATOR = "return LogisticRegression()"


def edit(folder: Path, *changes: tuple[str, str]) -> None:
    file = folder / "project.py"
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def tried(folder: Path, hour: int = 0) -> tuple[str, GateRecord]:
    """What becomes, some hours later, of the recipe that the project file has now, and its record."""
    with shop.opened(folder, shop.NOW_US + hour * HOUR_US) as project:
        project.apply()
        decisions = project.train("buyer")
        gate = next(d for d in decisions if d.act == "gate")
        return decisions[-1].act, project.registry.get_gate(str(gate.evidence["gate"]))


def said(gate: GateRecord, name: str) -> str:
    return next((one.reason for one in gate.findings if one.name == name), "")


def first_trained(folder: Path) -> GateRecord:
    with shop.opened(shop.write_project(folder)) as project:
        shop.load(project)
        project.train("buyer")
        return project.registry.gates_of(project.registry.get("buyer@1"))[0]


def test_the_same_recipe_is_told_from_which_day_on_it_can_be_judged_and_what_can_be_now(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    first_trained(folder)
    enough_us = -(-(shop.NOW_US + 5 * DAY_US) // DAY_US) * DAY_US + 2 * DAY_US  # 7 days after the wait of 2, closed
    with (
        shop.opened(folder, enough_us - 1) as project,
        pytest.raises(Unavailable, match="new to the champ") as found,
    ):
        project.train("buyer")
    assert f"there are enough from {format_time(enough_us)[:10]} on" in str(found.value)
    assert str(found.value).endswith("Another estimator, other parameters or other features can be judged now.")
    with shop.opened(folder, enough_us) as project, pytest.raises(Unavailable) as found:
        project.train("buyer")  # nothing was loaded since
    assert "closed days are new" not in str(found.value)
    assert "to judge on, and 7d are needed" in str(found.value)
    assert str(found.value).endswith("Another estimator, other parameters or other features can be judged now.")


def test_another_estimator_is_compared_with_the_candidate_whose_refit_serves_on_its_own_days(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    first = first_trained(folder)
    edit(folder, (ESTIMATOR, "return LogisticRegression(C=0.1)"))
    act, gate = tried(folder)
    assert act == "promote"  # the rules allow to be .5 worse
    assert said(gate, "rival").startswith("buyer@1 answered instead of its refit buyer@2, which has seen the window")
    assert (gate.window_start_us, gate.window_end_us) == (first.window_start_us, first.window_end_us)
    assert gate.champion_metric == pytest.approx(first.candidate_metric)
    assert said(gate, "tries") == ""
    assert "with 90% confidence" in gate.reason


@pytest.mark.slow
def test_each_further_recipe_of_the_same_days_is_asked_for_more_and_the_same_one_again_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    first_trained(folder)
    strict = ("margin=-0.5", "margin=0.0")
    edit(folder, (ESTIMATOR, "return LogisticRegression(C=1e-5)"), strict)
    asked = [("1e-5", 1, "90%"), ("1e-4", 2, "97.5%"), ("1e-3", 3, "98.9%"), ("1e-4", 2, "97.5%")]
    for hour, (value, number, level) in enumerate(asked):
        file = folder / "project.py"
        lines = file.read_text().splitlines()
        place = next(i for i, line in enumerate(lines) if "return LogisticRegression(" in line)
        lines[place] = f"    return LogisticRegression(C={value})"
        file.write_text("\n".join(lines) + "\n")
        act, gate = tried(folder, hour)
        assert act == "refuse"
        assert f" with {level} confidence; margin 0" in gate.reason
        compared = (
            "Earlier comparisons used these days, too. Each counts by the share of the days that it used: with this "
            f"one, {number} in all"
        )
        assert said(gate, "tries") == ("" if number == 1 else f"{compared}, so the proof needs {level} confidence.")
        assert (compared in gate.reason) is (number > 1)


def test_a_version_promoted_by_name_does_not_go_around_what_is_asked_of_its_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    first_trained(folder)
    edit(folder, (ESTIMATOR, "return LogisticRegression(C=1e-5)"), ("margin=-0.5", "margin=0.0"))
    tried(folder)
    edit(folder, ("C=1e-5", "C=1e-4"))
    _, gate = tried(folder, 1)
    with shop.opened(folder, shop.NOW_US + 2 * HOUR_US) as project:
        judged = project.promote(project.registry.get(gate.candidate).name, dry_run=True)
    assert judged.gate is not None
    assert said(judged.gate, "tries") == said(gate, "tries") != ""


def test_a_model_that_learns_as_it_answers_waits_for_days_whatever_its_recipe(tmp_path: Path) -> None:
    folder = shop.write_project(tmp_path / "p", online=True)
    with shop.opened(folder) as project:
        shop.load(project)
        project.train("learner")
    edit(folder, ("eta0=0.05", "eta0=0.01"))
    with shop.opened(folder) as project, pytest.raises(Unavailable, match="new to the champion"):
        project.train("learner")
