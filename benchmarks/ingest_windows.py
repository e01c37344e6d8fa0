"""Events per second that are pushed in durable batches of 1,000 and applied to 8 windowed features.

Keys are Zipf 1.1 of 100,000. The rows are dicts. They are checked, get ids, are appended to the log, and are read from
it and applied by the thread that does so in a service. The floor does the same by hand: types checked, ids, SQLite and
LMDB, both synced.
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
    return ingest.ingest(BATCHES)


def floor(ingest: Ingest) -> float:
    return ingest.by_hand(BATCHES)
