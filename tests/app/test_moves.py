"""A move of the champion by hand: whole in alias and ledger, and not past a person who is asked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import shop

import forked
from trimtab.app.project import Project
from trimtab.core.errors import Conflict

WORKER = """
import os, sys
sys.path.insert(0, sys.argv[2])
import shop
with shop.opened(sys.argv[1]) as project:
    catalog, left = project.state.catalog, int(sys.argv[3])
    write = catalog.write

    def dying(changes):  # as kill -9 before the next transaction
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        write(changes)

    catalog.write = dying
    project.roll_back("buyer", why="It was better.", actor="ada")
"""


def retrained(folder: Path, *changes: tuple[str, str]) -> list[str]:
    """Train `buyer` with changed definitions; the acts."""
    text = shop.PROJECT + shop.ONLINE
    for old, new in (('{"x"', '{"also": tt.col("x") + 1.0, "x"'), *changes):
        assert old in text
        text = text.replace(old, new)
    (folder / "project.py").write_text(text)
    with shop.opened(folder) as project:
        project.apply()
        return [decision.act for decision in project.train("buyer")]


def rolled_back(project: Project) -> tuple[int, int]:
    """How often, by the alias's history and by the ledger."""
    moves = [move for move in project.registry.history("buyer", "champion") if move.act == "roll_back"]
    return len(moves), len([row for row in project.ledger() if row.act == "roll_back"])


def test_a_roll_back_that_is_killed_is_in_alias_and_ledger_or_in_neither(trained: Path) -> None:
    assert retrained(trained)[-1] == "promote"
    ended = []
    for left in range(3):
        command = [sys.executable, "-c", WORKER, str(trained), str(Path(__file__).parent), str(left)]
        ended.append(forked.run(command, env=shop.environment(), check=False).returncode)
        with shop.opened(trained) as project:
            in_history, in_ledger = rolled_back(project)
            assert in_history == in_ledger
            assert project.verify_ledger()
        if ended[-1] == 0:
            break
    assert ended == [9, 0]  # one transaction
    assert in_ledger == 1
    with shop.opened(trained) as project:
        row = project.ledger()[-1]
        assert (row.act, row.actor, row.cause) == ("roll_back", "ada", "It was better.")
        assert row.evidence == {"from": "buyer@4", "to": "buyer@2"}


def test_a_move_in_python_is_a_persons_and_a_promotion_by_the_loop_is_the_policys(tmp_path: Path) -> None:
    with shop.opened(shop.write_project(tmp_path / "shop")) as project:
        shop.load(project)
        project.loop("buyer").tick()
        (promoted,) = project.registry.history("buyer", "champion")
        moved = project.registry.move("buyer", "mine", "buyer@1", why="A test.")
        assert {version.actor for version in project.registry.versions("buyer")} == {"policy"}
    assert (promoted.actor, moved.actor) == ("policy", "a person")


def test_while_a_candidate_waits_for_approval_nobody_moves_past_it(trained: Path) -> None:
    assert retrained(trained, ("**rules)", 'approval="2d", **rules)'))[-1] == "ask"
    with shop.opened(trained) as project:
        gate = project.registry.gates_of(project.registry.get("buyer@4"))[0]
        with pytest.raises(Conflict, match=r"To decide: trimtab approve buyer, or trimtab reject buyer --why"):
            project.registry.move("buyer", "champion", "buyer@4", gate=gate, why="I cannot wait.")
        project.registry.move("buyer", "canary", "buyer@4", why="Another alias.")
        project.reject("buyer", why="A test.")
        project.registry.move("buyer", "champion", "buyer@4", gate=gate, why="Nothing waits any more.")
