"""The training set of 200,000 requests from ingested history, against `Project.join` of the same requests: seconds.

The training set is what `Project.train` fits and judges: requests, features as of their times, labels, and the hash of
all of it. `Project.train` itself would add the fits.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

NAME = "door_training_set"
TARGET = "ratio <= 1.5"
UNIT = "s"
BETTER = "lower"

ROWS, KEYS, DAYS = 200_000, 20_000, 90
FIRST_US = 1_700_000_000_000_000
_PROJECT = """
import trimtab as tt
from sklearn.linear_model import LogisticRegression

columns = dict.fromkeys([f"x{i}" for i in range(10)], float)
visits = tt.source("visits", time="seen_at", columns={"user": int} | columns)
user = tt.view("user", source=visits, by="user", features={c: tt.latest(c) for c in columns})
ask = tt.request("ask", key="ask_id", time="at", columns={"ask_id": int, "user": int, "at": tt.Time})
bought = tt.source("bought", time="bought_at", key="ask_id", columns={"ask_id": int, "yes": bool})
model = tt.model("buys", request=ask, features=[user], estimator=LogisticRegression, metric="log_loss",
    label=tt.label(bought, key="ask_id", value="yes", wait="1d"))
"""


class Trained:
    """A project with its history, and the file of its requests."""

    def __init__(self, folder: Path) -> None:
        import polars as pl

        import trimtab as tt

        (folder / "project.py").write_text(_PROJECT)
        (folder / "trimtab.toml").write_text("")
        chance = np.random.default_rng(5)

        def moments() -> Any:
            at = FIRST_US + np.sort(chance.integers(0, DAYS * 86_400_000_000, ROWS))
            return pl.Series(at).cast(pl.Datetime("us", "UTC"))

        users = chance.integers(0, KEYS, (2, ROWS))
        values = {f"x{i}": chance.normal(size=ROWS) for i in range(10)}
        asked_at = moments()
        tables = {
            "visits": {"user": users[0], "seen_at": moments(), **values},
            "ask": {"ask_id": np.arange(ROWS), "user": users[1], "at": asked_at},
            "bought": {"ask_id": np.arange(ROWS), "bought_at": asked_at.dt.offset_by("1h"), "yes": users[1] % 2 == 0},
        }
        self.project = tt.open(folder)
        for name, columns in tables.items():
            pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
            self.project.ingest(name, folder / f"{name}.parquet")
        self.requests = folder / "ask.parquet"
        self.join_s()  # both sides find the history in memory

    def close(self) -> None:
        self.project.close()

    def join_s(self) -> float:
        start = time.perf_counter()
        found = self.project.join(self.requests, "buys")
        seconds = time.perf_counter() - start
        assert len(found) == ROWS
        return seconds

    def set_s(self) -> float:
        from trimtab.app.training.loops import Loops

        start = time.perf_counter()
        data = self.project.part(Loops).living_data()
        found = data.training_set(self.project.definitions.models["buys"], cut_us=self.project.clock.now_us())
        seconds = time.perf_counter() - start
        assert len(found.at_us) == ROWS
        return seconds


def setup(folder: Path) -> Trained:
    return Trained(folder)


def ours(trained: Trained) -> float:
    return trained.set_s()


def floor(trained: Trained) -> float:
    return trained.join_s()
