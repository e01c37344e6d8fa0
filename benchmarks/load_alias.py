"""Load the model an alias points to, its bytes verified, ready to score; the floor does that by hand.

Both parse the model through the C interface of LightGBM.
"""

from __future__ import annotations

import hashlib
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import _model

from trimtab.core.clock import SystemClock
from trimtab.registry import Registry
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training.runtimes.boosters.lightgbm_booster import Booster

NAME = "load_alias"
TARGET = "ratio <= 1.5"
UNIT = "ms"
BETTER = "lower"
_TIMES = 15


def setup(folder: Path) -> dict[str, Any]:
    catalog, blob = SqlCatalog.sqlite(folder / "catalog.db"), FileBlob(folder / "blobs")
    registry = Registry(catalog, blob, clock=SystemClock(), actor="benchmark")
    fitted = _model.fitted()
    version = registry.register(fitted, training_set=blob.put(b"{}"))
    registry.move(fitted.model, "champion", version, why="the only version of a benchmark", first=True)
    text = fitted.artifact.estimator
    digest = hashlib.sha256(text).hexdigest()
    (folder / digest).write_bytes(text)
    by_hand = sqlite3.connect(folder / "floor.db", isolation_level=None)
    by_hand.execute("PRAGMA journal_mode = WAL")
    by_hand.execute("CREATE TABLE alias (name TEXT PRIMARY KEY, id TEXT)")
    by_hand.execute("INSERT INTO alias VALUES ('champion', ?)", (digest,))
    return {"folder": folder, "registry": registry, "model": fitted.model, "by_hand": by_hand}


def ours(state: dict[str, Any]) -> float:
    took = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        state["registry"].load(f"{state['model']}@champion")
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e3


def floor(state: dict[str, Any]) -> float:
    took = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        (digest,) = state["by_hand"].execute("SELECT id FROM alias WHERE name = 'champion'").fetchone()
        data = (state["folder"] / digest).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise SystemExit("load_alias: the floor's file is damaged")
        Booster(data)
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e3
