"""A push of one event, in process, until it is safe on disk: the median.

The floor is the same record put into a bare SQLite table in WAL mode and committed with a full sync, one at a time: no
checks of the values, no checksum, no positions that others follow.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import msgspec

from trimtab.core.clock import SystemClock
from trimtab.events.definitions import source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine
from trimtab.store.sqlite.log import SqliteLog

NAME = "push_one"
TARGET = "ratio <= 1.5"
UNIT = "us"
BETTER = "lower"

PUSHES = 600
COLUMNS = {"flight_id": str, "carrier": str, "dest": str, "arr_delay": float, "distance": float, "diverted": bool}
LANDINGS = source("landings", time="landed_at", key="flight_id", columns=COLUMNS)


class Folders:
    """A fresh directory for every turn, so that no run meets a warm or grown file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turns = count()

    def fresh(self) -> Path:
        path = self._folder / str(next(self._turns))
        path.mkdir()
        return path


def setup(folder: Path) -> Folders:
    return Folders(folder)


def ours(folders: Folders) -> float:
    path = folders.fresh()
    with SqliteLog(path / "events") as log, SqliteLog(path / "quarantine") as refused:
        ingestor = Ingestor(log, [LANDINGS], clock=SystemClock(), quarantine=Quarantine(refused))
        now_us = time.time_ns() // 1_000

        def push(number: int) -> None:
            pushed = ingestor.push(
                "landings",
                [
                    {
                        "flight_id": f"2013-03-01T05:00|UA|{number}",
                        "carrier": "UA",
                        "dest": "IAH",
                        "arr_delay": 11.0,
                        "distance": 1400.0,
                        "diverted": False,
                        "landed_at": now_us,
                    }
                ],
            )
            assert pushed.accepted == 1

        return median_us(push)


def floor(folders: Folders) -> float:
    connection = sqlite3.connect(folders.fresh() / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE records (position INTEGER PRIMARY KEY, payload BLOB)")
    encode = msgspec.msgpack.Encoder().encode

    def push(number: int) -> None:
        row = (f"2013-03-01T05:00|UA|{number}", "UA", "IAH", 11.0, 1400.0, False, 1_362_114_000_000_000)
        payload = encode(("landings", row[0], row[-1], 0, "upsert", False, row))
        connection.execute("INSERT INTO records (payload) VALUES (?)", (payload,))  # commits by itself

    try:
        return median_us(push)
    finally:
        connection.close()


def median_us(push: Callable[[int], None]) -> float:
    """The median time of one call."""
    times = []
    for number in range(PUSHES):
        begin = time.perf_counter_ns()
        push(number)
        times.append(time.perf_counter_ns() - begin)
    return statistics.median(times) / 1_000
