"""A year of events of Zipf-distributed customers in Parquet files, requests for them, and a project that joins both."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np

YEAR_US = 365 * 86_400_000_000
FIRST_US = 1_700_000_000_000_000
FILE_ROWS = 5_000_000
PROJECT = """
import trimtab as tt

spending = tt.source("spending", time="spent_at", delay="10min", columns={
    "customer": str, "amount": float, "items": int})
ask = tt.request("ask", key="ask_id", time="asked_at", columns={"ask_id": int, "customer": str, "asked_at": tt.Time})
customer = tt.view("customer", source=spending, by="customer", features={
    "spent_1d": tt.sum("amount", over="1d"), "spent_30d": tt.sum("amount", over="30d"),
    "mean_30d": tt.mean("amount", over="30d"), "most_30d": tt.max("amount", over="30d"),
    "count_7d": tt.count(over="7d"), "last": tt.latest("items", max_age="90d")})
"""


def write_project(folder: Path, settings: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.py").write_text(PROJECT)
    (folder / "trimtab.toml").write_text(settings)
    return folder


def write_events(folder: Path, rows: int, keys: int = 100_000, seed: int = 1) -> Path:
    """Events in the order of their time, in files of five million."""
    folder.mkdir(parents=True, exist_ok=True)
    shares = np.cumsum(1 / np.arange(1, keys + 1) ** 1.1)
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - start)
        chance = np.random.default_rng([seed, number])
        first = FIRST_US + start * YEAR_US // rows
        span = count * YEAR_US // rows
        events = {
            "k": np.searchsorted(shares, chance.random(count) * shares[-1]),
            "t": np.sort(first + chance.integers(0, span, count)),
            "a": np.round(chance.gamma(2.0, 20.0, count), 2),
            "n": chance.integers(1, 20, count),
        }
        _write(events, "'c' || k AS customer, make_timestamptz(t) AS spent_at, a AS amount, n AS items", folder, number)
    return folder


def write_requests(path: Path, rows: int, keys: int = 100_000, seed: int = 2) -> Path:
    """Requests of the same customers, one in a hundred of a stranger, in no order."""
    chance = np.random.default_rng(seed)
    shares = np.cumsum(1 / np.arange(1, keys + 1) ** 1.1)
    asked = {
        "k": np.searchsorted(shares, chance.random(rows) * shares[-1]) + (chance.random(rows) < 0.01) * keys,
        "t": FIRST_US + chance.integers(0, YEAR_US, rows),
        "i": np.arange(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(asked, "i AS ask_id, 'c' || k AS customer, make_timestamptz(t) AS asked_at", path.parent, path.name)
    return path


def _write(columns: dict[str, np.ndarray], picks: str, folder: Path, name: int | str) -> None:
    file = folder / (name if isinstance(name, str) else f"events-{name:03}.parquet")
    with duckdb.connect() as connection:
        connection.register("made", columns)
        connection.execute(f"COPY (SELECT {picks} FROM made) TO '{file}' (FORMAT parquet)")
