"""No way to answer requests goes around the gate without a reason, and what went around it is shown as such."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import pytest
import shop

from trimtab.app.project import Project
from trimtab.app.serve.operations import ProjectModels
from trimtab.core.errors import Misuse
from trimtab.serving.http.routes.operations import AskRepair, Move, RollBack

WHY = "The old system's model, until ours is trained."
NO_WAY = "the version has no passed gate record"


@pytest.fixture
def refused(trained: Path) -> Iterator[Project]:
    """A project whose version buyer@3 was judged and refused."""
    text = shop.PROJECT.replace("LogisticRegression()", "LogisticRegression(C=1e-5)").replace(
        "margin=-0.5", "margin=0.5"
    )
    (trained / "project.py").write_text(text)
    with shop.opened(trained) as project:
        project.apply()
        assert [decision.act for decision in project.train("buyer")][-1] == "refuse"
        yield project


@pytest.mark.parametrize("why", ["", "x", "   because   "])
def test_a_refused_version_answers_as_canary_only_with_a_reason(refused: Project, why: str) -> None:
    with pytest.raises(Misuse, match=f"{NO_WAY}.*--why"):
        refused.set_arm("buyer@3", "canary", share=1.0, why=why)
    assert refused.registry.alias("buyer", "canary") is None
    row = refused.set_arm("buyer@3", "canary", share=0.5, why=WHY)
    assert row.cause == f"canary 0.5: {WHY}"
    (line,) = [line for line in refused.status().lines() if line.startswith("  canary:")]
    assert line.endswith(f"NOT GATED (a person: {WHY})")
    shown = f"NOT GATED (a person: {html.escape(WHY)})"
    assert shown in ProjectModels(refused).start_page()
    assert shown in ProjectModels(refused).page("buyer")


def test_its_share_grows_only_with_a_reason_and_ends_without_one(refused: Project) -> None:
    refused.set_arm("buyer@3", "canary", share=0.05, why=WHY)
    with pytest.raises(Misuse, match=NO_WAY):
        refused.set_arm("buyer", "canary", share=1.0)
    refused.set_arm("buyer", "canary", share=0.0)
    refused.set_arm("buyer@3", "shadow", share=1.0)  # a shadow answers nobody


def test_no_share_and_no_way_back_lets_it_answer_without_a_reason(refused: Project) -> None:
    with pytest.raises(Misuse, match=NO_WAY):
        refused.set_arm("buyer@3", "canary", share=0.0)  # the alias alone: the share would come with a roll back
    refused.set_arm("buyer@3", "canary", share=0.0, why=WHY)
    refused.set_arm("buyer@1", "canary", share=0.2)
    models = ProjectModels(refused)
    with pytest.raises(Misuse, match=f"canary back to buyer@3: {NO_WAY}"):
        models.roll_back("buyer", "canary", RollBack(expected=1, why="x"), actor="ada")
    with pytest.raises(Misuse, match=f"canary to buyer@3: {NO_WAY}"):
        refused.registry.move("buyer", "canary", "buyer@3", why="x")
    assert refused.registry.get("buyer@canary").name == "buyer@1"
    assert models.roll_back("buyer", "canary", RollBack(expected=1, why=WHY), actor="ada").why == WHY


def test_a_version_that_passed_is_armed_without_a_reason_and_shown_as_gated(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.set_arm("buyer@1", "canary", share=1.0)
        found = project.status().deployments[0]
        assert found.ungated is None
        assert not any("NOT GATED" in line for line in project.status().lines())
        assert [one.gated for one in ProjectModels(project).aliases("buyer")] == [True, True]


@pytest.mark.parametrize("alias", ["canary", "mine"])
def test_an_alias_is_moved_over_http_to_what_was_refused_only_with_a_reason(refused: Project, alias: str) -> None:
    models = ProjectModels(refused)
    with pytest.raises(Misuse, match=NO_WAY):
        models.move("buyer", alias, Move(version=3, expected=None, why="new"), actor="ada")
    models.move("buyer", alias, Move(version=3, expected=None, why=WHY), actor="ada")
    assert {one.alias: one.gated for one in models.aliases("buyer")} == {"champion": True, alias: False}
    models.move("buyer", alias, Move(version=1, expected=3, why="new"), actor="ada")  # it passed


def test_the_first_champion_of_elsewhere_needs_a_reason_and_is_shown_as_ungated(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        project.export("buyer@2", tmp_path / "out")
    with shop.opened(shop.write_project(tmp_path / "other")) as project:
        shop.load(project)
        with pytest.raises(Misuse, match=NO_WAY):
            project.import_model(tmp_path / "out", "buyer", first=True)
        assert project.registry.alias("buyer", "champion") is None
        project.import_model(tmp_path / "out", "buyer", first=True, why=WHY, actor="ada")
        (found,) = project.status().deployments
        assert found.ungated == f"it has no passed gate record; ada: {WHY}"
        assert f"WARN buyer: NOT GATED: {found.ungated}" in project.status().lines()
        shown = f"NOT GATED: it has no passed gate record; ada: {html.escape(WHY)}"
        assert f"buyer: {shown}" in ProjectModels(project).start_page()
        page = ProjectModels(project).page("buyer")
        assert f"buyer@1: {shown}" in page
        assert "buyer: quality is not watched: the version in service was not promoted by the loop" in page
        assert "Nothing is red." not in page


def test_a_repair_that_was_asked_for_over_http_is_made_by_the_next_tick_in_the_name_of_who_asked(trained: Path) -> None:
    with shop.opened(trained) as project:
        models = ProjectModels(project)
        with pytest.raises(Misuse, match="too short"):
            models.ask_repair("buyer", AskRepair(why="now"), actor="ada")
        asked = models.ask_repair("buyer", AskRepair(why="Prices changed today."), actor="ada")
        assert (asked.model, asked.actor) == ("buyer", "ada")
        (row,) = project.tick()  # and it waits: the champion has seen all days
        assert (row.act, row.actor) == ("trigger", "ada")
        assert row.cause == "Requested over HTTP by ada: Prices changed today."
        assert project.tick() == []


def test_a_freeze_and_a_requested_repair_are_shown_on_the_page_and_in_the_stages(trained: Path) -> None:
    with shop.opened(trained) as project:
        models = ProjectModels(project)
        before, page = models.stages("buyer")[0].said, models.page("buyer")
        assert "frozen" not in page
        models.ask_repair("buyer", AskRepair(why="Prices changed today."), actor="ada")
        requested = f"ada has requested a repair over HTTP (Prices changed today.). {before}"
        assert models.stages("buyer")[0].said == requested
        project.freeze("A storm is coming.")
        frozen = "Automation is frozen (A storm is coming.), so nothing goes on until: trimtab unfreeze."
        assert models.stages("buyer")[0].said == f"{frozen} {requested}"
        page = models.page("buyer")
        assert "Automation is frozen (A storm is coming.): nothing is trained or promoted" in page
        assert ">freeze</td>" in page
        project.unfreeze("It has passed.")
        assert "Automation is frozen" not in models.page("buyer")
        assert [decision.act for decision in project.tick()] == ["trigger"]
        assert "over HTTP (" not in models.stages("buyer")[0].said
