"""A small project about customers: clicks without a key, orders that are corrected, quotes that are answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trimtab.app.project import Project, open_project
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us

BEGIN_US = parse_time_us("2024-03-01T00:00:00Z")
DAYS = 40
NOW_US = BEGIN_US + DAYS * DAY_US
PROJECT = """
import trimtab as tt

clicks = tt.source("clicks", time="clicked_at", columns={"customer": KIND, "page": str, "seconds": float})
orders = tt.source("orders", time="ordered_at", key="order", columns={
    "order": str, "customer": KIND, "shop": str, "amount": float})
results = tt.source("results", time="known_at", key="quote_ref", columns={"quote_ref": str, "bought": bool})
quote = tt.request("quote", key="quote", time="at", columns={
    "quote": str, "customer": KIND, "shop": str, "at": tt.Time, "x": float})
reader = tt.view("reader", source=clicks, by="customer", features={
    "clicks_7d": tt.count(over="7d"), "seconds": tt.sum("seconds"), "last": tt.latest("seconds")})
page = tt.view("pages", source=clicks, by="page", features={"seconds_7d": tt.mean("seconds", over="7d")})
buyer = tt.view("buyer", source=orders, by="customer", features={
    "orders": tt.count(), "amount_7d": tt.sum("amount", over="7d"), "last": tt.latest("amount")})
seller = tt.view("seller", source=orders, by="shop", features={"amount": tt.sum("amount"), "most": tt.max("amount")})
pair = tt.view("pair", source=orders, by=["customer", "shop"], features={"orders": tt.count()})


def estimator():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


model = tt.model("sale", request=quote, features=[{"x": tt.col("x")}, reader, buyer, seller, pair],
    label=tt.label(results, key="quote_ref", value="bought", wait="1d"), estimator=estimator, metric="log_loss")
tt.deployment(model, gate=tt.beats_champion(calibration=0.9))
"""


def write_project(folder: Path, kind: str = "str") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT.replace("KIND", kind))
    return folder


def opened(folder: Path, now_us: int = NOW_US) -> Project:
    return open_project(folder, clock=VirtualClock(now_us), environment={})


def load(project: Project, customers: list[Any], *, per_day: int = 20, seed: int = 1) -> None:
    """Ingest history; each customer, shop and page occurs again and again."""
    chance = np.random.default_rng(seed)
    count = DAYS * per_day
    at_us = np.sort(BEGIN_US + chance.integers(0, DAYS * DAY_US - 2 * HOUR_US, count))
    who = [customers[n] for n in chance.integers(0, len(customers), count)]
    kind = "int" if isinstance(customers[0], int) else "str"
    shops = [f"shop{n}" for n in chance.integers(0, 3, count)]
    x = chance.normal(size=count)
    tables: dict[str, dict[str, Any]] = {
        "clicks": {
            "customer": (kind, who),
            "page": ("str", [f"page{n}" for n in chance.integers(0, 4, count)]),
            "seconds": ("float", chance.integers(1, 90, count).astype(float).tolist()),
            "clicked_at": ("time", at_us.tolist()),
        },
        "orders": {
            "order": ("str", [f"o{n:04}" for n in range(count)]),
            "customer": (kind, who),
            "shop": ("str", shops),
            "amount": ("float", chance.integers(1, 900, count).astype(float).tolist()),
            "ordered_at": ("time", (at_us + 5_000_000).tolist()),
        },
        "quote": {
            "quote": ("str", [f"q{n:04}" for n in range(count)]),
            "customer": (kind, who),
            "shop": ("str", shops),
            "at": ("time", (at_us + 9_000_000).tolist()),
            "x": ("float", x.tolist()),
        },
        "results": {
            "quote_ref": ("str", [f"q{n:04}" for n in range(count)]),
            "bought": ("bool", (chance.random(count) < 1 / (1 + np.exp(-3 * x))).tolist()),
            "known_at": ("time", (at_us + HOUR_US).tolist()),
        },
    }
    for name, columns in tables.items():
        project.ingestor.load(name, Columns.of(columns))


def quote(key: str, customer: Any, at_us: int, shop: str = "shop1", x: float = 0.5) -> dict[str, Any]:
    return {"quote": key, "customer": customer, "shop": shop, "at": at_us, "x": x}
