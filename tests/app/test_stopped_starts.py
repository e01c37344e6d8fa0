"""`trimtab serve` that is told to end while it starts: it ends, whenever that comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import shop

import forked

ONE = ("--as-of", "2024-04-10")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from trimtab.cli import main; main()", "serve", "--port", "0", "--json"]
    return forked.Popen(
        [*command, *arguments],
        cwd=folder,
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped(folder: Path, arguments: tuple[str, ...], points: int, numbers: tuple[signal.Signals, ...]) -> list[Any]:
    """Starts that did not end as they should, of those that were told to at evenly spread points of a start."""
    begun_s = monotonic()
    process = start(folder, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline()
    took_s = monotonic() - begun_s
    process.terminate()
    process.communicate(timeout=60)
    wrong = []
    for point in range(points):
        number = numbers[point % len(numbers)]
        process = start(folder, *arguments)
        with suppress(subprocess.TimeoutExpired):  # it starts meanwhile
            process.wait(took_s * 1.1 * point / points)
        os.kill(process.pid, number)
        try:
            said = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[1] + "STILL THERE"
        if process.returncode not in (0, 143, -number) or "Traceback" in said.replace("KeyboardInterrupt", ""):
            wrong.append((point / points, process.returncode, said))
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [ONE, (*ONE, "--workers", "2")], ids=["one process", "workers"])
def test_a_start_that_is_told_to_end_ends(trained: Path, arguments: tuple[str, ...]) -> None:
    assert stopped(trained, arguments, 3, (signal.SIGTERM,)) == []


@pytest.mark.soak
def test_hundreds_of_starts_that_are_told_to_end_end(trained: Path, soak_report: Any) -> None:
    runs = 200
    wrong = stopped(trained, ONE, runs // 2, (signal.SIGTERM, signal.SIGHUP))
    wrong += stopped(trained, (*ONE, "--workers", "2"), runs // 2, (signal.SIGTERM, signal.SIGHUP))
    soak_report("stopped_starts", runs=runs, failures=len(wrong))
    assert wrong == []
