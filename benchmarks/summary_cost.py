"""What it costs to summarise one logged prediction of 30 floats for the monitors, against answering it over HTTP.

Ours is the processor time that the loop's reading between ticks takes for the hourly counts of inputs, and for where
each day's predictions stand. Reading the log and decoding it is measured alone and taken off: labels are joined with
what is read, whoever watches. The floor is the time that the service takes for an answer at full load.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import _http
import msgspec
import numpy as np

import trimtab as tt
from trimtab.app.training.loops import Loops
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import unpack
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.serving.log.prediction_record import pack_all

NAME = "summary_cost"
TARGET = "ratio <= 0.1"
UNIT = "us/prediction"
BETTER = "lower"
NOW_US = parse_time_us("2024-06-01T00:00:00Z")
EACH, EVENTS = 20_000, 20_000
NAMES = [f"x{n}" for n in range(_http.FLOATS)]
PROJECT = f"""
import trimtab as tt

names = {NAMES}
visits = tt.request("visits", key="id", time="at", columns={{"id": str, "at": tt.Time, **dict.fromkeys(names, float)}})
sales = tt.source("sales", key="id", time="closed_at", columns={{"id": str, "closed_at": tt.Time, "bought": float}})

def linear():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()

one = tt.model("one", request=visits, features=[{{name: tt.col(name) for name in names}}], metric="log_loss",
    estimator=linear, label=tt.label(sales, key="id", value=tt.col("bought"), wait="1d"))
tt.deployment(one, gate=tt.beats_champion(calibration=0.2))
"""


def setup(folder: Path) -> dict[str, Any]:
    _http.make_model(folder)
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
    bought = (rng.random(EVENTS) < 1 / (1 + np.exp(-x[:, 0]))).astype(float).tolist()
    sales: dict[str, Any] = {"id": ("str", ids), "closed_at": ("time", (at_us + 1).tolist())}
    project.ingestor.load("visits", Columns.of(visits), history=True)
    project.ingestor.load("sales", Columns.of(sales | {"bought": ("float", bought)}), history=True)
    project.tick()
    version = project.registry.alias("one", "champion")
    assert version is not None
    return {"folder": folder, "project": project, "clock": clock, "version": version.id, "rng": rng}


def ours(state: dict[str, Any]) -> float:
    """Read what was answered in an hour."""
    project, clock = state["project"], state["clock"]
    since_us = clock.now_us()
    clock.advance_to(since_us + HOUR_US)
    times = (since_us + np.arange(EACH) * (HOUR_US // EACH)).tolist()
    values = state["rng"].normal(size=(EACH, len(NAMES)))
    names = [f"p{at}" for at in times]
    common = Prediction(
        id="", request_id="", model="one", version=state["version"], arm="champion", mode="live", made_at_us=0,
        at_us=0, positions={}, score=0.5, request=b"", values=b"", reasons=b"\xff" * len(NAMES),
    )  # fmt: skip
    columns = {
        "id": names,
        "request_id": names,
        "made_at_us": times,
        "at_us": times,
        "request": [
            msgspec.msgpack.encode([n, at, *row]) for n, at, row in zip(names, times, values.tolist(), strict=True)
        ],
        "values": [row.astype("<f8").tobytes() for row in values],
    }
    before = project.predictions.log.positions()
    project.predictions.append_payloads(unpack(pack_all(common, columns)), at_us=times)
    start = time.process_time()
    project.part(Loops).read_ahead("one")
    taken = time.process_time() - start
    start = time.process_time()
    for _ in project.predictions.blocks(before, model="one"):
        pass
    taken -= time.process_time() - start
    hours = project.loop("one").inputs._open
    if sum(one.rows for one in hours.values()) < EACH:
        raise SystemExit("summary_cost: what was read ahead was not counted.")
    return 1e6 * taken / EACH


def floor(state: dict[str, Any]) -> float:
    return 1e6 / _http.rate(state["folder"], "relaxed")
