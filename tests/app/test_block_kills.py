"""Quality blocks are written once and for good, wherever the process that writes them is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import block_process
import msgspec
import pytest

import forked
import trimtab as tt
from indexed_labels import IndexedLabels
from trimtab.app.data.recent_events import RecentEvents
from trimtab.app.features.source_counts import read_counts
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.time import DAY_US
from trimtab.features.labels import LabelIndex
from trimtab.feedback.blocks import DayBlocks
from trimtab.feedback.open_days import OpenDays
from trimtab.feedback.outcomes import OutcomeJoin
from trimtab.feedback.slices import RequestSlices
from trimtab.monitoring.quality.quality_days import stored_days

NOW_US = block_process.NOW_US
PROJECT = """
import trimtab as tt

visits = tt.request("visits", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float, "site": str})
sales = tt.source("sales", key="id", time="closed_at", columns={"id": str, "closed_at": tt.Time, "bought": float})

def linear():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()

one = tt.model("one", request=visits, features=[{"x": tt.col("x")}], metric="log_loss", estimator=linear,
    label=tt.label(sales, key="id", value=tt.col("bought"), wait="1d"))
tt.deployment(one, gate=tt.beats_champion(calibration=0.2, slices={
    "northern": tt.col("site") == "north", "side": tt.when(tt.col("site") == "east", "right", "left")}))
"""


def table(rows: list[dict[str, Any]], columns: dict[str, Dtype]) -> Columns:
    return Columns.of({name: (dtype, [row[name] for row in rows]) for name, dtype in columns.items()})


def prepared(folder: Path) -> Path:
    folder.mkdir()
    (folder / "trimtab.toml").write_text("")
    (folder / "project.py").write_text(PROJECT)
    with tt.open(folder, clock=VirtualClock(NOW_US), environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"}) as project:
        rng = random.Random(1)
        rows = [
            {"id": f"h{n}", "at": NOW_US - 40 * DAY_US + n * DAY_US // 48, "x": rng.gauss(0, 1), "site": "north"}
            for n in range(48 * 40)
        ]
        project.ingestor.load(
            "visits", table(rows, {"id": "str", "at": "time", "x": "float", "site": "str"}), history=True
        )
        labels = [
            {"id": one["id"], "closed_at": one["at"] + 1, "bought": float(rng.random() < 0.5 + one["x"] / 8)}
            for one in rows
        ]
        project.ingestor.load(
            "sales", table(labels, {"id": "str", "closed_at": "time", "bought": "float"}), history=True
        )
        project.tick()
        assert project.registry.alias("one", "champion") is not None
    return folder


def recomputed(project: tt.Project, until_us: int) -> list[DayBlocks]:
    """All days that were closed by then, from the logs alone."""
    model = project.definitions.models["one"]
    project.history.refresh()
    index = LabelIndex(model.label)
    index.update(project.history.frame("sales"))
    slices = RequestSlices(
        {"site": 3},
        4,
        named={"northern": tt.col("site") == "north", "side": tt.when(tt.col("site") == "east", "right", "left")},
        dtypes=dict(model.request.columns),
    )
    join = OutcomeJoin(IndexedLabels(index), wait_us=DAY_US, key_dtype="str", slices=slices)
    days = OpenDays("one", model.metric, join, cap=project.loop("one").monitor.loss_cap)
    for block in project.predictions.scan():
        days.add(block)
    return days.close(until_us)


def killed(folder: Path, after_s: float) -> None:
    """Let the process work for a while, and kill it."""
    script = Path(block_process.__file__)
    with forked.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            raise AssertionError(process.stderr.read())
        time.sleep(after_s)  # a random point of its work, not a wait for something
        assert process.poll() is None, process.stderr.read()
        process.kill()


def compared(folder: Path) -> int:
    """How many stored days equal the recomputation; all must."""
    with tt.open(folder, clock=VirtualClock(NOW_US), environment={}) as project:
        stored = stored_days(project.state.catalog, "one", slices=True)
        if not stored:
            return 0
        closed_until_us = project.loop("one")._loop.closed_until_us
        expected = recomputed(project, closed_until_us + DAY_US)
        bare = [msgspec.structs.replace(day, amended=None, amended_at_us=None) for day in stored]
        by_key = sorted(bare, key=lambda day: (day.day_us, day.version, day.arm))
        assert by_key == expected
        recent = RecentEvents(project).frame("sales")
        counts = read_counts(project).of("sales")
        history = project.history.frame("sales")
        since_us = int(history.known_at_us.max(initial=0)) - 20 * DAY_US  # events of six weeks before may be dropped
        newest = [frame.position[frame.known_at_us > since_us] for frame in (recent, history)]
        assert sorted(newest[0].tolist()) == sorted(newest[1].tolist())
        assert counts.events == history.rows
        return len(stored)


def campaign(folder: Path, kills: int, seed: int, *, least_days: int = 0) -> int:
    """Kill it so often, and until so many days are stored: a busy machine gets less done between two kills."""
    chance = random.Random(seed)
    found = number = 0
    while number < kills or (found < least_days and number < 10 * kills):
        killed(folder, chance.uniform(0.0, 1.5))
        number += 1
        if number % 10 == 0 or number >= kills:
            found = compared(folder)
    return found


@pytest.mark.slow
def test_blocks_equal_a_recomputation_after_kills(tmp_path: Path) -> None:
    assert campaign(prepared(tmp_path / "p"), 6, 5, least_days=3) >= 3


@pytest.mark.soak
def test_blocks_equal_a_recomputation_after_200_kills(soak_report, tmp_path: Path) -> None:
    """`pytest -m soak tests/app/test_block_kills.py`."""
    seed = random.SystemRandom().randrange(2**31)
    days = campaign(prepared(tmp_path / "p"), 200, seed)
    print(f"200 kills, seed {seed}: {days} stored days equal the recomputation")
    soak_report("block_kills", runs=200, failures=0, days=days)
    assert days > 50
