"""Durable events per second in batches of 1,000 through the log into a view of latest values; keys Zipf 1.1 of 100,000.

An event counts when it is in the log, read back from it, and in the view, each synced. The floor puts as many rows of
200 bytes under the same keys into bare LMDB.
"""

from __future__ import annotations

from pathlib import Path

from _online import LATEST, Ingest

NAME = "ingest_latest"
TARGET = "ours >= 100000"
UNIT = "events/s"
BETTER = "higher"

BATCHES = 30


def setup(folder: Path) -> Ingest:
    return Ingest(folder, LATEST)


def ours(ingest: Ingest) -> float:
    return ingest.run(BATCHES)


def floor(ingest: Ingest) -> float:
    return ingest.put(BATCHES)
