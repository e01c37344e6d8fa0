"""Seven aggregates over four windows of a million Zipf events, for 200,000 labels, from Parquet to a table: seconds.

The floor is Polars' `rolling` over events and labels together, grouped by the key. Its sums are not exact, and it knows
no late events, corrections or reasons.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

NAME = "door_windows"
TARGET = "ratio <= 1"
UNIT = "s"
BETTER = "lower"

EVENTS, LABELS, KEYS, DAYS = 1_000_000, 200_000, 100_000, 90
DAY_US = 86_400_000_000
FIRST_US = 1_700_000_000_000_000
SPANS = ("1h", "1d", "7d", "30d")
_PROJECT = """
import trimtab as tt

sales = tt.source("sales", time="at", columns={"key": int, "x": float})
features = {}
for over in ("1h", "1d", "7d", "30d"):
    how = {"over": over, "hop": 0}
    features |= {
        f"count_{over}": tt.count(**how), f"sum_{over}": tt.sum("x", **how), f"mean_{over}": tt.mean("x", **how),
        f"min_{over}": tt.min("x", **how), f"max_{over}": tt.max("x", **how), f"std_{over}": tt.std("x", **how),
        f"high_{over}": tt.count(where=tt.col("x") > 60.0, **how),
    }
busy = tt.view("busy", source=sales, by="key", features=features)
"""


class Windows:
    """A project, and the files of events and of labels."""

    def __init__(self, folder: Path) -> None:
        import polars as pl

        import trimtab as tt

        (folder / "project.py").write_text(_PROJECT)
        (folder / "trimtab.toml").write_text("")
        self.events, self.labels = folder / "events.parquet", folder / "labels.parquet"
        chance = np.random.default_rng(11)
        share = np.cumsum(1.0 / np.arange(1, KEYS + 1) ** 1.1)
        keys = chance.permutation(KEYS + 1)[np.searchsorted(share / share[-1], chance.random(EVENTS + LABELS))]
        at = FIRST_US + np.sort(chance.integers(0, DAYS * DAY_US, EVENTS))
        asked_at = FIRST_US + np.sort(chance.integers(DAY_US, DAYS * DAY_US, LABELS))
        moment = pl.col("at").cast(pl.Datetime("us", "UTC"))
        events = {"key": keys[:EVENTS], "at": at, "x": chance.normal(50.0, 10.0, EVENTS)}
        pl.DataFrame(events).with_columns(moment).write_parquet(self.events)
        pl.DataFrame({"key": keys[EVENTS:], "at": asked_at}).with_columns(moment).write_parquet(self.labels)
        self.project = tt.open(folder)
        self._compare()

    def close(self) -> None:
        self.project.close()

    def join(self) -> Any:
        return self.project.join(self.labels, "busy", at="at", events={"sales": self.events})

    def _compare(self) -> None:
        """Check that both sides give the same values, except that Polars rounds its sums more than once."""
        found, expected = self.join(), by_hand(self.events, self.labels)
        for name in expected.columns:
            values = np.nan_to_num(expected[name].to_numpy().astype(float))
            close = np.isclose(np.nan_to_num(found[f"busy.{name}"].values), values, rtol=1e-6, atol=1e-4)
            assert close.all(), (name, int((~close).sum()))


def by_hand(events: Path, labels: Path) -> Any:
    import polars as pl

    happened = pl.scan_parquet(events)
    asked = pl.scan_parquet(labels).with_row_index("n")
    both = pl.concat([happened, asked], how="diagonal").sort("key", "at").collect()
    x = pl.col("x")
    parts = [both.select("n")]
    for over in SPANS:
        wanted = {"count": x.count(), "sum": x.sum(), "mean": x.mean(), "min": x.min(), "max": x.max(), "std": x.std()}
        wanted |= {"high": (x > 60.0).sum()}
        rolling = both.rolling("at", period=over, closed="left", group_by="key")
        parts.append(rolling.agg(value.alias(f"{name}_{over}") for name, value in wanted.items()).drop("key", "at"))
    return pl.concat(parts, how="horizontal").filter(pl.col("n").is_not_null()).sort("n").drop("n")


def setup(folder: Path) -> Windows:
    return Windows(folder)


def ours(windows: Windows) -> float:
    start = time.perf_counter()
    found = windows.join()
    seconds = time.perf_counter() - start
    assert len(found) == LABELS
    return seconds


def floor(windows: Windows) -> float:
    start = time.perf_counter()
    found = by_hand(windows.events, windows.labels)
    seconds = time.perf_counter() - start
    assert found.height == LABELS
    return seconds
