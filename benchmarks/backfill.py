"""Five million events in Parquet, six features of 200,000 requests, split on disk and evaluated part by part.

The floor is DuckDB alone: it reads the same events, sorts them by customer and time, and writes them again. It knows
no features, no late events and no reasons.
"""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import _backfill
import duckdb

from trimtab.app import open_project

NAME = "backfill"
TARGET = "ratio >= 0.2"
UNIT = "events/s"
BETTER = "higher"

EVENTS, REQUESTS = 5_000_000, 200_000


class Backfill:
    """A project without a history of its own, and the files of one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.turns = folder, count()
        self.project = _backfill.write_project(folder / "project")
        self.events = _backfill.write_events(folder / "events", EVENTS)
        self.requests = _backfill.write_requests(folder / "requests" / "requests.parquet", REQUESTS)


def setup(folder: Path) -> Backfill:
    return Backfill(folder)


def ours(backfill: Backfill) -> float:
    out = backfill.folder / f"features-{next(backfill.turns)}.parquet"
    with open_project(backfill.project, environment={}) as project:
        start = time.perf_counter()
        made = project.join(backfill.requests, "customer", at="asked_at", events={"spending": backfill.events}, out=out)
        seconds = time.perf_counter() - start
    assert made.rows == REQUESTS
    return EVENTS / seconds


def floor(backfill: Backfill) -> float:
    out = backfill.folder / "sorted.parquet"
    start = time.perf_counter()
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_parquet('{backfill.events}/*.parquet') ORDER BY customer, spent_at) TO '{out}'"
        )
    return EVENTS / (time.perf_counter() - start)
