"""Versions change under load: how soon the one that the alias names answers alone, and what failed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
from alias_moves import AS_OF, Answers, asking, promote, roll_back, wait_until_alone, waited_s

from trimtab.core.errors import NotFound


def moved_under_load(folder: Path, *, connections: int, rounds: int, pause_s: float) -> tuple[Answers, list[Any]]:
    """Promote and roll back under load, and promote twice in a row; the answers and the moves."""
    moves: list[tuple[float, str]] = []
    with shop.serving(folder, "--as-of", AS_OF) as (_, url), asking(folder, url, connections) as ended:

        def moved(at: float, name: str) -> None:
            moves.append((at, name))
            wait_until_alone(folder, at, name)
            time.sleep(pause_s)

        time.sleep(pause_s)
        with shop.opened(folder) as project:
            for _ in range(rounds):
                moved(promote(project, "buyer@1"), "buyer@1")
                moved(roll_back(folder), "buyer@2")
            for name in ("buyer@1", "buyer@2", "buyer@1"):
                moved(promote(project, name), name)
        answers = ended()
    return answers, moves


@pytest.mark.slow
def test_the_version_before_answers_again_and_no_request_fails(trained: Path) -> None:
    """How soon is measured under soak. `test_workers` moves versions under the load of several workers."""
    answers, moves = moved_under_load(trained, connections=4, rounds=1, pause_s=0.1)
    assert set(answers["status"].tolist()) == {200}
    assert len(waited_s(answers, moves)) == 5


@pytest.mark.soak
def test_under_load_of_many_connections_the_version_before_answers_within_a_second(
    trained: Path, soak_report: Any
) -> None:
    answers, moves = moved_under_load(trained, connections=32, rounds=8, pause_s=1.2)
    failed = int((answers["status"] != 200).sum())
    waits = waited_s(answers, moves)
    soak_report(
        "roll_back_under_load",
        runs=len(moves),
        failures=failed,
        answers=len(answers),
        longest_s=round(max(waits), 3),
        median_s=round(sorted(waits)[len(waits) // 2], 3),
        p99_ms=round(float(np.quantile(answers["came"] - answers["asked"], 0.99)) * 1e3, 1),
    )
    assert failed == 0
    assert max(waits) < 1.0


def test_after_a_roll_back_status_says_when_quality_is_watched_again(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.tick()
        promote(project, "buyer@1")
        project.tick()
        project.roll_back("buyer", why="It was better.")
        status = project.status()
        assert "its quality is watched from the next one on" in status.deployments[0].watch
        assert not any("not promoted by the loop" in line for line in status.red)
        project.tick()
        assert "from the next one on" not in project.status().deployments[0].watch


def test_a_roll_back_is_written_down_and_a_second_one_without_a_version_before_is_refused(trained: Path) -> None:
    with shop.opened(trained) as project:
        promote(project, "buyer@1")
        shop.move(project, shop.HOUR_US)
        decision = project.roll_back("buyer", why="It was better.", actor="Ada")
        assert project.ledger()[-1] == decision
        assert (decision.act, decision.actor, decision.cause) == ("roll_back", "Ada", "It was better.")
        assert decision.evidence == {"from": "buyer@1", "to": "buyer@2"}
        row = project.registry.history("buyer", "champion")[-1]
        assert (row.act, row.actor, row.why, row.version) == ("roll_back", "Ada", "It was better.", decision.version)
        assert project.predict("buyer", [shop.visit("a", shop.NOW_US)])[0].version == "buyer@2"
        with pytest.raises(NotFound, match="no earlier version"):
            project.roll_back("buyer", why="Further.")
        with pytest.raises(NotFound, match="nobody"):
            project.roll_back("nobody", why="")
        assert project.verify_ledger() == len(project.ledger())


def test_the_version_before_stays_loaded(trained: Path) -> None:
    with shop.opened(trained) as project:
        served = project.served("buyer")
        served.refresh()
        promote(project, "buyer@1")
        served.refresh()
        for blob in (trained / ".trimtab" / "blob").rglob("*"):
            if blob.is_file():
                blob.unlink()  # nothing can be loaded any more
        project.roll_back("buyer", why="It was better.")
        assert served.refresh().version.name == "buyer@2"
