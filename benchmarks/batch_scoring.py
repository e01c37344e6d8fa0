"""A table of 100,000 requests scored in a batch: ten features of an entity's newest event, 100 trees, all logged.

The floor is a bare DuckDB ASOF JOIN of the same events, fetched as NumPy arrays, and the model's own predict: it knows
neither late events nor reasons, and logs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from trimtab import store
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Column, Columns
from trimtab.events.columns.frames import NEVER_US, EventFrame
from trimtab.events.definitions import source
from trimtab.features.aggregates import latest
from trimtab.features.definitions import request, view
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import feature_set
from trimtab.serving.answer.batch import score_table
from trimtab.serving.answer.inputs import OfflineInputs
from trimtab.serving.answer.served import ServedVersion
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.training.runtimes import runtime_named

NAME = "batch_scoring"
TARGET = "ratio >= 0.67"
UNIT = "rows/s"
BETTER = "higher"

EVENTS, REQUESTS, KEYS = 200_000, 100_000, 20_000
COLUMNS = [f"x{i}" for i in range(10)]
YEAR_US = 365 * 86_400_000_000


class Scoring:
    """Events, requests and a model, and a fresh log for every turn."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(3)
        self.folder, self.turns = folder, count()
        self.at = np.sort(rng.integers(0, YEAR_US, EVENTS))
        self.key = rng.integers(0, KEYS, EVENTS)
        self.values = rng.normal(size=(EVENTS, len(COLUMNS)))
        self.asked_at = np.sort(rng.integers(0, YEAR_US, REQUESTS))
        self.asked_key = rng.integers(0, KEYS, REQUESTS)
        y = self.values[:, 0] * self.values[:, 1] + rng.normal(size=EVENTS) > 0
        fitted = lightgbm.LGBMClassifier(n_estimators=100, n_jobs=1, verbose=-1).fit(self.values[:20_000], y[:20_000])
        self.scorer = runtime_named("lightgbm").load(fitted.booster_.model_to_string().encode())
        events = source("events", time="at", columns={"key": int} | dict.fromkeys(COLUMNS, float))
        newest = view("newest", source=events, by="key", features={c: latest(c) for c in COLUMNS})
        ask = request("ask", key="id", time="asked_at", columns={"id": str, "key": int})
        features = feature_set(ask, [newest])
        table = {"key": Column("int", self.key), "at": Column("time", self.at)}
        table |= {c: Column("float", self.values[:, n].copy()) for n, c in enumerate(COLUMNS)}
        frame = EventFrame(
            "events", Columns(table), self.at, self.at, np.full(EVENTS, NEVER_US), np.zeros(EVENTS, bool),
            np.zeros(EVENTS, np.int16), np.arange(EVENTS), ("p0",),
        )  # fmt: skip

        def snapshot(upto: Mapping[str, int] | None) -> Any:
            return {"events": frame}, {"p0": EVENTS}

        self.inputs = OfflineInputs(features, Encoding(dtypes=features.dtypes, vocabularies={}), snapshot)
        self.served = ServedVersion(model="m", version="0" * 64, label="m@1", arm="champion", inputs=features.names)
        names = np.array([f"r{n}" for n in range(REQUESTS)], object)
        self.requests = Columns(
            {
                "id": Column("str", names),
                "key": Column("int", self.asked_key),
                "asked_at": Column("time", self.asked_at),
            }
        )


def setup(folder: Path) -> Scoring:
    return Scoring(folder)


def ours(scoring: Scoring) -> float:
    clock = VirtualClock(2 * YEAR_US)
    turn = scoring.folder / str(next(scoring.turns))
    log = PredictionLog(store.open(f"sqlite://{turn}/log", "log", clock=clock))
    catalog = store.open(f"sqlite://{turn}/catalog.db", "catalog", clock=clock)
    start = time.perf_counter()
    manifest = score_table(
        scoring.served,
        scoring.requests,
        scoring.asked_at,
        inputs=scoring.inputs,
        scorer=scoring.scorer,
        log=log,
        catalog=catalog,
        clock=clock,
    )
    seconds = time.perf_counter() - start
    assert manifest.complete
    log.close()
    catalog.close()
    return REQUESTS / seconds


def floor(scoring: Scoring) -> float:
    import duckdb

    connection = duckdb.connect()
    events = {"key": scoring.key, "moment": scoring.at}
    events |= {c: scoring.values[:, n].copy() for n, c in enumerate(COLUMNS)}
    labels = {"key": scoring.asked_key, "moment": scoring.asked_at, "n": np.arange(REQUESTS)}  # noqa: F841  # DuckDB finds it by name
    start = time.perf_counter()
    found = connection.execute(
        f"SELECT {', '.join(f'e.{c}' for c in COLUMNS)} FROM labels l "
        "ASOF LEFT JOIN events e ON l.key = e.key AND l.moment > e.moment ORDER BY l.n"
    ).fetchnumpy()
    matrix = np.column_stack([np.ma.filled(found[c], np.nan) for c in COLUMNS])
    scores = scoring.scorer.predict(matrix)
    seconds = time.perf_counter() - start
    assert len(scores) == REQUESTS
    return REQUESTS / seconds
