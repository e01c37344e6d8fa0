"""Push one event, durably, and see it in a feature of the next prediction, in one process: pairs per second.

Ours is `project.push` of one event and `project.predict` of one request (its log is relaxed: only the push is timed for
durability) of a model whose score is the value that was pushed. The floor is the same by hand: one SQLite transaction,
synced, inserts the event and replaces the row of the latest value; a query reads it.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import trimtab as tt
from trimtab.app.project import Project
from trimtab.core.columns.data import Columns

NAME = "door_push_one"
TARGET = "ours >= 2000"
UNIT = "pushes/s"
BETTER = "higher"

PUSHES = 1_000
KEYS = 100
LEVELS = 17
TYPES = {"visit_id": "str", "site": "str", "at": "time", "level": "float", "ok": "bool"}
TYPES |= {"read_at": "time", "closed_at": "time"}
PROJECT = """
import trimtab as tt
from sklearn.linear_model import LinearRegression

readings = tt.source("readings", time="read_at", columns={"site": str, "level": float, "ok": bool})
results = tt.source("results", time="closed_at", key="visit_id", columns={"visit_id": str, "level": float})
visit = tt.request("visit", key="visit_id", time="at", columns={"visit_id": str, "site": str, "at": tt.Time})
site = tt.view("site", source=readings, by="site", features={"level": tt.latest("level")})
model = tt.model("echo", request=visit, features=[site],
    label=tt.label(results, key="visit_id", value=tt.col("level"), wait="1d"),
    estimator=LinearRegression, metric="squared_error")
tt.deployment(model, retrain=tt.every("30d"), gate=tt.beats_champion(margin=0.0))
"""


class Pushing:
    """A project whose model gives back the newest value of a site, and the same by hand in one SQLite file."""

    def __init__(self, folder: Path) -> None:
        place = folder / "project"
        place.mkdir()
        (place / "project.py").write_text(PROJECT)
        (place / "trimtab.toml").write_text('[serve]\nlog = "relaxed"\n')
        self.project = _trained(place)
        self.number = 0
        self._bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
        for line in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE event (position INTEGER PRIMARY KEY, payload BLOB)",
            "CREATE TABLE latest (site TEXT PRIMARY KEY, level REAL, read_at INTEGER)",
        ):
            self._bare.execute(line)

    def close(self) -> None:
        self.project.close()
        self._bare.close()

    def per_second(self, pair: Callable[[str, float], float]) -> float:
        """Pairs per second. Each pushes another value of a site, and checks that it is seen."""
        begin = time.perf_counter()
        for _ in range(PUSHES):
            self.number += 1
            level = float(self.number % LEVELS)
            seen = pair(f"site-{self.number % KEYS}", level)
            assert abs(seen - level) < 0.4, (seen, level)
        return PUSHES / (time.perf_counter() - begin)

    def ours(self, site: str, level: float) -> float:
        now_us = time.time_ns() // 1_000 - 1
        pushed = self.project.push("readings", [{"site": site, "level": level, "ok": True, "read_at": now_us}])
        assert pushed.accepted == 1
        (answer,) = self.project.predict("echo", [{"visit_id": f"v{self.number}", "site": site, "at": now_us}])
        assert isinstance(answer.score, float)
        return answer.score

    def floor(self, site: str, level: float) -> float:
        now_us = time.time_ns() // 1_000 - 1
        payload = msgspec.json.encode({"site": site, "level": level, "ok": True, "read_at": now_us})
        bare = self._bare
        bare.execute("BEGIN IMMEDIATE")
        bare.execute("INSERT INTO event (payload) VALUES (?)", (payload,))
        bare.execute(
            "INSERT INTO latest VALUES (?, ?, ?) ON CONFLICT (site) DO UPDATE SET level = excluded.level, "
            "read_at = excluded.read_at WHERE excluded.read_at >= read_at",
            (site, level, now_us),
        )
        bare.execute("COMMIT")
        (seen,) = bare.execute("SELECT level FROM latest WHERE site = ?", (site,)).fetchone()
        return float(seen)


def setup(folder: Path) -> Pushing:
    return Pushing(folder)


def ours(pushing: Pushing) -> float:
    return pushing.per_second(pushing.ours)


def floor(pushing: Pushing) -> float:
    return pushing.per_second(pushing.floor)


def _trained(folder: Path) -> Project:
    project = tt.open(folder)
    now_us, hour_us, draw = time.time_ns() // 1_000, 3_600_000_000, random.Random(1)
    hours = [(n, now_us - n * hour_us) for n in range(24 * 40, 48, -1)]
    readings = [{"site": "site-1", "level": float(n % LEVELS), "ok": True, "read_at": at} for n, at in hours]
    visits = [{"visit_id": f"h{n}", "site": "site-1", "at": at + 1} for n, at in hours]
    results = [
        {"visit_id": f"h{n}", "level": n % LEVELS + draw.gauss(0, 1), "closed_at": at + hour_us} for n, at in hours
    ]
    for source, rows in (("readings", readings), ("visit", visits), ("results", results)):
        names = list(rows[0])
        project.ingest(source, Columns.of({name: (TYPES[name], [row[name] for row in rows]) for name in names}))
    project.train("echo")
    return project
