"""Refits where labels take long: the version in service may know labels that a candidate may not know yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop

from indexed_labels import IndexedLabels
from trimtab.app.project import Project
from trimtab.app.training.loops import Loops
from trimtab.core.columns.data import Columns
from trimtab.core.ids import TimeIds
from trimtab.core.records import GateRecord
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.labels import LabelIndex
from trimtab.registry import Registry, Version
from trimtab.steering.candidates.comparison_targets import ComparisonTarget, target_on_window
from trimtab.steering.candidates.ports import DeploymentParts

WAIT_DAYS, FIRST, SECOND, PER_DAY = 14, 42, 52, 150  # days of the first and the second training
PROJECT = """
import trimtab as tt

sales = tt.source("sales", time="closed_at", key="visit_id", columns={"visit_id": str, "bought": bool})
visit = tt.request("visit", key="visit_id", time="at", columns={"visit_id": str, "at": tt.Time, "x": float})


def logistic():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


tt.deployment(
    tt.model("buyer", request=visit, features=[{"x": tt.col("x")}], estimator=logistic, metric="log_loss",
        label=tt.label(sales, key="visit_id", value="bought", wait="WAIT")),
    gate=tt.beats_champion(window="7d", calibration=0.5, refit_distance=0.5, baselines=False))
"""


def write(folder: Path, wait_days: int) -> Path:
    folder.mkdir()
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT.replace("WAIT", f"{wait_days}d"))
    return folder


def load(project: Project, first: int, until: int, told: tuple[int, int] | None = None) -> None:
    """Visits of some days. The share that buys rises day by day, so a model is the better the newer its rows are.

    With `told`, only the labels of these days are loaded, and the visits only with the labels of the first day.
    """
    chance = np.random.default_rng(first)
    at_us = np.sort(
        shop.BEGIN_US + chance.integers(first * DAY_US, until * DAY_US - HOUR_US, (until - first) * PER_DAY)
    )
    x = chance.normal(size=at_us.size)
    bought = chance.random(at_us.size) < 1 / (1 + np.exp(2 - x - 0.06 * (at_us - shop.BEGIN_US) / DAY_US))
    keys = [f"v{first}-{number}" for number in range(at_us.size)]
    visits = {"visit_id": ("str", keys), "at": ("time", at_us.tolist()), "x": ("float", x.tolist())}
    sales = {
        "visit_id": ("str", keys), "bought": ("bool", bought.tolist()),
        "closed_at": ("time", (at_us + HOUR_US // 2).tolist()),
    }  # fmt: skip
    begin, end = told or (first, until)
    mine = (at_us >= shop.BEGIN_US + begin * DAY_US) & (at_us < shop.BEGIN_US + end * DAY_US)
    loaded = Columns.of(sales).take(np.flatnonzero(mine))  # type: ignore[arg-type]  # dtypes are literals
    project.ingestor.load("sales", loaded)
    if begin == first:
        project.ingestor.load("visit", Columns.of(visits))  # type: ignore[arg-type]  # dtypes are literals


def first_trained(folder: Path) -> None:
    with shop.opened(folder, shop.BEGIN_US + FIRST * DAY_US) as project:
        load(project, 0, FIRST)
        assert project.train("buyer")[-1].act == "promote"


def trained_again(project: Project, until: int) -> tuple[str, GateRecord]:
    """What becomes of a refit of the same recipe on some days later, and its gate record."""
    load(project, FIRST, until)
    decisions = project.train("buyer")
    gate = next(d for d in decisions if d.act == "gate")
    return decisions[-1].act, project.registry.get_gate(str(gate.evidence["gate"]))


def said(gate: GateRecord) -> str:
    return next((one.reason for one in gate.findings if one.name == "rival"), "")


def parts_of(project: Project, registry: Any = None) -> DeploymentParts:
    deployment = project.definitions.deployment("buyer")
    return DeploymentParts(
        deployment=deployment, data=project.part(Loops).living_data(),
        labels=IndexedLabels(LabelIndex(deployment.model.label)), registry=registry or project.registry,
        catalog=project.state.catalog, blob=project.state.blob, clock=project.clock, ids=TimeIds(project.clock, seed=1),
    )  # fmt: skip


def losses(project: Project, gate: GateRecord) -> dict[str, float]:
    """The mean log loss of each version on the days of a gate."""
    parts = parts_of(project)
    rows = parts.data.training_set(parts.deployment.model, cut_us=project.clock.now_us())
    here = rows.usable & (rows.begun_us >= gate.window_start_us) & (rows.begun_us < gate.window_end_us)
    truth, found = rows.target[here], {}
    for version in project.registry.versions("buyer"):
        loaded = project.registry.load(version)
        scores = np.asarray(loaded.predict(loaded.encoding.matrix(rows.features.values.take(here))), float)
        found[version.name] = float(-np.log(np.where(truth == 1, scores, 1 - scores)).mean())
    return found


class TwoFolds:
    """A registry whose gates all judged by two folds, as after an alarm."""

    def __init__(self, registry: Registry) -> None:
        self.get = registry.get
        self._registry = registry

    def gates_of(self, version: Version) -> list[GateRecord]:
        return [msgspec.structs.replace(gate, folds=2) for gate in self._registry.gates_of(version)]


def test_a_champion_that_learnt_from_later_labels_than_the_candidate_may_is_represented_by_its_own_candidate(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "p", WAIT_DAYS)
    first_trained(folder)
    with shop.opened(folder, shop.BEGIN_US + SECOND * DAY_US) as project:
        act, gate = trained_again(project, SECOND)
        known = losses(project, gate)
        assert known["buyer@2"] < known["buyer@3"] < known["buyer@1"]  # in the order of how new their rows are
        assert said(gate).startswith("buyer@1 answered instead of its refit buyer@2, which learnt from labels that")
        assert gate.champion == project.registry.get("buyer@2").id
        assert (gate.champion_metric, gate.candidate_metric) == pytest.approx((known["buyer@1"], known["buyer@3"]))
        assert gate.window_start_us >= shop.BEGIN_US + (FIRST - WAIT_DAYS) * DAY_US  # new to the champion itself, too
        assert act == "promote"


def test_a_champion_whose_labels_were_final_when_the_window_began_answers_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", 1)
    first_trained(folder)
    with shop.opened(folder, shop.BEGIN_US + SECOND * DAY_US) as project:
        _, gate = trained_again(project, SECOND)
        assert said(gate) == ""
        assert gate.champion_metric == pytest.approx(losses(project, gate)["buyer@2"])


def test_a_champion_whose_candidate_is_lost_answers_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", WAIT_DAYS)
    first_trained(folder)
    with shop.opened(folder, shop.BEGIN_US + SECOND * DAY_US) as project:
        project.state.blob.delete(project.registry.get("buyer@1").artifact)
        act, gate = trained_again(project, SECOND)
        assert (act, said(gate)) == ("refuse", "")
        assert "not provably better" in gate.reason


def test_a_candidate_that_learnt_from_its_own_window_represents_no_champion(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", WAIT_DAYS)
    first_trained(folder)
    with shop.opened(folder, shop.BEGIN_US + SECOND * DAY_US) as project:
        champion = project.registry.get("buyer@2")
        target = ComparisonTarget(champion, champion.cut_us - WAIT_DAYS * DAY_US)
        start_us = target.unseen_from_us
        found = target_on_window(parts_of(project), target, start_us)
        assert (found.version.name, found.unseen_from_us < start_us) == ("buyer@1", True)
        repaired = parts_of(project, TwoFolds(project.registry))
        assert target_on_window(repaired, target, start_us) is target
        assert target_on_window(parts_of(project), target, champion.cut_us) is target  # all was final by then


def test_days_whose_labels_are_loaded_after_a_training_are_new_to_its_version(tmp_path: Path) -> None:
    with shop.opened(write(tmp_path / "p", 2), shop.BEGIN_US + FIRST * DAY_US) as project:
        load(project, 0, FIRST, (0, 25))  # an export that lacks the newest labels, although their wait is over
        assert project.train("buyer")[-1].act == "promote"
        load(project, 0, FIRST, (25, FIRST))
        gate = next(d for d in project.train("buyer") if d.act == "gate")
        judged = project.registry.get_gate(str(gate.evidence["gate"]))
        assert judged.champion == project.registry.get("buyer@2").id
        assert (judged.window_start_us, judged.window_end_us) == tuple(
            shop.BEGIN_US + day * DAY_US for day in (FIRST - 9, FIRST - 2)
        )
