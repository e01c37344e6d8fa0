"""`project.tick()` with nothing due at 10,000,000 logged predictions, each with a label: milliseconds in a new process.

The floor is the same at 500,000 predictions. The start of Python and the imports are printed apart.
"""

from __future__ import annotations

from pathlib import Path

from _big_project import FEW, Projects

NAME = "door_tick"
TARGET = "ours <= 2000"
UNIT = "ms"
BETTER = "lower"
PREDICTIONS = 10_000_000


def setup(folder: Path) -> Projects:
    return Projects(folder, "tick", PREDICTIONS)


def ours(projects: Projects) -> float:
    return projects.verb_ms(PREDICTIONS)


def floor(projects: Projects) -> float:
    return projects.verb_ms(FEW)
