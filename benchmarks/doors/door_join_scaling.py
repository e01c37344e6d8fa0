"""How many times as long ten times as many labels and events take in `Project.join`, at worst: 50,000 to 5,000,000."""

from __future__ import annotations

from pathlib import Path

from _labels import Joins

NAME = "door_join_scaling"
TARGET = "ours <= 11"
UNIT = "times"
BETTER = "lower"

SIZES = (50_000, 500_000, 5_000_000)


class Sizes:
    """The same join in three sizes."""

    def __init__(self, folder: Path) -> None:
        self.joins = [Joins(folder / str(rows), rows) for rows in SIZES]

    def close(self) -> None:
        for joins in self.joins:
            joins.close()


def setup(folder: Path) -> Sizes:
    return Sizes(folder)


def ours(sizes: Sizes) -> float:
    small, middle, large = (joins.ours_s() for joins in sizes.joins)
    return max(middle / small, large / middle)
