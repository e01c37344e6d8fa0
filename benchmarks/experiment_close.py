"""Close a day of an experiment: 100,000 units, 300,000 events, 5 metrics (2 with a covariate), slices by country."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.experiments.days import REACHED
from trimtab.experiments.exposures import encode
from trimtab.experiments.records import DAYS, KIND, Allocation, ExperimentState, Exposure
from trimtab.store import Put, Remove

NAME = "experiment_close"
TARGET = "ours <= 10"
UNIT = "s"
BETTER = "lower"
BEGIN_US = parse_time_us("2024-01-01T00:00:00Z")
UNITS, EVENTS = 100_000, 300_000
PROJECT = """
import trimtab as tt

orders = tt.source("orders", key="id", time="at", columns={"id": str, "at": tt.Time, "user": str, "amount": float})
of = {"source": orders, "by": "user", "within": "2d"}
prices = tt.experiment("prices", unit="user", variants={"old": 1, "new": 2}, slices=["country"],
    attributes={"country": str}, metrics=[
        tt.metric("spent", value=tt.sum("amount"), before="2d", cap=500.0, role="primary", **of),
        tt.metric("bought", kind="proportion", value=tt.count(), before="2d", **of),
        tt.metric("basket", value=tt.sum("amount"), denominator=tt.count(), **of),
        tt.metric("large", quantile=0.9, value=tt.max("amount"), **of),
        tt.metric("orders", value=tt.count(), role="guardrail", better="higher", margin=0.02, **of)])
"""


def setup(folder: Path) -> tt.Project:
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT)
    project = tt.open(folder, clock=VirtualClock(BEGIN_US + 3 * DAY_US), environment={})
    rng = np.random.default_rng(1)
    at_us = np.sort(BEGIN_US - 2 * DAY_US + rng.integers(0, 5 * DAY_US, EVENTS))
    columns = {
        "id": ("str", [f"o{n}" for n in range(EVENTS)]), "at": ("time", at_us.tolist()),
        "user": ("str", [f"u{n}" for n in rng.integers(0, UNITS, EVENTS)]),
        "amount": ("float", rng.lognormal(3.0, 1.0, EVENTS).tolist()),
    }  # fmt: skip
    project.ingestor.load("orders", Columns.of(columns), history=True)
    times = np.sort(BEGIN_US + rng.integers(0, DAY_US, UNITS)).tolist()
    countries = [msgspec.msgpack.encode({"country": one}) for one in ("DE", "FR", "IT", "ES")]
    made = [
        Exposure(experiment="prices", generation=1, unit=f"u{unit}", variant=("old", "new")[unit % 2], at_us=at,
                 attributes=countries[unit % 4])
        for unit, at in zip(rng.permutation(UNITS).tolist(), times, strict=True)
    ]  # fmt: skip
    project.state.exposures.append([encode(one) for one in made], at_us=times)
    definition = project.definitions.experiments["prices"]
    halves = Allocation(
        from_us=BEGIN_US, share=1.0, weights={"old": 0.5, "new": 0.5}, buckets=[(5_000, "old"), (5_000, "new")]
    )
    state = ExperimentState(
        name="prices", hash=definition.hash, definition=msgspec.json.encode(definition), generation=1, phase="running",
        started_at_us=BEGIN_US, allocations=[halves],
    )  # fmt: skip
    project.state.catalog.write([Put(KIND, "prices", msgspec.json.encode(state))])
    project.history.refresh()
    return project


def ours(project: tt.Project) -> float:
    from trimtab.app.experiments.closing import close_due

    start = time.perf_counter()
    (day,) = close_due(project)
    took = time.perf_counter() - start
    if sum(one.units for one in day.variants.values()) != UNITS:
        raise SystemExit("experiment_close: the closed day lacks units.")
    catalog = project.state.catalog
    catalog.write([Remove(kind, one.key) for kind in (DAYS, REACHED) for one in catalog.find(kind)])
    return took
