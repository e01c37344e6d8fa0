"""A process that answers, gets labels and ticks, every four steps of its own time, until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.columns.data import Columns
from trimtab.core.records import Prediction
from trimtab.core.time import HOUR_US, parse_time_us
from trimtab.testing.builders import a_prediction

NOW_US = parse_time_us("2024-03-01T00:00:00Z")
STEP_US = 4 * HOUR_US
A_DAY = 6  # steps
A_STEP = 20  # requests
LATE = 7  # each seventh label comes two days after the wait


def asked_at(step: int) -> list[int]:
    """When the requests of a step are asked; one in ten is about a day to come, as a batch is."""
    chance = np.random.default_rng(step)
    times = NOW_US + step * STEP_US + np.sort(chance.integers(0, STEP_US, A_STEP))
    return [int(at) + (30 * HOUR_US if n % 10 == 9 else 0) for n, at in enumerate(times.tolist())]


def predictions(step: int, version: str) -> list[Prediction]:
    chance = np.random.default_rng(step + 1_000_000)
    made_us = NOW_US + step * STEP_US
    return [
        a_prediction(
            id=f"p_{step}_{n}",
            request_id=f"v{step}_{n}",
            model="one",
            version=version,
            arm="champion" if n % 5 else "canary",
            made_at_us=made_us,
            at_us=at_us,
            score=float(chance.uniform(0.05, 0.95)),
            request=msgspec.msgpack.encode([f"v{step}_{n}", at_us, 0.5, ["north", "south", "east"][n % 3]]),
        )
        for n, at_us in enumerate(asked_at(step))
    ]


def labels(step: int) -> Columns:
    """The labels that become known in a step: of what was asked 2 steps ago, and late ones of 3 days ago."""
    chance = np.random.default_rng(step + 2_000_000)
    now_us = NOW_US + step * STEP_US
    some = [(step - 2, n) for n in range(A_STEP) if n % LATE] + [
        (step - 3 * A_DAY, n) for n in range(A_STEP) if not n % LATE
    ]
    some = [(asked, n) for asked, n in some if asked >= 0]
    closed = [max(now_us, asked_at(asked)[n]) for asked, n in some]
    return Columns.of(
        {
            "id": ("str", [f"v{asked}_{n}" for asked, n in some]),
            "closed_at": ("time", closed),
            "bought": ("float", (chance.random(len(some)) < 0.4).astype(float).tolist()),
        }
    )


def answered(project: tt.Project, step: int, version: str) -> None:
    """Answer the requests of a step; the clock stands at its beginning."""
    found = predictions(step, version)
    project.predictions.append(found, at_us=[NOW_US + step * STEP_US] * len(found))


def looked(project: tt.Project, step: int) -> None:
    """Take in the labels of a step and tick; as often as one likes."""
    arrived = labels(step)
    if arrived.rows:
        project.push("sales", arrived)
    project.tick()


def lived(folder: Path, days: int, *, daily: int | None = None) -> None:
    """Answer for so many days and take in labels at each step; tick once a day, or once a week before the last ones.

    Args:
        folder: Of the project.
        days: How many.
        daily: The number of last days with a tick each; None: all.
    """
    clock = VirtualClock(NOW_US)
    with tt.open(folder, clock=clock, environment={}) as project:
        version = project.registry.alias("one", "champion")
        assert version is not None
        for step in range(days * A_DAY):
            clock.advance_to(NOW_US + step * STEP_US)
            answered(project, step, version.id)
            often = A_DAY if daily is None or step >= (days - daily) * A_DAY else 7 * A_DAY
            if step % often == often - 1:
                looked(project, step)
            elif (arrived := labels(step)).rows:
                project.push("sales", arrived)


def main(folder: str) -> None:
    clock = VirtualClock(NOW_US)
    with tt.open(folder, clock=clock, environment={}) as project:
        version = project.registry.alias("one", "champion")
        assert version is not None
        step = -1
        for block in project.predictions.scan():
            step = max([step, *(int(p.id.split("_")[1]) for p in block)])
        print("ready", flush=True)
        while True:
            clock.advance_to(max(clock.now_us(), NOW_US + max(step, 0) * STEP_US))
            if step >= 0:  # again where this was where it was killed
                looked(project, step)
            step += 1
            clock.advance_to(NOW_US + step * STEP_US)
            answered(project, step, version.id)


if __name__ == "__main__":
    main(str(Path(sys.argv[1])))
