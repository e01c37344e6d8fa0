"""The memory of a loop that closes a day does not grow with the labels that came while the day waited."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import block_process
import msgspec
import numpy as np
import pytest
import shop
from test_block_kills import PROJECT, prepared

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction
from trimtab.core.time import DAY_US
from trimtab.testing.builders import a_prediction

MOST_BYTES = 500 << 20
PIECE = 20_000
NOW_US = block_process.NOW_US
CLOSE = """
import json, sys
from pathlib import Path
import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.monitoring.quality.quality_days import stored_days

folder, begin_us, now_us = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
settings = {"TRIMTAB_FEATURES_MEMORY_BYTES": str(256 << 20), "TRIMTAB_TRAINING_EXECUTOR": "thread"}
with tt.open(folder, clock=VirtualClock(now_us), environment=settings) as project:
    project.tick()
    (day,) = stored_days(project.state.catalog, "one", from_us=begin_us)
    found = {"labelled": day.whole.labelled, "in_memory": project.in_memory()}
# Not `ru_maxrss`: over an exec it keeps the peak of the process before, which here is a whole test run.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({**found, "peak_bytes": peak}))
"""


def prediction(n: int, at_us: int, version: str) -> Prediction:
    request = msgspec.msgpack.encode([f"v{n}", at_us, 0.5, "north"])
    about = {"model": "one", "version": version, "made_at_us": at_us, "at_us": at_us, "request": request}
    return a_prediction(id=f"p_{n}", request_id=f"v{n}", score=0.4, **about)


def prolong(folder: Path, days: range, rows: int) -> None:
    """Add as many predictions on each of some days, and their labels; the wait for them ends with these days."""
    (folder / "project.py").write_text(PROJECT.replace('wait="1d"', f'wait="{days.stop}d"'))
    clock = VirtualClock(NOW_US + days.start * DAY_US)
    with tt.open(folder, clock=clock, environment={}) as project:
        version = project.registry.alias("one", "champion")
        assert version is not None
        for first in range(days.start * rows, days.stop * rows, PIECE):
            numbers = range(first, min(first + PIECE, days.stop * rows))
            times = [NOW_US + n * DAY_US // rows for n in numbers]
            clock.advance_to(times[-1])
            made = [prediction(n, at_us, version.id) for n, at_us in zip(numbers, times, strict=True)]
            project.predictions.append(made, at_us=times)
            bought = (np.array(numbers) % 3 == 0).astype(float).tolist()
            labels = {
                "id": ("str", [f"v{n}" for n in numbers]), "closed_at": ("time", times), "bought": ("float", bought),
            }  # fmt: skip
            project.push("sales", Columns.of(labels))  # type: ignore[arg-type]  # dtypes are literals


def peak_bytes(folder: Path, days: int, rows: int) -> int:
    """The peak memory of a process that closes the first of some days, in a copy of the project."""
    closed = shutil.copytree(folder, folder.with_name("closed"))
    command = [sys.executable, "-c", CLOSE, str(closed), str(NOW_US)]
    done = subprocess.run(
        [*command, str(NOW_US + (days + 1) * DAY_US)], env=shop.environment(), capture_output=True, text=True,
        timeout=3_000,
    )  # fmt: skip
    shutil.rmtree(closed)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["labelled"], found["in_memory"]) == (rows, False)
    return int(found["peak_bytes"])


@pytest.mark.slow
def test_a_longer_wait_takes_no_more_memory(tmp_path: Path) -> None:
    folder, rows, peaks = prepared(tmp_path / "p"), 50_000, []
    for days in (range(3), range(3, 5)):
        prolong(folder, days, rows)
        peaks.append(peak_bytes(folder, days.stop, rows))
    assert max(peaks) < MOST_BYTES
    assert peaks[1] - peaks[0] < 20 << 20  # 100,000 labels more; in memory they would take 41 MB


@pytest.mark.soak
def test_waits_of_thirty_days_stay_below_500_mb(tmp_path: Path, soak_report: Callable[..., None]) -> None:
    """`pytest -m soak tests/app/test_label_memory.py`."""
    peaks = {}
    for rows in (10_000, 30_000, 100_000):
        prolong(folder := prepared(tmp_path / str(rows)), range(30), rows)
        peaks[30 * rows] = peak_bytes(folder, 30, rows)
    print({labels: f"{peak >> 20} MB" for labels, peak in peaks.items()})
    over = sum(peak > MOST_BYTES for peak in peaks.values())
    figures = {f"peak_bytes_of_{labels}_labels": float(peak) for labels, peak in peaks.items()}
    soak_report("label_memory", runs=len(peaks), failures=over, **figures)
    assert over == 0
