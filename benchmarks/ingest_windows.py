"""Durable events per second in batches of 1,000 through the log into 8 windowed features; keys Zipf 1.1 of 100,000.

An event counts when it is in the log, read back from it, and in the view, each synced. The floor puts as many rows of
200 bytes under the same keys into bare LMDB.
"""

from __future__ import annotations

from pathlib import Path

from _online import WINDOWS, Ingest

NAME = "ingest_windows"
TARGET = "ours >= 50000"
UNIT = "events/s"
BETTER = "higher"

BATCHES = 30


def setup(folder: Path) -> Ingest:
    return Ingest(folder, WINDOWS)


def ours(ingest: Ingest) -> float:
    return ingest.run(BATCHES)


def floor(ingest: Ingest) -> float:
    return ingest.put(BATCHES)
