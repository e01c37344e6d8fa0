"""The project of the stored state: its times, its requests, how it is unpacked and opened."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, parse_time_us

HERE = Path(__file__).parent
ARCHIVE = HERE / "state.tar.xz"
BEGIN_US = parse_time_us("2024-03-01T00:00:00Z")
DAYS = 27  # of history
T0_US = BEGIN_US + DAYS * DAY_US  # the end of history, the first training
END_US = T0_US + 11 * DAY_US  # when the state was packed
ENVIRONMENT = {"TRIMTAB_TRAINING_EXECUTOR": "thread"}


def unpacked(folder: Path) -> Path:
    """The project as it was packed."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # older Pythons 3.11 have none
        archive.extractall(folder)
    return folder


def open_at(folder: Path, now_us: int = END_US) -> tt.Project:
    """The project at a time that stands still."""
    return tt.open(folder, clock=VirtualClock(now_us), environment=ENVIRONMENT)


def move(project: tt.Project, us: int) -> None:
    """Move the project's clock on."""
    clock = project.clock
    assert isinstance(clock, VirtualClock)
    clock.advance_to(clock.now_us() + us)


def visits(prefix: str, from_us: int, until_us: int, count: int) -> list[dict[str, Any]]:
    """Requests, the same for the same arguments; x is a number of sixteenths."""
    rng = np.random.default_rng([count, from_us // DAY_US])
    at_us = np.sort(rng.integers(from_us, until_us + 1, count)).tolist()
    return [
        {
            "visit_id": f"{prefix}_{n}",
            "site": ("north", "south")[int(rng.integers(0, 2))],
            "at": at_us[n],
            "x": float(rng.integers(-32, 33)) / 16,
            "pages": int(rng.integers(1, 25)),
        }
        for n in range(count)
    ]
