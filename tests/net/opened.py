"""Open the project of these tests in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.time import parse_time_us

HERE = Path(__file__).parent
NOW_US = parse_time_us("2024-05-01T00:00:00Z")


def copied(folder: Path) -> Path:
    """A project folder with the definitions of `project.py` and without settings of its own."""
    shutil.copy(HERE / "project.py", folder / "project.py")
    (folder / "trimtab.toml").write_text("")
    return folder


def opened(folder: Path) -> tt.Project:
    """The project at a fixed time, which the environment does not change."""
    return tt.open(folder, clock=VirtualClock(NOW_US), environment={})
