"""A project with millions of logged predictions and their labels, for the benchmarks of what reads it.

The predictions of twelve days are appended to the log, encoded as the service encodes them, and each has a label, which
is an event. Ten of the days are closed by the loop itself: a history takes some minutes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.events.records import Event, encode
from trimtab.serving.log.prediction_ids import PredictionIds
from trimtab.serving.log.prediction_record import encode_all

BEGUN_US = parse_time_us("2026-03-01T00:00:00Z")
DAYS, HISTORY, EACH = 12, 50_000, 50_000
NOW_US = BEGUN_US + DAYS * DAY_US + HOUR_US // 2
PROJECT = """
import trimtab as tt

visits = tt.request("visits", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float, "site": str})
sales = tt.source("sales", key="id", time="closed_at", columns={"id": str, "closed_at": tt.Time, "bought": float})

def linear():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()

one = tt.model("one", request=visits, features=[{"x": tt.col("x")}], metric="log_loss", estimator=linear,
    label=tt.label(sales, key="id", value=tt.col("bought"), wait="1d"))
tt.deployment(one, gate=tt.beats_champion(calibration=0.2))
"""


def make(folder: Path, predictions: int) -> list[str]:
    """Make the project, and return the id of one of each 50,000 predictions."""
    folder.mkdir()
    (folder / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    (folder / "project.py").write_text(PROJECT)
    clock = VirtualClock(BEGUN_US)
    rng = np.random.default_rng(1)
    with opened(folder, clock) as project:
        _load_history(project, rng)
        project.tick()
        version = project.registry.alias("one", "champion")
        assert version is not None
        (first,) = project.predict("one", [{"id": "first", "at": clock.now_us(), "x": 0.5, "site": "s1"}])
        ids = _log(project, version.id, first.score, predictions)
        clock.advance_to(NOW_US - HOUR_US)
        project.tick()
        clock.advance_to(NOW_US)
        project.tick()
    return ids


def opened(folder: Path, clock: VirtualClock) -> tt.Project:
    return tt.open(folder, clock=clock, environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"})


def _load_history(project: tt.Project, rng: np.random.Generator) -> None:
    at_us = BEGUN_US - np.arange(HISTORY, 0, -1) * (40 * DAY_US // HISTORY)
    ids, x = [f"h{n}" for n in range(HISTORY)], rng.normal(size=HISTORY)
    visits = {"id": ("str", ids), "at": ("time", at_us.tolist()), "x": ("float", x.tolist()), "site": ("str", ids)}
    bought = (rng.random(HISTORY) < 1 / (1 + np.exp(-x))).astype(float).tolist()
    sales = {"id": ("str", ids), "closed_at": ("time", (at_us + 1).tolist()), "bought": ("float", bought)}
    project.ingestor.load("visits", Columns.of(visits), history=True)
    project.ingestor.load("sales", Columns.of(sales), history=True)


def _log(project: tt.Project, version: str, score: float, predictions: int) -> list[str]:
    """Log the predictions, evenly, and a label for each."""
    common = Prediction(
        id="", request_id="", model="one", version=version, arm="champion", mode="live", made_at_us=0, at_us=0,
        positions={}, score=score, request=b"", values=np.array([0.5]).tobytes(), reasons=b"\xff",
    )  # fmt: skip
    clock = VirtualClock(BEGUN_US)
    new_id, found = PredictionIds(clock, seed=1), list[str]()
    for first in range(0, predictions, EACH):
        rows = range(first, min(first + EACH, predictions))
        times = [BEGUN_US + n * (DAYS * DAY_US) // predictions for n in rows]
        keys, ids = [f"r{n}" for n in rows], list[str]()
        for at_us in times:
            clock.advance_to(at_us)
            ids.append(new_id())
        asked = [msgspec.msgpack.encode([key, at_us, 0.5, "s1"]) for key, at_us in zip(keys, times, strict=True)]
        columns = {"id": ids, "request_id": keys, "made_at_us": times, "at_us": times, "request": asked}
        project.predictions.append_payloads(encode_all(common, columns), at_us=times)
        events = [
            encode(Event("sales", key, at_us + 1, 0, "upsert", False, (key, at_us + 1, float(n % 8 < 5))))
            for n, key, at_us in zip(rows, keys, times, strict=True)
        ]
        project.state.events.append(events, at_us=[at_us + 1 for at_us in times])
        found.append(ids[len(ids) // 2])
    return found
