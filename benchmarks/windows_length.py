"""The time for windows of thirty days, against that for windows of one hour: prefix sums do not care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _windows import data, timed

NAME = "windows_length"
TARGET = "ratio <= 1.3"
UNIT = "s"
BETTER = "lower"


def setup(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return data(("30d",), zipf=True), data(("1h",), zipf=True)


def ours(state: tuple[dict[str, Any], dict[str, Any]]) -> float:
    return timed(state[0])


def floor(state: tuple[dict[str, Any], dict[str, Any]]) -> float:
    return timed(state[1])
