"""Experiments of a project from start to end: sticky, with reasons, refusing what would spoil them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Misuse, NotFound
from trimtab.core.time import DAY_US
from trimtab.experiments.exposures import decode
from trimtab.experiments.records import experiment_state, stored_definition

NOW_US = 1_700_000_000_000_000
PROJECT = """
import trimtab as tt

orders = tt.source("orders", time="at", columns={"customer_id": str, "amount": float})
revenue = tt.metric("revenue", source=orders, by="customer_id", value=tt.sum("amount"), role="primary")
tt.experiment("checkout", unit="customer_id", variants={"control": "blue", "green": "green"}, share=0.2,
    ramp={"1d": 0.5, "2d": 1.0}, metrics=[revenue], overrides={"tester": "green"})
tt.experiment("banner", unit="customer_id", variants={"control": 1, "big": 2}, share=0.6, layer="page")
tt.experiment("footer", unit="customer_id", variants={"control": 1, "big": 2}, share=0.5, layer="page",
    where=tt.col("country") == "DE", attributes={"country": str})
"""
UNITS = [f"customer-{n}" for n in range(400)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trimtab.toml").write_text("")
    (tmp_path / "project.py").write_text(PROJECT)
    return tmp_path


def opened(folder: Path, at_us: int = NOW_US) -> Project:
    return open_project(folder, clock=VirtualClock(at_us), environment={})


@pytest.fixture
def project(folder: Path) -> Iterator[Project]:
    with opened(folder) as project:
        yield project


def move(project: Project, us: int) -> None:
    assert isinstance(project.clock, VirtualClock)
    project.clock.advance_to(project.clock.now_us() + us)


def variants(project: Project, name: str = "checkout") -> dict[str, str]:
    """The variant of each unit that takes part."""
    found = {unit: project.assign(name, {"customer_id": unit, "country": "DE"}) for unit in UNITS}
    return {unit: one.variant for unit, one in found.items() if one.takes_part}


def test_an_experiment_assigns_units_from_its_start_and_alike_after_a_restart(folder: Path) -> None:
    with opened(folder) as project:
        before = project.assign("checkout", "customer-1")
        assert (before.variant, before.value, before.reason) == ("control", "blue", "not started")
        row = project.start_experiment("checkout", why="Green sells more.", actor="Ada")
        assert (row.act, row.model, row.actor, row.cause) == (
            "start_experiment",
            "checkout",
            "Ada",
            "Green sells more.",
        )
        assert row.evidence["share"] == 0.2
        assert row.evidence["weight green"] == 0.5
        first = variants(project)
        assert 50 < len(first) < 110
        assert {*first.values()} == {"control", "green"}
        assert project.assign("checkout", "tester").reason == "override"
    with opened(folder, NOW_US + 9 * DAY_US) as project:
        assert variants(project) == first
        assert project.experiment("checkout").phase == "running"
        assert project.verify_ledger() == 1


def test_a_declared_ramp_keeps_everyone_and_is_stopped_by_freeze_and_by_hand(project: Project) -> None:
    project.start_experiment("checkout", why="Green sells more.")
    first = variants(project)
    assert project.tick() == []
    move(project, DAY_US)
    project.freeze("Nobody is here today.")
    assert project.tick() == []
    project.unfreeze("Back again.")
    (row,) = project.tick()
    assert (row.act, row.actor, row.evidence["share"]) == ("ramp_experiment", "policy", 0.5)
    second = variants(project)
    assert first.items() < second.items()
    project.ramp_experiment("checkout", share=0.3, why="Too many complaints.")
    third = variants(project)
    assert first.items() < third.items() < second.items()
    move(project, 5 * DAY_US)
    assert project.tick() == []
    assert project.experiment("checkout").share == 0.3


def test_a_ramp_by_date(folder: Path) -> None:
    date = '"2023-11-16": 0.5, "2023-11-18": 1.0'  # the experiment begins on the 14th
    (folder / "project.py").write_text(PROJECT.replace('"1d": 0.5, "2d": 1.0', date))
    with opened(folder) as project:
        project.start_experiment("checkout", why="Green sells more.")
        shares = []
        for _ in range(6):
            assert len(project.tick()) <= 1
            shares.append(project.experiment("checkout").share)
            move(project, DAY_US)
    assert shares == [0.2, 0.2, 0.5, 0.5, 1.0, 1.0]


def test_new_weights_move_only_units_to_the_variant_that_grew(project: Project) -> None:
    project.start_experiment("checkout", why="Green sells more.")
    project.ramp_experiment("checkout", share=1.0, why="All of them.")
    before = variants(project)
    project.ramp_experiment("checkout", weights={"green": 0.8, "control": 0.2}, why="It is going well.")
    after = variants(project)
    moves = {(before[unit], after[unit]) for unit in UNITS}
    assert moves == {("control", "control"), ("control", "green"), ("green", "green")}
    assert project.experiment("checkout").weights == {"control": 0.2, "green": 0.8}


def test_a_pause_gives_all_the_control_and_afterwards_everyone_is_where_they_were(project: Project) -> None:
    project.start_experiment("checkout", why="Green sells more.")
    before = variants(project)
    project.pause_experiment("checkout", why="The green page has a fault.")
    assert project.assign("checkout", "tester").reason == "paused"
    assert variants(project) == {}
    project.resume_experiment("checkout", why="The fault is repaired.")
    assert variants(project) == before
    state = experiment_state(project.state.catalog, "checkout")
    assert state is not None
    assert [one.share for one in state.allocations] == [0.2, 0.0, 0.2]
    assert [row.act for row in project.ledger()] == ["start_experiment", "pause_experiment", "resume_experiment"]


def test_a_stop_ends_it_and_a_new_start_assigns_the_units_again(project: Project) -> None:
    project.start_experiment("checkout", why="Green sells more.")
    first = variants(project)
    project.stop_experiment("checkout", why="The plan was wrong.")
    assert project.assign("checkout", "customer-1").reason == "stopped"
    assert project.start_experiment("checkout", why="The plan is right.").evidence["generation"] == 2
    again = variants(project)
    assert {*first} != {*again}
    assert any(first[unit] != again[unit] for unit in first.keys() & again.keys())


def test_the_winner_is_for_all_but_the_global_holdout(folder: Path) -> None:
    (folder / "trimtab.toml").write_text("[experiments]\nholdout = 0.1\n")
    with opened(folder) as project:
        project.start_experiment("checkout", why="Green sells more.")
        row = project.conclude_experiment("checkout", "green", why="Green sold 4 % more.")
        assert (row.act, row.evidence["winner"]) == ("conclude_experiment", "green")
        assert "also" not in row.evidence
        project.start_experiment("footer", why="Big sells more.")
        row = project.conclude_experiment("footer", "big", why="Big sold 4 % more.")
        assert str(row.evidence["also"]).startswith("units that where= kept out get big, too")
        found = [project.assign("checkout", unit) for unit in UNITS]
        assert {(one.value, one.reason) for one in found} == {("green", "concluded"), ("blue", "holdout")}
        assert 20 < sum(one.reason == "holdout" for one in found) < 70
        status = project.experiment("checkout")
        assert (status.phase, status.winner, status.ended_at_us) == ("concluded", "green", NOW_US)
        with pytest.raises(Conflict, match="concluded with winner 'green'"):
            project.start_experiment("checkout", why="By accident.")
        assert project.start_experiment("checkout", why="Once more.", again=True).evidence["generation"] == 2


def test_experiments_of_a_layer_have_no_unit_in_common_and_give_their_room_back(project: Project) -> None:
    project.start_experiment("banner", why="Larger is better.")
    with pytest.raises(
        Conflict, match=r"layer 'page' has no room for a share of 0\.5 in one piece. Taken: banner 0\.6"
    ):
        project.start_experiment("footer", why="Larger is better.")
    project.stop_experiment("banner", why="Make room for the footer.")
    project.start_experiment("footer", why="Larger is better.")
    assert 150 < len(variants(project, "footer")) < 250
    assert project.assign("footer", {"customer_id": "x", "country": "FR"}).takes_part is False
    with pytest.raises(Misuse, match=r"it took 0\.5 of layer 'page' at its start, so share=0\.7 is too large"):
        project.ramp_experiment("footer", share=0.7, why="More of them.")


def test_a_changed_definition_has_no_effect_until_the_next_start(folder: Path) -> None:
    with opened(folder) as project:
        project.start_experiment("checkout", why="Green sells more.")
        before = variants(project)
    changed = PROJECT.replace('"green": "green"}', '"green": "lime"}').replace('{"tester"', '{"customer-0"')
    (folder / "project.py").write_text(changed)
    with opened(folder) as project:
        note = "the definition changed since the start: stop and start it again (units are assigned again)"
        assert project.experiment("checkout").note == note
        assert note in "\n".join(project.experiment("checkout").lines())
        found = project.assign("checkout", "customer-0")
        assert (found.value, found.reason) == ("green", "override")
        assert {unit: one for unit, one in before.items() if unit != "customer-0"}.items() <= variants(project).items()
        project.stop_experiment("checkout", why="Lime is the new green.")
        project.start_experiment("checkout", why="Lime is the new green.")
        assert project.experiment("checkout").note == ""
        state = experiment_state(project.state.catalog, "checkout")
        assert state is not None
        assert stored_definition(state).variants["green"] == "lime"
    (folder / "project.py").write_text("")
    with opened(folder) as project:
        assert [one.name for one in project.experiments()] == ["checkout"]
        assert "does not declare it any more" in project.experiment("checkout").note
        assert project.assign("checkout", "customer-1").experiment == "checkout"


def test_another_process_that_changes_it_first_makes_a_change_fail(folder: Path) -> None:
    from trimtab.app.experiments.running import Running

    with opened(folder) as one, opened(folder) as other:
        one.start_experiment("checkout", why="Green sells more.")
        late = Running(other, "checkout", why="Too late.", actor="Bo")
        one.pause_experiment("checkout", why="A fault.")
        assert other.assign("checkout", "tester").reason == "paused"
        with pytest.raises(Conflict, match="another process changed it meanwhile, so your change was not made"):
            late.stop()
        both = [Running(each, "banner", why="Larger is better.", actor="Bo") for each in (one, other)]
        both[0].start()
        with pytest.raises(Conflict, match="another process changed it meanwhile"):
            both[1].start()
        assert [row.act for row in one.ledger()] == ["start_experiment", "pause_experiment", "start_experiment"]


def test_exposures_are_logged_with_attributes_and_only_of_units_that_take_part(project: Project) -> None:
    project.start_experiment("footer", why="Larger is better.")
    taking = next(iter(variants(project, "footer")))
    row = {"customer_id": taking, "country": "DE"}
    found = project.assign("footer", row, expose=True)
    project.assign("footer", row)
    project.assign("footer", {"customer_id": taking, "country": "FR"}, expose=True)
    project.expose("footer", row, not_shown="timeout")
    records = project.state.exposures.read(project.state.exposures.partition, 0)
    logged = [decode(record) for record in records]
    assert [(one.unit, one.variant, one.reason) for one in logged] == [
        (taking, found.variant, ""),
        (taking, found.variant, "timeout"),
    ]
    assert (logged[0].generation, logged[0].at_us, logged[0].override) == (1, NOW_US, False)
    assert b"country" in logged[0].attributes


@pytest.mark.parametrize("reason", [None, True, 5, b"timeout", ["timeout"]])
@pytest.mark.parametrize("at", [None, NOW_US])
def test_a_reason_that_is_no_text_is_not_logged(reason: object, at: int | None, project: Project) -> None:
    project.start_experiment("footer", why="A test.")
    with pytest.raises(Misuse, match=r"'footer': not_shown=.*Give a reason as a text"):
        project.expose("footer", {"customer_id": "c-1", "country": "DE"}, not_shown=cast(str, reason), at=at)
    assert project.state.exposures.read(project.state.exposures.partition, 0) == []


def test_every_change_needs_a_reason_and_the_right_phase(project: Project) -> None:
    with pytest.raises(NotFound, match=r"no experiment 'colour'\. Experiments: checkout, banner, footer"):
        project.assign("colour", "x")
    with pytest.raises(NotFound, match="no experiment 'colour'"):
        project.start_experiment("colour", why="Why not.")
    with pytest.raises(Misuse, match=r"no reason is given\. Say why, for the ledger"):
        project.start_experiment("checkout", why=" ")
    with pytest.raises(Conflict, match=r"it is not started, not running or paused\. Start it first"):
        project.stop_experiment("checkout", why="No reason.")
    project.start_experiment("checkout", why="Green sells more.")
    for wrong, message in (
        (lambda: project.start_experiment("checkout", why="Again."), "it is running. Stop it before"),
        (lambda: project.resume_experiment("checkout", why="Again."), "it is running, not paused. Pause it first."),
        (lambda: project.conclude_experiment("checkout", "red", why="Red."), "'red' is no variant. Variants: control"),
        (lambda: project.ramp_experiment("checkout", why="More."), "give the new share=, or new weights=."),
        (
            lambda: project.ramp_experiment("checkout", share=0.0, why="None."),
            "share=0.0. Give a number from 0.0001 to 1",
        ),
        (lambda: project.ramp_experiment("checkout", share="0.3", why="More."), "share='0.3'. Give a number from"),  # type: ignore[arg-type]  # is refused
        (lambda: project.ramp_experiment("checkout", weights=[0.5, 0.5], why="All."), "such as {'control': 0.5"),  # type: ignore[arg-type]  # is refused
        (lambda: project.ramp_experiment("checkout", weights={}, why="All."), "weights of none, but the variants"),
        (lambda: project.ramp_experiment("checkout", weights={"green": 1.0}, why="All."), "weights of green, but"),
    ):
        with pytest.raises((Conflict, Misuse), match=re.escape(message)):
            wrong()
    project.pause_experiment("checkout", why="A fault.")
    with pytest.raises(Conflict, match=r"it is paused, not running. Resume it first\."):
        project.ramp_experiment("checkout", share=1.0, why="More.")
    assert len(project.ledger()) == 2
