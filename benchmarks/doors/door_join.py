"""Three views of ten columns for a million labels, from Parquet files to a table by `Project.join`: seconds.

The floor is DuckDB by hand: ASOF joins of row numbers, then the columns. It knows no late events, corrections, checks
of values or reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from _labels import Joins

NAME = "door_join"
TARGET = "ratio <= 1.3"
UNIT = "s"
BETTER = "lower"


def setup(folder: Path) -> Joins:
    return Joins(folder, 1_000_000)


def ours(joins: Joins) -> float:
    return joins.ours_s()


def floor(joins: Joins) -> float:
    return joins.floor_s()


def peers(joins: Joins, python: Path) -> Mapping[str, float]:
    return joins.peers(python)
