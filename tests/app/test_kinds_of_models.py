"""Chances with a calibration, counts and quantiles, from a project file to an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shop

from trimtab.core.errors import Misuse
from trimtab.core.time import DAY_US
from trimtab.stats import pinball
from trimtab.steering.definitions import BeatsChampion
from trimtab.steering.gate.gate import judge
from trimtab.steering.gate.window import Window
from trimtab.training.fitting.artifact import decode_artifact

MODELS = """
def trees():
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=30, min_child_samples=40)


def counting():
    from lightgbm import LGBMRegressor

    return LGBMRegressor(objective="poisson", n_estimators=30)


def high():
    from lightgbm import LGBMRegressor

    return LGBMRegressor(objective="quantile", alpha=0.9, n_estimators=30)


def of(name, estimator, metric, value, **more):
    model = tt.model(name, request=visit, features=[{"x": tt.col("x")}, site], estimator=estimator, metric=metric,
        label=tt.label(sales, key="visit_id", value=value, wait="2d"), **more)
    tt.deployment(model, gate=tt.beats_champion(calibration=0.15))


bought = tt.col("bought")
of("chance", trees, "log_loss", bought, calibration="CALIBRATION", slices=["site", "x"],
    costs={"false_positive": 1, "false_negative": 3})
of("number", counting, "poisson_deviance", tt.when(bought, 3, 1))
of("limit", high, tt.pinball(0.9), tt.when(bought, 3.0, 1.0))
"""


def project_file(calibration: str = "isotonic") -> str:
    return shop.PROJECT.replace('buyer("buyer", batch)', MODELS.replace("CALIBRATION", calibration))


@pytest.mark.slow
def test_chances_counts_and_quantiles_are_trained_gated_refitted_and_answered(tmp_path: Path):
    folder = shop.write_project(tmp_path / "kinds")
    (folder / "project.py").write_text(project_file())
    with shop.opened(folder) as project:
        shop.load(project, per_day=60)
        for name in ("chance", "number"):
            decisions = project.train(name)
            assert [d.act for d in decisions] == ["train", "gate", "promote"], [d.cause for d in decisions]
        project.train("limit")
        found = project.evaluation("chance@champion")
        assert found.recalibration == "isotonic"
        assert {one.column for one in found.slices} == {"site", "x"}
        assert found.thresholds is not None
        assert project.evaluation("number@1").figures[0].name == "poisson_deviance"
        assert project.evaluation("limit@1").figures[1].name == "coverage"
        for version in ("chance@1", "chance@2"):  # the candidate, and its refit
            stored = project.registry.get(version)
            artifact = decode_artifact(project.state.blob.get(stored.artifact))
            assert artifact.recalibration is not None
        loaded = project.registry.load("chance@2")
        matrix = np.random.default_rng(0).normal(size=(50, len(loaded.inputs)))
        assert [loaded.predict_row(row) for row in matrix.tolist()] == loaded.predict(matrix).tolist()
        first = project.registry.get("chance@champion").recipe
    (folder / "project.py").write_text(project_file("platt"))
    with shop.opened(folder) as project:
        assert project.definitions.models["chance"].hash != first


@pytest.mark.fast
def test_a_project_file_with_a_calibration_that_does_not_exist_is_named(tmp_path: Path):
    folder = shop.write_project(tmp_path / "wrong")
    (folder / "project.py").write_text(project_file("temperature"))
    with (
        pytest.raises(Misuse, match=r"'chance': calibration='temperature'.*platt, isotonic, beta"),
        shop.opened(folder),
    ):
        pass


def judged(metric: str, labels, candidate, champion):
    at_us = np.arange(len(labels)) % 14 * DAY_US
    return judge(
        BeatsChampion(margin=0.0, level=0.9, window_us=14 * DAY_US, calibration=0.03),
        Window(0, 14 * DAY_US, at_us, labels),
        gate_id="g",
        model="m",
        metric=metric,
        candidate="a",
        candidate_scores=candidate,
        champion="b",
        champion_scores=champion,
        judged_at_us=0,
        loads=True,
    )


@pytest.mark.fast
def test_the_gate_lets_the_better_quantile_pass_and_holds_it_to_its_share_and_not_to_the_mean():
    rng = np.random.default_rng(0)
    level = rng.normal(size=2800)
    labels = level + rng.normal(size=2800)
    known, unknown = level + 1.2816, np.full(2800, 1.2816 * np.sqrt(2))
    gate = judged(pinball(0.9), labels, known, unknown)
    assert gate.passed, gate.reason
    assert gate.metric == "pinball(0.9)"
    assert not judged(pinball(0.9), labels, unknown, known).passed
    mean = judged(pinball(0.9), labels, level, unknown)
    assert mean.checks["calibrated"] is False


@pytest.mark.fast
def test_the_gate_lets_the_better_count_pass():
    rng = np.random.default_rng(0)
    rate = rng.gamma(2.0, 1.0, 2800)
    counts = rng.poisson(rate).astype(float)
    assert judged("poisson_deviance", counts, rate, np.full(2800, 2.0)).passed
    assert not judged("poisson_deviance", counts, 2 * rate, rate).passed
