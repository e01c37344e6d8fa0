"""Events per second that are read from the log and applied to a view of latest values, durable.

Keys are Zipf 1.1 of 100,000. The records are in the log before the clock starts. The floor puts as many rows of 200
bytes under the same keys into bare LMDB, 1,000 in each synced transaction.
"""

from __future__ import annotations

from pathlib import Path

from _online import LATEST, Ingest

NAME = "apply_latest"
TARGET = "ours >= 100000"
UNIT = "events/s"
BETTER = "higher"

BATCHES = 30


def setup(folder: Path) -> Ingest:
    return Ingest(folder, LATEST)


def ours(ingest: Ingest) -> float:
    return ingest.apply(BATCHES)


def floor(ingest: Ingest) -> float:
    return ingest.put(BATCHES)
