"""Backfills of histories beyond memory: how much memory they take, and what kills at any moment leave."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import shop

ROOT = Path(__file__).parents[2]
CHILD = """
import json, sys, time
from pathlib import Path
from trimtab.app import open_project

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
begin = time.monotonic()
with open_project(folder / "project", environment={}) as project:
    made = project.join(folder / "requests" / "asked.parquet", "customer", at="asked_at", as_known=sys.argv[3],
        events={"spending": folder / "events"}, out=out)
# Not `ru_maxrss`: over an exec it keeps the peak of the process before, which here is a whole test run.
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"parts": made.parts, "rows": made.rows, "peak_bytes": peak, "s": time.monotonic() - begin}))
"""


def history(folder: Path, monkeypatch: pytest.MonkeyPatch, *, events: int, requests: int, memory_bytes: int) -> Path:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _backfill

    _backfill.write_project(folder / "project", f"[features]\nmemory_bytes = {memory_bytes}\n")
    _backfill.write_events(folder / "events", events, keys=max(1_000, events // 500))
    _backfill.write_requests(folder / "requests" / "asked.parquet", requests, keys=max(1_000, events // 500))
    return folder


def begun(folder: Path, out: Path, as_known: str = "then") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(folder), str(out), as_known]
    return subprocess.Popen(
        command, env=shop.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=1_000)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def test_half_a_million_events_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = history(tmp_path, monkeypatch, events=500_000, requests=20_000, memory_bytes=256 << 20)
    made = ended(begun(folder, tmp_path / "out.parquet"))
    assert (made["rows"], made["parts"] > 4) == (20_000, True)
    assert made["peak_bytes"] < 512 << 20


@pytest.mark.soak
def test_fifty_million_events_fit_into_four_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak_report: Callable[..., None]
) -> None:
    folder = history(tmp_path, monkeypatch, events=50_000_000, requests=2_000_000, memory_bytes=4 << 30)
    made = ended(begun(folder, tmp_path / "out.parquet"))
    soak_report(
        "backfill_memory",
        runs=1,
        failures=int(made["peak_bytes"] > 4 << 30),
        peak_bytes=made["peak_bytes"],
        events_per_s=50_000_000 / made["s"],
    )
    assert made["rows"] == 2_000_000
    assert made["peak_bytes"] <= 4 << 30


def kills(folder: Path, out: Path, times: int, seed: int, lasts_s: float) -> int:
    """Kill runs at random moments of their time until one ends by itself; how many were killed."""
    chance = random.Random(seed)
    for killed in range(times):
        process = begun(folder, out, "final")
        time.sleep(lasts_s * chance.uniform(0.1, 0.5))
        if process.poll() is not None:
            ended(process)
            return killed
        process.kill()
        process.communicate()
        if out.exists():  # it was done, and about to end
            return killed + 1
    ended(begun(folder, out, "final"))
    return times


def check_kills(folder: Path, rounds: int, times: int) -> tuple[int, int]:
    """How many runs were killed, and how many rounds gave another file than an undisturbed run."""
    begin_s = time.monotonic()
    ended(begun(folder, folder / "undisturbed.parquet", "final"))
    lasts_s = time.monotonic() - begin_s
    killed = wrong = 0
    for n in range(rounds):
        out = folder / f"killed-{n}.parquet"
        killed += kills(folder, out, times, n, lasts_s)
        wrong += out.read_bytes() != (folder / "undisturbed.parquet").read_bytes()
    return killed, wrong


@pytest.mark.slow
def test_killed_backfills_end_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = history(tmp_path, monkeypatch, events=200_000, requests=5_000, memory_bytes=256 << 20)
    killed, wrong = check_kills(folder, rounds=1, times=2)
    assert (killed > 0, wrong) == (True, 0)


@pytest.mark.soak
def test_many_killed_backfills_end_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soak_report: Callable[..., None]
) -> None:
    folder = history(tmp_path, monkeypatch, events=2_000_000, requests=200_000, memory_bytes=256 << 20)
    killed, wrong = check_kills(folder, rounds=10, times=10)
    soak_report("backfill_kills", runs=killed, failures=wrong)
    assert (killed >= 20, wrong) == (True, 0)
