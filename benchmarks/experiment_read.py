"""`project.experiment_report()` of an experiment with 5,000,000 units over 60 days: 5 metrics, and slices by country.

The days are stored as the loop would have stored them. The floor reads the same records of the catalogue by hand, and
decodes them as JSON.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, parse_time_us
from trimtab.experiments.day_sums import DaySums
from trimtab.experiments.days import begun, store_day
from trimtab.experiments.exposures import ExposureBlock
from trimtab.experiments.records import DAYS, KIND, Allocation, ExperimentDay, ExperimentState
from trimtab.experiments.unit_values import UnitValues
from trimtab.store import Put

NAME = "experiment_read"
TARGET = "ours <= 1"
UNIT = "s"
BETTER = "lower"
BEGIN_US = parse_time_us("2024-01-01T00:00:00Z")
UNITS, DURATION = 5_000_000, 60
PROJECT = """
import trimtab as tt

orders = tt.source("orders", key="id", time="at", columns={"id": str, "at": tt.Time, "user": str, "amount": float})
of = {"source": orders, "by": "user", "within": "7d"}
prices = tt.experiment("prices", unit="user", variants={"old": 1, "new": 2}, slices=["country"],
    attributes={"country": str}, metrics=[
        tt.metric("spent", value=tt.sum("amount"), before="28d", cap=500.0, role="primary", **of),
        tt.metric("bought", kind="proportion", value=tt.count(), before="28d", **of),
        tt.metric("basket", value=tt.sum("amount"), denominator=tt.count(), **of),
        tt.metric("large", quantile=0.9, value=tt.max("amount"), **of),
        tt.metric("orders", value=tt.count(), role="guardrail", better="higher", margin=0.02, **of)])
"""


def setup(folder: Path) -> dict[str, Any]:
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT)
    clock = VirtualClock(BEGIN_US)
    project = tt.open(folder, clock=clock, environment={})
    definition = project.definitions.experiments["prices"]
    halves = Allocation(
        from_us=BEGIN_US, share=1.0, weights={"old": 0.5, "new": 0.5}, buckets=[(5_000, "old"), (5_000, "new")]
    )
    state = ExperimentState(
        name="prices", hash=definition.hash, definition=msgspec.json.encode(definition), generation=1, phase="running",
        started_at_us=BEGIN_US, allocations=[halves],
    )  # fmt: skip
    project.state.catalog.write([Put(KIND, "prices", msgspec.json.encode(state))])
    rng, reached = np.random.default_rng(1), begun(state)
    for day in range(DURATION):
        sums = DaySums(definition)
        sums.add(*_units(rng, -(-UNITS // DURATION)))
        stored = ExperimentDay(
            experiment="prices", generation=1, day_us=BEGIN_US + day * DAY_US, variants=sums.variants()
        )
        keys = np.arange(-(-UNITS // DURATION), dtype="<u8") + day * UNITS
        units = project.state.blob.put(keys.tobytes() + bytes(keys.size))
        puts, reached = store_day(stored, units, "", reached, day)
        project.state.catalog.write(puts)
    clock.advance_to(BEGIN_US + (DURATION + 8) * DAY_US - 1)
    project.experiment_report("prices")  # as a tick does, closes days and looks for late outcomes of closed ones
    return {"project": project, "file": folder / ".trimtab" / "catalog.db"}


def _units(rng: np.random.Generator, rows: int) -> tuple[ExposureBlock, dict[str, UnitValues]]:
    """The units of a day and their numbers. The treatment's are 2 % larger."""
    variants = rng.integers(0, 2, rows).astype(np.uint8)
    orders = rng.poisson(0.3 * (1.0 + 0.02 * variants))
    spent = np.minimum(orders * rng.lognormal(3.0, 1.0, rows), 500.0)
    before = spent * rng.uniform(0.5, 1.5, rows)
    countries = np.array([msgspec.msgpack.encode({"country": one}) for one in ("DE", "FR", "IT", "ES")], object)
    none = np.full(rows, "", object)
    block = ExposureBlock(
        units=none, keys=np.arange(rows, dtype=np.uint64), at_us=np.arange(rows), places=np.arange(rows),
        variants=variants, reasons=none, overrides=np.zeros(rows, bool),
        attributes=countries[rng.integers(0, len(countries), rows)],
    )  # fmt: skip
    values = {
        "spent": UnitValues(spent, x=before),
        "bought": UnitValues((orders > 0).astype(float), x=(before > 20.0).astype(float)),
        "basket": UnitValues(spent, d=orders.astype(float)),
        "large": UnitValues(np.where(orders > 0, spent, np.nan)),
        "orders": UnitValues(orders.astype(float)),
    }
    return block, values


def ours(state: dict[str, Any]) -> float:
    start = time.perf_counter()
    report = state["project"].experiment_report("prices")
    took = time.perf_counter() - start
    units = sum(one.units for one in report.variants)
    if units < UNITS or report.days != DURATION:
        raise SystemExit(f"experiment_read: {units} units of {report.days} days were reported.")
    return took


def floor(state: dict[str, Any]) -> float:
    start = time.perf_counter()
    connection = sqlite3.connect(f"file:{state['file']}?mode=ro", uri=True)
    bodies = connection.execute("SELECT body FROM record WHERE kind = ?", (DAYS,)).fetchall()
    for (body,) in bodies:
        msgspec.json.decode(body)
    connection.close()
    if len(bodies) != DURATION:
        raise SystemExit(f"experiment_read: {len(bodies)} days are stored, not {DURATION}.")
    return time.perf_counter() - start
