"""Ten features of an entity's newest event, for a million labels and a million events, from Parquet to columns.

The floor is DuckDB: drop repeated (key, time) rows, ASOF JOIN, fetch as NumPy arrays. It knows neither late events nor
corrections nor reasons; ours reads the same files and answers with all of them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

NAME = "latest_join"
TARGET = "ratio <= 1.3"
UNIT = "s"
BETTER = "lower"

EVENTS = LABELS = 1_000_000
KEYS = 20_000
COLUMNS = [f"x{i}" for i in range(10)]
YEAR_US = 365 * 86_400_000_000


def setup(folder: Path) -> dict[str, Any]:
    import duckdb

    from trimtab.events.definitions import source
    from trimtab.features.aggregates import latest
    from trimtab.features.definitions import request, view
    from trimtab.features.feature_set import feature_set

    connection = duckdb.connect()
    connection.execute("SELECT setseed(0.5)")
    values = ", ".join(f"random() * 100 AS {c}" for c in COLUMNS)
    connection.execute(
        f"COPY (SELECT (random() * {KEYS})::BIGINT AS key, (random() * {YEAR_US})::BIGINT AS moment, {values} "
        f"FROM range({EVENTS}) ORDER BY moment) TO '{folder}/events.parquet'"
    )
    connection.execute(
        f"COPY (SELECT (random() * {KEYS})::BIGINT AS key, (random() * {YEAR_US})::BIGINT AS moment "
        f"FROM range({LABELS}) ORDER BY moment) TO '{folder}/labels.parquet'"
    )
    events = source("events", time="at", columns={"key": int} | dict.fromkeys(COLUMNS, float))
    newest = view("newest", source=events, by="key", features={c: latest(c) for c in COLUMNS})
    ask = request("ask", key="id", time="at", columns={"id": str, "key": int})
    return {"connection": connection, "folder": folder, "features": feature_set(ask, [newest]), "events": events}


def ours(state: dict[str, Any]) -> float:
    from trimtab.core.columns.data import Column, Columns, float_column
    from trimtab.events.columns.frames import NEVER_US, EventFrame
    from trimtab.features.offline.evaluation import evaluate

    start = time.perf_counter()
    read = state["connection"].execute(f"SELECT * FROM '{state['folder']}/events.parquet'").fetchnumpy()
    labels = state["connection"].execute(f"SELECT * FROM '{state['folder']}/labels.parquet'").fetchnumpy()
    table = Columns(
        {"key": Column("int", np.asarray(read["key"])), "at": Column("time", np.asarray(read["moment"]))}
        | {c: float_column(np.asarray(read[c])) for c in COLUMNS}
    )
    at = table["at"].values
    frame = EventFrame(
        "events", table, at, at, np.full(EVENTS, NEVER_US), np.zeros(EVENTS, bool), np.zeros(EVENTS, np.int16),
        np.arange(EVENTS), ("p0",),
    )  # fmt: skip
    asked = Columns({"key": Column("int", np.asarray(labels["key"]))})
    found = evaluate(state["features"], asked, np.asarray(labels["moment"]), {"events": frame})
    seconds = time.perf_counter() - start
    assert found.values.rows == LABELS
    return seconds


def floor(state: dict[str, Any]) -> float:
    folder = state["folder"]
    start = time.perf_counter()
    found = (
        state["connection"]
        .execute(
            f"WITH events AS (SELECT * FROM '{folder}/events.parquet' "
            "QUALIFY row_number() OVER (PARTITION BY key, moment) = 1), "
            f"labels AS (SELECT *, row_number() OVER () AS n FROM '{folder}/labels.parquet') "
            f"SELECT {', '.join(f'e.{c}' for c in COLUMNS)} FROM labels l "
            "ASOF LEFT JOIN events e ON l.key = e.key AND l.moment > e.moment ORDER BY l.n"
        )
        .fetchnumpy()
    )
    seconds = time.perf_counter() - start
    assert len(found["x0"]) == LABELS
    return seconds
