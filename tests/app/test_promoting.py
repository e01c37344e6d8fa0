"""Putting a named version in service: through the gate, by whom, and what refuses it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import shop

from trimtab.app.project import Project
from trimtab.app.training.loops import Loops
from trimtab.app.training.promoting import Promotion
from trimtab.core.errors import Conflict, Misuse, NotFound, Unavailable
from trimtab.core.records import Decision
from trimtab.core.time import DAY_US, format_time
from trimtab.registry.protection import CHAMPION
from trimtab.run import Run
from trimtab.testing.builders import a_gate_record

RULES = "margin=-0.5, calibration=0.5"


def with_rules(folder: Path, rules: str = RULES, more: str = "**rules)") -> Path:
    text = (shop.PROJECT + shop.ONLINE).replace(RULES, rules).replace("**rules)", more)
    (folder / "project.py").write_text(text)
    return folder


def acts(decisions: list[Decision]) -> list[tuple[str, str]]:
    return [(d.act, d.actor) for d in decisions]


def promotion(project: Project) -> Run:
    (run,) = [one for one in project.runs("buyer") if one.kind == "promote"]
    return run


def imported(project: Project, tmp_path: Path, **how: object) -> str:
    """The champion as if it had been made elsewhere, with another address."""
    folder = tmp_path / "out"
    shutil.rmtree(folder, ignore_errors=True)
    project.export("buyer@1", folder)
    return project.import_model(folder, "buyer", **how).name  # type: ignore[arg-type]  # as it is called


def test_a_candidate_is_judged_against_the_champion_and_promoted_in_the_name_of_who_asked(trained: Path) -> None:
    with shop.opened(trained) as project:
        found = project.promote("buyer@1", why="The smaller one.", actor="Ada")
        assert (found.state, found.version) == ("promoted", "buyer@1")
        assert acts(found.decisions) == [("gate", "Ada"), ("promote", "Ada")]
        assert found.decisions[-1].cause == "The smaller one."
        gate = found.gate
        assert gate is not None
        assert gate.champion == project.registry.get("buyer@2").id
        assert {one.name: one.verdict for one in gate.findings}["rival"] == "held"  # its candidate answered for it
        move = project.registry.history("buyer", CHAMPION)[-1]
        assert (move.actor, move.gate) == ("Ada", gate.id)
        assert project.verify_ledger() == len(project.ledger())
        run = promotion(project)
        assert (run.actor, run.outcome) == ("Ada", "Promoted buyer@1.")
        again = project.promote("buyer@1")
        assert (again.state, again.decisions) == ("in service already", [])
        assert project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].version == "buyer@1"


def test_who_is_refused_changes_nothing_but_the_ledger(trained: Path) -> None:
    with shop.opened(with_rules(trained, "margin=0.01, calibration=0.5")) as project:
        project.apply()
        before = project.loop("buyer").controller.state
        judged = project.promote("buyer@1", dry_run=True)
        assert (judged.state, judged.refused, judged.decisions) == ("does not pass", True, [])
        rows = len(project.ledger())
        found = project.promote("buyer@1", actor="Ada")
        assert (found.state, acts(found.decisions)) == ("refused", [("gate", "Ada"), ("refuse", "Ada")])
        assert "better by the margin" in found.decisions[-1].cause
        assert next(found.lines()).startswith("buyer@1: refused, not better by the margin, ")
        run = [one for one in project.runs("buyer") if one.kind == "promote"][-1]  # of the training's own millisecond
        assert run.outcome.startswith("buyer@1 was refused, not better by the margin, ")
        assert len(project.ledger()) == rows + 2
        assert project.registry.get("buyer@champion").number == 2
        assert project.loop("buyer").controller.state == before  # no quiet time


def test_a_version_that_the_rollout_refused_is_told_with_that_reason_and_not_with_that_of_the_gate() -> None:
    gate = a_gate_record(model="buyer", candidate="b" * 64)
    row = Decision(
        sequence=1, at_us=0, model="buyer", act="gate", actor="Ada", cause=gate.reason, evidence={}, version="b" * 64,
        replaced=None, data_hash=None, previous_hash="", hash="",
    )  # fmt: skip
    refused = msgspec.structs.replace(row, act="refuse", cause="No client answered.")
    found = Promotion(version="buyer@5", state="refused", gate=gate, decisions=[row, refused])
    assert next(found.lines()) == "buyer@5: refused: No client answered."


def test_a_dry_run_keeps_no_record(trained: Path) -> None:
    with shop.opened(trained) as project:
        version = project.registry.get("buyer@1")
        before = (project.registry.gates_of(version), project.ledger())
        assert project.promote("buyer@1", dry_run=True).state == "passes"
        assert (project.registry.gates_of(version), project.ledger()) == before
        assert project.registry.get("buyer@champion").number == 2


def test_an_imported_version_says_until_when_it_had_seen_data(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        name = imported(project, tmp_path)
        with pytest.raises(Unavailable, match=r"may have seen all that was known.*--seen-until TIME") as error:
            project.promote(name)
        assert "There are enough from 2024-04-17 on." in str(error.value)
        assert promotion(project).state == "failed"
        seen = format_time(shop.NOW_US - 20 * DAY_US)
        found = project.promote(name, seen_until=seen, actor="Ada")
        assert found.state == "promoted"
        assert found.decisions[0].evidence["seen_until_us"] == shop.NOW_US - 20 * DAY_US
        assert project.loop("buyer").controller.state.trained_at_us == shop.NOW_US - 20 * DAY_US
        assert project.loop("buyer").monitor.watch is not None
        known = project.registry.as_known(project.registry.get(name))
        assert (known.cut_us, known.id) == (shop.NOW_US - 20 * DAY_US, project.registry.get(name).id)
        with pytest.raises(Misuse, match="it was trained here"):
            project.promote("buyer@1", seen_until=seen)
        with pytest.raises(Misuse, match="in the future"):
            project.promote(name, seen_until=format_time(shop.NOW_US + DAY_US))


def test_what_was_said_of_a_version_counts_for_the_trainings_after_it_and_in_the_status(
    trained: Path, tmp_path: Path
) -> None:
    with shop.opened(trained) as project:
        name = imported(project, tmp_path)
        assert project.promote(name, seen_until=format_time(shop.NOW_US - 20 * DAY_US)).state == "promoted"
        (shown,) = [one for one in project.status().deployments if one.model == "buyer"]
        assert shown.trained_until == format_time(shop.NOW_US - 20 * DAY_US)
        assert [row.act for row in project.train("buyer")][:2] == ["train", "gate"]  # on days that it has not seen
        seen = shop.NOW_US - 10 * DAY_US
        project.promote(name, seen_until=format_time(seen))  # whatever comes of it, the newest word counts
        assert project.registry.as_known(project.registry.get(name)).cut_us == seen


def test_the_evaluations_page_goes_by_what_was_said_last_of_an_imported_version(trained: Path, tmp_path: Path) -> None:
    with shop.opened(trained) as project:
        name = imported(project, tmp_path, window="14d")
        assert "may have seen these rows" in project.report(name, tmp_path / "pages").read_text()
        seen = format_time(shop.NOW_US - 20 * DAY_US)
        project.promote(name, seen_until=seen)
        page = project.report(name, tmp_path / "pages").read_text()
        assert "may have seen" not in page
        assert f"<dd>{seen[:19]}</dd>" in page


def test_where_nothing_is_in_service_a_named_version_still_goes_through_the_gate(tmp_path: Path, trained: Path) -> None:
    with shop.opened(trained) as project:
        project.export("buyer@1", tmp_path / "out")
    with shop.opened(shop.write_project(tmp_path / "fresh")) as project:
        shop.load(project)
        with pytest.raises(NotFound, match="no versions of 'buyer'"):
            project.promote("buyer@1")
        project.import_model(tmp_path / "out", "buyer", seen_until=format_time(shop.NOW_US - 20 * DAY_US))
        found = project.promote("buyer@1")
        assert found.state == "promoted"
        assert found.gate is not None
        assert found.gate.champion is None


def test_a_version_of_other_features_is_asked_with_its_own(trained: Path) -> None:
    text = (shop.PROJECT + shop.ONLINE).replace('{"x": tt.col("x")', '{"twice": tt.col("x") * 2.0')
    (trained / "project.py").write_text(text)
    with shop.opened(trained) as project:
        project.apply()
        assert project.train("buyer")[-1].act == "promote"
        found = project.promote("buyer@2")
        assert found.state == "promoted"
        assert found.gate is not None
        said = {one.name: one.reason for one in found.gate.findings}
        assert said["candidate"].startswith("buyer@1 answered with its own features instead of its refit buyer@2")
        assert project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].version == "buyer@2"


def test_a_version_whose_columns_are_gone_cannot_be_asked_and_the_error_says_so(trained: Path) -> None:
    text = (shop.PROJECT + shop.ONLINE).replace('"at": tt.Time, "x": float})', '"at": tt.Time})')
    (trained / "project.py").write_text(text.replace('{"x": tt.col("x"), ', "{"))
    with shop.opened(trained) as project:
        project.apply()
        project.train("buyer")
        with pytest.raises(Misuse, match=r"the version cannot score the days to judge on: .*needs a column 'x'"):
            project.promote("buyer@1")


def test_a_damaged_version_is_refused_by_its_name_and_the_run_has_failed(trained: Path) -> None:
    from trimtab.core.errors import Corrupt

    with shop.opened(trained) as project:
        version = project.registry.get("buyer@1")
        (blob,) = [one for one in project.state_folder.rglob(f"*{version.artifact[2:]}*") if one.is_file()]
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes()[:-1])
        with pytest.raises(Corrupt, match="buyer@1"):
            project.promote("buyer@1")
        assert (promotion(project).state, promotion(project).error) == ("failed", "Corrupt")
        assert project.registry.get("buyer@champion").number == 2


def test_what_passed_waits_for_approval_where_that_is_declared_and_no_second_one_begins(trained: Path) -> None:
    with shop.opened(with_rules(trained, more='approval="2d", **rules)')) as project:
        project.apply()
        found = project.promote("buyer@1", actor="Ada")
        assert (found.state, acts(found.decisions)) == ("waiting for approval", [("gate", "Ada"), ("ask", "Ada")])
        with pytest.raises(Conflict, match="A candidate waits for approval"):
            project.promote("buyer@1")
        assert acts(project.approve("buyer", actor="Eve")) == [("approve", "Eve"), ("promote", "Eve")]
        assert project.registry.get("buyer@champion").number == 1


def test_of_two_promotions_at_once_one_is_a_conflict(trained: Path) -> None:
    with shop.opened(trained) as project, project.loop("buyer")._turn("train") as mine:
        assert mine
        with (
            pytest.raises(Conflict, match=r"promote 'buyer': .* is working on this deployment"),
            shop.opened(trained) as other,
        ):
            other.promote("buyer@1")


def test_frozen_automation_promotes_nothing(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.freeze("A test.")
        with pytest.raises(Conflict, match="automation is frozen"):
            project.promote("buyer@1")
        assert project.promote("buyer@1", dry_run=True).state == "passes"


def test_a_promotion_that_was_killed_before_the_alias_moved_is_finished_by_the_next_call(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with shop.opened(trained) as project:
        with monkeypatch.context() as patched:
            patched.setattr(project.registry, "move", killed)
            with pytest.raises(Killed):
                project.promote("buyer@1", actor="Ada")
        assert project.registry.get("buyer@champion").number == 2
    with shop.opened(trained) as project:
        found = project.promote("buyer@1", actor="Eve")
        assert (found.state, acts(found.decisions)) == ("promoted", [("promote", "Ada")])
        assert project.registry.get("buyer@champion").number == 1


def test_a_window_in_which_all_labels_are_alike_is_waited_out(trained: Path) -> None:
    from trimtab.steering.candidates.windows import judging_window, lack_of_labels

    with shop.opened(trained) as project:
        model = project.definitions.models["buyer"]
        found = project.part(Loops).living_data().training_set(model, cut_us=shop.NOW_US)
        alike = msgspec.structs.replace(
            found, labels=msgspec.structs.replace(found.labels, values=found.labels.values * 0.0)
        )
        stretch = judging_window(alike, 14 * DAY_US, -(2**62))
        said = lack_of_labels(model, alike, stretch)
        assert said is not None
        assert "are 0, so they cannot tell a good model from a constant" in said
        assert lack_of_labels(model, found, stretch) is None
