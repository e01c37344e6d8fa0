"""Small files, and the command as a process of its own."""

from __future__ import annotations

import csv
import datetime as dt
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-c", "from trimtab.cli import main; main()"]


def clean_environment(**more: str) -> dict[str, str]:
    """The tests' environment without settings of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    return {**kept, "COLUMNS": "100", "PYTHONWARNINGS": "ignore", **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `trimtab` with arguments in a process of its own, in the test's folder."""

    def run_command(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=cwd or tmp_path,
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run_command


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def churn_rows(n: int = 400) -> tuple[list[str], list[list[Any]]]:
    """Customers, one row each: two classes as yes and no."""
    chance = random.Random(1)
    rows = []
    for i in range(n):
        at = dt.datetime(2024, 1, 31, 10) + dt.timedelta(hours=6 * i)
        fee = round(chance.uniform(5, 99), 2)
        plan = chance.choice(["basic", "pro", "team"])
        gone = "yes" if chance.random() < (0.7 if fee > 60 else 0.2) else "no"
        rows.append([f"{i:05}", at.strftime("%Y-%m-%d %H:%M"), fee if i % 9 else "", plan, gone])
    return ["Customer ID", "Signed Up", "Monthly Fee", "class", "churned"], rows


@pytest.fixture
def churn_csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "churn.csv", *churn_rows())
