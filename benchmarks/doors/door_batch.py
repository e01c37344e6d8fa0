"""Answer 1,000,000 requests of a Parquet file, with ten features of an entity's newest event and 100 trees: rows/s.

All answers are logged. Each turn opens the project again, so the events are read from their log as well. The floor
joins the same files by row numbers in DuckDB, gathers the columns, and calls the model on two threads; it knows neither
late events nor reasons, and logs nothing. The time to the first answers is printed after the line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightgbm
import numpy as np

import trimtab as tt
from trimtab.store.duckdb_opening import open_duckdb

NAME = "door_batch"
TARGET = "ratio >= 0.85"
UNIT = "rows/s"
BETTER = "higher"
EVENTS, REQUESTS, KEYS = 200_000, 1_000_000, 20_000
COLUMNS = [f"x{n}" for n in range(10)]
FIRST_S = 1.0  # the first answers must be logged by then
_YEAR_S = 365 * 86_400
_PROJECT = """\
import trimtab as tt

names = [f"x{n}" for n in range(10)]
values = dict.fromkeys(names, float)
readings = tt.source("readings", time="read_at", columns={"key": int, "read_at": tt.Time, **values})
asked = tt.request("asked", key="id", time="asked_at", columns={"id": str, "key": int, "asked_at": tt.Time})
told = tt.source("told", time="at", key="id", columns={"id": str, "at": tt.Time, "y": bool})
newest = tt.view("newest", source=readings, by="key", features={name: tt.latest(name) for name in names})

def trees():
    from lightgbm import LGBMClassifier
    return LGBMClassifier()

model = tt.model("scored", request=asked, features=[newest],
    label=tt.label(told, key="id", value=tt.col("y"), wait="1d"), estimator=trees, metric="log_loss")
tt.deployment(model)
"""


class Batch:
    """A project with events and an imported model, and a file of requests."""

    def __init__(self, folder: Path) -> None:
        generator = np.random.default_rng(3)
        self.folder, self.requests, self.events = folder / "p", folder / "asked.parquet", folder / "readings.parquet"
        self.first_s: list[float] = []
        self.folder.mkdir()
        (self.folder / "project.py").write_text(_PROJECT)
        (self.folder / "trimtab.toml").write_text('[project]\nname = "batch"\n')
        values = generator.normal(size=(EVENTS, len(COLUMNS)))
        y = values[:, 0] * values[:, 1] + generator.normal(size=EVENTS) > 0
        data = lightgbm.Dataset(values[:20_000], y[:20_000], feature_name=[f"newest.{name}" for name in COLUMNS])
        self.model = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 100)
        self.model.save_model(folder / "model.txt")
        golden = values[:5]
        rows = {f"newest.{name}": golden[:, n] for n, name in enumerate(COLUMNS)} | {
            "score": self.model.predict(golden)
        }
        tables = {
            self.events: {
                "key": generator.integers(0, KEYS, EVENTS),
                "read_at": np.sort(generator.integers(0, _YEAR_S, EVENTS)),
                **{name: values[:, n].copy() for n, name in enumerate(COLUMNS)},
            },
            self.requests: {
                "id": np.arange(REQUESTS),
                "key": generator.integers(0, KEYS, REQUESTS),
                "asked_at": np.sort(generator.integers(0, _YEAR_S, REQUESTS)),
            },
            folder / "golden.ndjson": rows,
        }
        times = "make_timestamptz(1000000 * (1700000000 + {}))"
        shown = {
            self.events: f"* REPLACE ({times.format('read_at')} AS read_at)",
            self.requests: f"* REPLACE ('r' || id AS id, {times.format('asked_at')} AS asked_at)",
            folder / "golden.ndjson": "*",
        }
        with open_duckdb() as connection:
            for file, columns in tables.items():
                connection.register("given", columns)
                kind = "json" if file.suffix == ".ndjson" else "parquet"
                connection.execute(f"COPY (SELECT {shown[file]} FROM given) TO '{file}' (FORMAT {kind})")
        with tt.open(self.folder) as project:
            project.ingest("readings", self.events)
            given = {"golden": folder / "golden.ndjson", "first": True, "why": "a benchmark"}
            project.import_model(folder / "model.txt", "scored", **given)


def setup(folder: Path) -> Batch:
    return Batch(folder)


def ours(batch: Batch) -> float:
    reached: list[float] = []
    with tt.open(batch.folder) as project:
        start = time.perf_counter()
        found = project.predict_table(
            "scored", batch.requests, again=True, progress=lambda done, total: reached.append(time.perf_counter())
        )
        seconds = time.perf_counter() - start
    if not found.complete or found.rows != REQUESTS:
        raise SystemExit(f"door_batch: {found.rows} rows")
    batch.first_s.append(reached[0] - start)
    return REQUESTS / seconds


def floor(batch: Batch) -> float:
    start = time.perf_counter()
    with open_duckdb() as connection:
        connection.execute("SET threads = 2")
        events = connection.execute(f"SELECT key, read_at, {', '.join(COLUMNS)} FROM '{batch.events}'").fetchnumpy()
        numbered = {"key": events["key"], "read_at": events["read_at"], "n": np.arange(EVENTS)}
        connection.register("events", numbered)
        found = connection.execute(
            f"SELECT file_row_number AS row, n FROM read_parquet('{batch.requests}', file_row_number = true) a"
            " ASOF LEFT JOIN events e ON a.key = e.key AND a.asked_at > e.read_at"
        ).fetchnumpy()
    place = np.empty(REQUESTS, np.int64)
    place[found["row"]] = np.ma.filled(found["n"], -1)
    values = np.vstack([np.column_stack([events[name] for name in COLUMNS]), np.full((1, len(COLUMNS)), np.nan)])
    scores = np.empty(REQUESTS)

    def score(rows: slice) -> None:
        scores[rows] = batch.model.predict(values[place[rows]], num_threads=1)

    with ThreadPoolExecutor(2) as threads:
        step = 50_000
        list(threads.map(score, (slice(at, at + step) for at in range(0, REQUESTS, step))))
    return REQUESTS / (time.perf_counter() - start)


def more(batch: Batch) -> Mapping[str, float]:
    return {f"first rows, s (needed {FIRST_S:g})": float(np.median(batch.first_s))}
