"""Comparing successor and champion on the rows of a day that were logged, against what their own predictions take.

Ours reads the day's requests back from the log, finds features as of their time and labels, leaves out faulty rows,
lets both models score, and sums losses by day: `Candidates.shadow_days`, as the loop calls it once a day. The floor is
both models' `predict` on the same rows, ready as a matrix.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import _http
import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import unpack
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.serving.log.prediction_record import pack_all
from trimtab.steering.loop_state import Repair

NAME = "paired_shadow"
TARGET = "ratio >= 0.8"
UNIT = "rows/s"
BETTER = "higher"
NOW_US = parse_time_us("2024-06-01T00:00:00Z")
EACH, EVENTS = 50_000, 20_000
NAMES = [f"x{n}" for n in range(_http.FLOATS)]
PROJECT = f"""
import trimtab as tt

names = {NAMES}
visits = tt.request("visits", key="id", time="at", columns={{"id": str, "at": tt.Time, **dict.fromkeys(names, float)}})
sales = tt.source("sales", key="id", time="closed_at", columns={{"id": str, "closed_at": tt.Time, "bought": float}})

def trees():
    from lightgbm import LGBMClassifier
    return LGBMClassifier(n_estimators=200, learning_rate=0.02, min_child_samples=200, verbose=-1)

one = tt.model("one", request=visits, features=[{{name: tt.col(name) for name in names}}], metric="log_loss",
    estimator=trees, label=tt.label(sales, key="id", value=tt.col("bought"), wait="1d"))
tt.deployment(one, gate=tt.beats_champion(calibration=0.2))
"""


def setup(folder: Path) -> dict[str, Any]:
    home = folder / "project"
    home.mkdir()
    (home / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    (home / "project.py").write_text(PROJECT)
    clock = VirtualClock(NOW_US)
    project = tt.open(home, clock=clock, environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"})
    rng = np.random.default_rng(1)
    at_us = NOW_US - np.arange(EVENTS, 0, -1) * (40 * DAY_US // EVENTS)
    ids, x = [f"h{n}" for n in range(EVENTS)], rng.normal(size=(EVENTS, len(NAMES)))
    visits: dict[str, Any] = {"id": ("str", ids), "at": ("time", at_us.tolist())}
    visits |= {name: ("float", x[:, place].tolist()) for place, name in enumerate(NAMES)}
    project.ingestor.load("visits", Columns.of(visits), history=True)
    project.ingestor.load("sales", _sales(ids, at_us, x, rng), history=True)
    project.tick()
    versions = project.versions("one")
    champion, successor = (found.version for found in versions[:2])
    gate = next(iter(project.registry.gates_of(successor)))
    made = {"candidate": champion.id, "gate": msgspec.structs.replace(gate, champion=champion.id)}
    repair = Repair(
        **made, successor=successor.id, reason="", reference=(), cut_us=NOW_US, rows=0, data_hash=""
    )  # fmt: skip
    loaded = [project.registry.load(version) for version in (champion, successor)]
    _ask(project, clock, loaded[0], rng)
    return {
        "project": project,
        "clock": clock,
        "repair": repair,
        "models": loaded,
        "matrix": rng.normal(size=(EACH, len(NAMES))),
    }


def _sales(ids: list[str], at_us: Any, x: Any, rng: Any) -> Columns:
    bought = (rng.random(len(ids)) < 1 / (1 + np.exp(-x[:, 0]))).astype(float).tolist()
    closed: dict[str, Any] = {"id": ("str", ids), "closed_at": ("time", (at_us + 1).tolist())}
    return Columns.of(closed | {"bought": ("float", bought)})


def _ask(project: Any, clock: VirtualClock, champion: Any, rng: Any) -> None:
    """A day of answered requests, and their labels."""
    times = (NOW_US + np.arange(EACH) * (DAY_US // EACH)).tolist()
    values, names = rng.normal(size=(EACH, len(NAMES))), [f"p{n}" for n in range(EACH)]
    common = Prediction(
        id="", request_id="", model="one", version=champion.version.id, arm="champion", mode="live", made_at_us=0,
        at_us=0, positions={}, score=0.0, request=b"", values=b"", reasons=b"\xff" * len(NAMES),
    )  # fmt: skip
    columns = {
        "id": names,
        "request_id": names,
        "made_at_us": times,
        "at_us": times,
        "score": champion.predict(values).tolist(),
        "request": [
            msgspec.msgpack.encode([n, at, *row]) for n, at, row in zip(names, times, values.tolist(), strict=True)
        ],
        "values": [row.astype("<f8").tobytes() for row in values],
    }
    clock.advance_to(NOW_US + DAY_US)
    project.predictions.append_payloads(unpack(pack_all(common, columns)), at_us=times)
    project.ingestor.load("sales", _sales(names, np.array(times), values, rng), history=True)
    clock.advance_to(NOW_US + 4 * DAY_US)
    # labels count as complete up to the newest one
    project.ingestor.load("sales", _sales(["h0"], np.array([NOW_US + 3 * DAY_US]), values[:1], rng), history=True)


def ours(state: dict[str, Any]) -> float:
    loop = state["project"].loop("one")
    loop.catch_up()
    start = time.perf_counter()
    days, _ = loop._loop.builder.shadow_days(state["repair"], NOW_US, state["clock"].now_us())
    taken = time.perf_counter() - start
    if sum(day.rows for day in days) != EACH:
        raise SystemExit(f"paired_shadow: {sum(day.rows for day in days)} rows were compared instead of {EACH}.")
    return EACH / taken


def floor(state: dict[str, Any]) -> float:
    start = time.perf_counter()
    for model in state["models"]:
        model.predict(state["matrix"])
    return EACH / (time.perf_counter() - start)
