"""A canary or shadow that a person set is compared with the version in service on the same requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shop
from alias_moves import promote

from trimtab.app.project import Project
from trimtab.core.records import Signal
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.monitoring.signals import listed_signals
from trimtab.steering.arm_comparisons import KIND, SIGNAL, arm_comparisons

PER_DAY = 80


@pytest.fixture
def with_worse(trained: Path) -> Path:
    """A project with buyer@3, which ignores its inputs."""
    (trained / "project.py").write_text(shop.PROJECT.replace("LogisticRegression()", "LogisticRegression(C=1e-6)"))
    with shop.opened(trained) as project:
        project.apply()
        project.train("buyer")
        assert project.registry.get("buyer@champion").number == 2
    (trained / "project.py").write_text(shop.PROJECT)
    return trained


def pass_days(project: Project, count: int) -> None:
    rng = np.random.default_rng(project.clock.now_us() // DAY_US)
    for _ in range(count):
        shop.a_day_of_visits(project, rng, PER_DAY)
        project.tick()


def signals(project: Project) -> list[Signal]:
    """Return the open ones of this kind."""
    found = listed_signals(project.state.catalog, "buyer")
    return [one for one in found if one.kind == SIGNAL and one.ended_at_us is None]


def arm_line(project: Project, arm: str) -> str:
    (found,) = [one.strip() for one in project.status().lines() if one.strip().startswith(f"{arm}: ")]
    return found


def test_a_worse_canary_is_found_although_it_answers_few_requests(with_worse: Path) -> None:
    with shop.opened(with_worse) as project:
        project.set_arm("buyer@3", "canary", share=0.02, why="A trial of ours.", actor="Ada")
        assert "not compared" not in arm_line(project, "canary")
        pass_days(project, 3)
        assert "not compared with buyer@2 yet: this needs closed days" in arm_line(project, "canary")
        pass_days(project, 7)
        # `compare` scores all requests with final labels: those of the days that the next tick compares
        window_us = project.clock.now_us() - 2 * DAY_US - shop.NOW_US - 2 * HOUR_US
        by_hand = project.compare("buyer@2", "buyer@3", window=window_us).predictions
        pass_days(project, 1)
        said = arm_line(project, "canary")
        assert "on 2 % of the requests, NOT GATED (Ada: A trial of ours.); its loss is" in said
        assert " % higher than buyer@2's on the same" in said
        (found,) = signals(project)
        assert (found.severity, found.subject) == ("red", "canary")
        assert found.message.startswith("buyer@3 is the canary: its loss is ")
        assert found.message.endswith(" To end the canary: trimtab canary buyer --share 0.")

        assert by_hand is not None
        compared = arm_comparisons(project.state.catalog, "buyer")["canary"]
        assert [one.rows for one in compared.days] == [PER_DAY] * 8
        assert by_hand.rows == 8 * PER_DAY
        mean, low, high = compared.interval
        assert mean == pytest.approx(by_hand.difference.value / by_hand.one.value, rel=1e-9)
        assert 0.005 < low < mean < high

        project.set_arm("buyer", "canary", share=0.0)
        project.tick()
        assert signals(project) == []
        assert project.state.catalog.find(KIND) == []


def test_an_equal_canary_has_no_signal_and_a_worse_shadow_is_information(with_worse: Path) -> None:
    with shop.opened(with_worse) as project:
        project.set_arm("buyer@1", "canary", share=0.5, why="Nearly the same.")
        project.set_arm("buyer@3", "shadow", share=0.1, why="A trial of ours.")
        pass_days(project, 10)
        assert "buyer@2's on the same" in arm_line(project, "canary")
        (found,) = signals(project)
        assert (found.severity, found.subject, found.version) == ("info", "shadow", project.registry.get("buyer@3").id)

        promote(project, "buyer@3")  # the shadow's version answers now, and the canary has another champion
        project.tick()
        assert signals(project) == []
        assert list(arm_comparisons(project.state.catalog, "buyer")) == ["canary"]
        assert "not compared with buyer@3 yet" in arm_line(project, "canary")


def test_versions_that_learn_online_are_not_compared(trained: Path) -> None:
    with shop.opened(trained) as project:
        project.set_arm("learner@1", "canary", share=0.5, why="As it was first.")
        project.tick()
        assert project.state.catalog.find(KIND) == []
        assert "compared" not in arm_line(project, "canary")
