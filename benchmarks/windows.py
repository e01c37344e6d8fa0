"""Seven aggregates over four windows of five million events with Zipf keys, for half a million rows.

The floor is a bare float64 kernel over the same arrays: sort by key and time, find the edges of each window, take
differences of inexact prefix sums, and doubling tables for the smallest and the greatest; no nulls, no late events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _windows import bare, data, timed

NAME = "windows"
TARGET = "ratio <= 2"
UNIT = "s"
BETTER = "lower"

WINDOWS = ("1h", "1d", "7d", "30d")


def setup(folder: Path) -> dict[str, Any]:
    return data(WINDOWS, zipf=True)


ours = timed
floor = bare
