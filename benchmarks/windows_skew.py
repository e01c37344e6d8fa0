"""The time with Zipf keys, against that with uniform keys: one busy entity must not hold up the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _windows import data, timed

NAME = "windows_skew"
TARGET = "ratio <= 1.5"
UNIT = "s"
BETTER = "lower"

WINDOWS = ("1h", "30d")


def setup(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return data(WINDOWS, zipf=True), data(WINDOWS, zipf=False)


def ours(state: tuple[dict[str, Any], dict[str, Any]]) -> float:
    return timed(state[0])


def floor(state: tuple[dict[str, Any], dict[str, Any]]) -> float:
    return timed(state[1])
