"""Store a fitted model, register it and point an alias to it; the floor writes the same bytes and rows by hand."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import _model
import msgspec

from trimtab.core.clock import SystemClock
from trimtab.core.hashing import bytes_hash
from trimtab.registry import Registry
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training.fitting.artifact import encode_artifact

NAME = "store_version"
TARGET = "ratio <= 1.5"
UNIT = "ms"
BETTER = "lower"
_TIMES = 15


def setup(folder: Path) -> dict[str, Any]:
    catalog, blob = SqlCatalog.sqlite(folder / "catalog.db"), FileBlob(folder / "blobs")
    by_hand = sqlite3.connect(folder / "floor.db", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        by_hand.execute(f"PRAGMA {pragma}")
    by_hand.execute("CREATE TABLE version (id TEXT PRIMARY KEY, body BLOB)")
    by_hand.execute("CREATE TABLE alias (name TEXT PRIMARY KEY, id TEXT)")
    by_hand.execute("CREATE TABLE history (id INTEGER PRIMARY KEY, body BLOB)")
    (folder / "floor").mkdir()
    return {
        "folder": folder,
        "registry": Registry(catalog, blob, clock=SystemClock(), actor="benchmark"),
        "training_set": blob.put(b"{}"),
        "by_hand": by_hand,
        "fitted": _model.fitted(),
        "count": 0,
    }


def ours(state: dict[str, Any]) -> float:
    registry = state["registry"]
    took = []
    for fitted in _distinct(state):
        start = time.perf_counter()
        registry.register(fitted, training_set=state["training_set"], alias="challenger")
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e3


def floor(state: dict[str, Any]) -> float:
    folder, by_hand = state["folder"] / "floor", state["by_hand"]
    took = []
    for fitted in _distinct(state):
        start = time.perf_counter()
        digest = hashlib.sha256(fitted.data).hexdigest()
        _durable(folder, digest, fitted.data)
        by_hand.execute("BEGIN")
        by_hand.execute("INSERT INTO version VALUES (?, ?)", (digest, b"x" * 1_000))
        by_hand.execute("INSERT OR REPLACE INTO alias VALUES ('challenger', ?)", (digest,))
        by_hand.execute("INSERT INTO history (body) VALUES (?)", (b"x" * 300,))
        by_hand.execute("COMMIT")
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e3


def _distinct(state: dict[str, Any]) -> list[Any]:
    """Models of the same size and another content."""
    out = []
    for _ in range(_TIMES):
        state["count"] += 1
        artifact = msgspec.structs.replace(state["fitted"].artifact, kind=f"kind{state['count']:06d}")
        data = encode_artifact(artifact)
        out.append(msgspec.structs.replace(state["fitted"], artifact=artifact, data=data, digest=bytes_hash(data)))
    return out


def _durable(folder: Path, name: str, data: bytes) -> None:
    path = folder / f"{name}.new"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(handle, data)
    os.fsync(handle)
    os.close(handle)
    os.rename(path, folder / name)
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
