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

Run = Callable[..., subprocess.CompletedProcess[str]]
BEGIN = dt.datetime.now(dt.UTC).replace(hour=10, minute=0, second=0, microsecond=0) - dt.timedelta(days=105)
COMMAND = [sys.executable, "-c", "from trimtab.cli import main; main()"]


def clean_environment(**more: str) -> dict[str, str]:
    """The tests' environment without settings of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    return {**kept, "COLUMNS": "100", "PYTHONWARNINGS": "ignore", **more}


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def churn_rows(n: int = 400) -> tuple[list[str], list[list[Any]]]:
    """Customers, one row each: two classes as yes and no."""
    chance = random.Random(1)
    rows = []
    for i in range(n):
        at = BEGIN + dt.timedelta(hours=6 * i)
        fee = round(chance.uniform(5, 99), 2)
        plan = chance.choice(["basic", "pro", "team"])
        gone = "yes" if chance.random() < (0.7 if fee > 60 else 0.2) else "no"
        rows.append([f"{i:05}", at.strftime("%Y-%m-%d %H:%M"), fee if i % 9 else "", plan, gone])
    return ["Customer ID", "Signed Up", "Monthly Fee", "class", "churned"], rows
