"""The memory of a loop that closes a day: whatever number of labels came meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import label_memory
import pytest
import shop

MOST_BYTES = 500 << 20


def ran(*arguments: str) -> str:
    command = [sys.executable, label_memory.__file__, *arguments]
    done = subprocess.run(command, env=shop.environment(), capture_output=True, text=True, timeout=3_000)
    assert done.returncode == 0, done.stderr
    return done.stdout


def peak_bytes(folder: Path, days: int, rows: int) -> int:
    """The peak memory of the process that closes the first of some days."""
    ran("make", str(folder), str(days), str(rows))
    found = json.loads(ran("close", str(folder), str(days)))
    assert found["labelled"] == rows
    return int(found["peak_bytes"])


def test_a_longer_wait_takes_no_more_memory(tmp_path: Path) -> None:
    peaks = [peak_bytes(tmp_path / str(days), days, 50_000) for days in (3, 9)]
    assert max(peaks) < MOST_BYTES
    assert peaks[1] - peaks[0] < 60 << 20  # 300,000 labels more; in memory they took 125 MB


@pytest.mark.soak
def test_three_sizes_of_a_wait_of_thirty_days(tmp_path: Path, soak_report: Callable[..., None]) -> None:
    peaks = {rows: peak_bytes(tmp_path / str(rows), 30, rows) for rows in (10_000, 30_000, 100_000)}
    print({30 * rows: peak >> 20 for rows, peak in peaks.items()})
    soak_report(
        "label_memory",
        runs=len(peaks),
        failures=sum(peak > MOST_BYTES for peak in peaks.values()),
        **{f"peak_bytes_of_{30 * rows}_labels": peak for rows, peak in peaks.items()},
    )
    assert max(peaks.values()) < MOST_BYTES
