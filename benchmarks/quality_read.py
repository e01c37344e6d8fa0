"""`project.status()`, `project.quality()` of a year and by slice of a month: 5,000,000 predictions, 100 slices a day.

Each label is an event, so the event log has 5,000,000 more. The project is opened again for each measurement, which is
part of the status; modules are imported before. A tick counted all events but the newest 10,000.

The floor reads the same records of the catalogue by hand, and decodes them as JSON.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import trimtab as tt
from trimtab.app.features.source_counts import KIND, store_counts
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.columns.packs import unpack
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.events.records import Event, encode
from trimtab.feedback.blocks import block_days
from trimtab.monitoring.quality.quality_days import store_days
from trimtab.serving.log.prediction_record import pack_all
from trimtab.store.ports import Put

NAME = "quality_read"
TARGET = "ours <= 200"
UNIT = "ms"
BETTER = "lower"
NOW_US = parse_time_us("2024-12-31T00:00:00Z")
PREDICTIONS, SLICES, DAYS, EVENTS = 5_000_000, 100, 365, 200_000
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


def setup(folder: Path) -> dict[str, Any]:
    (folder / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
    (folder / "project.py").write_text(PROJECT)
    clock = VirtualClock(NOW_US - DAYS * DAY_US)
    project = _opened(folder, clock)
    rng = np.random.default_rng(1)
    at_us = clock.now_us() - np.arange(EVENTS, 0, -1) * (60 * DAY_US // EVENTS)
    ids, x = [f"h{n}" for n in range(EVENTS)], rng.normal(size=EVENTS)
    visits = {"id": ("str", ids), "at": ("time", at_us.tolist()), "x": ("float", x.tolist()), "site": ("str", ids)}
    bought = (rng.random(EVENTS) < 1 / (1 + np.exp(-x))).astype(float).tolist()
    sales = {"id": ("str", ids), "closed_at": ("time", (at_us + 1).tolist()), "bought": ("float", bought)}
    project.ingestor.load("visits", Columns.of(visits), history=True)
    project.ingestor.load("sales", Columns.of(sales), history=True)
    project.tick()
    version = project.registry.alias("one", "champion")
    assert version is not None
    _log(project, version.id)
    _append_labels(project)
    _close(project, version.id)
    clock.advance_to(NOW_US)
    (counted,) = project.state.catalog.find(KIND)
    project.status()  # imports modules
    project.close()
    return {"folder": folder, "clock": clock, "counted": counted, "file": folder / ".trimtab" / "catalog.db"}


def _opened(folder: Path, clock: VirtualClock) -> tt.Project:
    return tt.open(folder, clock=clock, environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"})


def _log(project: tt.Project, version: str) -> None:
    """A year of predictions, evenly."""
    common = Prediction(
        id="", request_id="", model="one", version=version, arm="champion", mode="live", made_at_us=0, at_us=0,
        positions={}, score=0.5, request=msgspec.msgpack.encode(["v", 0, 0.5, "s"]), values=b"\0" * 8, reasons=b"\xff",
    )  # fmt: skip
    each = 50_000
    for first in range(0, PREDICTIONS, each):
        times = [NOW_US - (PREDICTIONS - n) * (DAYS * DAY_US // PREDICTIONS) for n in range(first, first + each)]
        names = [f"p{n}" for n in range(first, first + each)]
        columns = {"id": names, "request_id": names, "made_at_us": times, "at_us": times}
        project.predictions.append_payloads(unpack(pack_all(common, columns)), at_us=times)


def _append_labels(project: tt.Project) -> None:
    """A label for each prediction, as events in the log."""
    each = 10_000
    for first in range(0, PREDICTIONS, each):
        if first == PREDICTIONS - each:
            store_counts(project)  # as the loop does
        times = [NOW_US - (PREDICTIONS - n) * (DAYS * DAY_US // PREDICTIONS) for n in range(first, first + each)]
        events = [
            Event("sales", f"p{n}", at_us, 0, "upsert", False, (f"p{n}", at_us, float(n % 2)))
            for n, at_us in enumerate(times, first)
        ]
        project.state.events.append([encode(event) for event in events], at_us=times)


def _close(project: tt.Project, version: str) -> None:
    """The blocks of the year, as the loop would have stored them."""
    rng = np.random.default_rng(2)
    rows = 5_000
    for day in range(DAYS):
        at_us = NOW_US - (DAYS - day) * DAY_US + np.arange(rows) * (24 * HOUR_US // rows)
        scores = rng.uniform(0.05, 0.95, rows)
        labels = (rng.random(rows) < scores).astype(float)
        found = block_days(
            "one", "log_loss", version, "champion", at_us, scores, labels, cap=2.0,
            unlisted=np.zeros(rows, bool), late=np.zeros(rows, bool),
            slices={"site": np.array([f"s{n % SLICES}" for n in range(rows)], object)},
        )  # fmt: skip
        project.state.catalog.write(store_days([found]))


def ours(state: dict[str, Any]) -> float:
    """The slowest of the three."""
    counted, took = state["counted"], []
    with _opened(state["folder"], state["clock"]) as project:
        project.state.catalog.write([Put(counted.kind, counted.key, counted.body)])
    start = time.perf_counter()
    with _opened(state["folder"], state["clock"]) as project:
        for read in (
            project.status,
            project.quality,
            lambda: project.quality(slices="site", since=NOW_US - 30 * DAY_US),
        ):
            read()
            took.append(1e3 * (time.perf_counter() - start))
            start = time.perf_counter()
        if "_history" in project.__dict__:
            raise SystemExit("quality_read: the status read the whole history.")
    return max(took)


def floor(state: dict[str, Any]) -> float:
    start = time.perf_counter()
    connection = sqlite3.connect(f"file:{state['file']}?mode=ro", uri=True)
    bodies = connection.execute("SELECT body FROM record WHERE kind = 'quality_day'").fetchall()
    for (body,) in bodies:
        msgspec.json.decode(body)
    connection.close()
    if len(bodies) != DAYS:
        raise SystemExit(f"quality_read: {len(bodies)} days are stored, not {DAYS}.")
    return 1e3 * (time.perf_counter() - start)
