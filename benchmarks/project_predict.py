"""`project.predict` of one row, with all that it looks after: which version is in service, which events came.

The floor is the answer of the version that is loaded, without a look at anything.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import trimtab as tt
from trimtab.app.project import Project

NAME = "project_predict"
TARGET = "ratio <= 3"
UNIT = "us"
BETTER = "lower"

ASKED = 2_000
PROJECT = """
import trimtab as tt
from lightgbm import LGBMClassifier

readings = tt.source("readings", time="read_at", columns={"site": str, "level": float})
sales = tt.source("sales", time="closed_at", key="visit_id", columns={"visit_id": str, "bought": bool})
visit = tt.request("visit", key="visit_id", time="at", columns={
    "visit_id": str, "site": str, "at": tt.Time, "x": float})
site = tt.view("site", source=readings, by="site", features={
    "level": tt.latest("level"), "mean_7d": tt.mean("level", over="7d"), "n_7d": tt.count(over="7d")})
model = tt.model("buyer", request=visit, features=[{"x": tt.col("x")}, site],
    label=tt.label(sales, key="visit_id", value=tt.col("bought"), wait="1d"),
    estimator=lambda: LGBMClassifier(n_estimators=100, verbose=-1), metric="log_loss")
tt.deployment(model, retrain=tt.every("30d"), gate=tt.beats_champion(margin=0.0))
"""


def setup(folder: Path) -> Project:
    """A small project with a model in service."""
    folder = folder / "project"
    folder.mkdir()
    (folder / "project.py").write_text(PROJECT)
    (folder / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    project = tt.open(folder)
    rng = np.random.default_rng(1)
    now_us = time.time_ns() // 1_000
    hours = [now_us - n * 3_600_000_000 for n in range(1, 24 * 40)]
    project.push("readings", [{"site": "north", "level": float(rng.normal()), "read_at": at} for at in hours])
    visits = [{"visit_id": f"v{n}", "site": "north", "at": at, "x": float(rng.normal())} for n, at in enumerate(hours)]
    project.push("visit", visits)
    bought = [rng.random() < (0.95 if one["x"] > 0.0 else 0.05) for one in visits]
    closed = [min(one["at"] + 7_200_000_000, now_us) for one in visits]
    project.push("sales", [
        {"visit_id": one["visit_id"], "bought": bool(yes), "closed_at": at}
        for one, yes, at in zip(visits, bought, closed, strict=True)
    ])  # fmt: skip
    project.train("buyer")
    project.current("buyer")
    return project


def ours(project: Project) -> float:
    return _median_us(lambda row: project.predict("buyer", [row]))


def floor(project: Project) -> float:
    answer = project.served("buyer").endpoint.answer
    return _median_us(lambda row: answer([row]))


def _median_us(ask: Callable[[dict[str, Any]], object]) -> float:
    clock, times, now_us = time.perf_counter_ns, [], time.time_ns() // 1_000
    for n in range(ASKED):
        row = {"visit_id": f"asked-{n}", "site": "north", "at": now_us, "x": 0.5}
        begin = clock()
        ask(row)
        times.append(clock() - begin)
    return statistics.median(times) / 1_000
