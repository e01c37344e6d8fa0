"""Exposures count once, and days have the sums of a recomputation from the logs, wherever the process is killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import exposure_process
import pytest
from experiment_world import BEGIN_US, Logged, Order, Written, definition_of, expected_day, opened, started
from exposure_process import records

import forked
from trimtab.core.clock import VirtualClock
from trimtab.events import decode as event_of
from trimtab.experiments.days import stored_days
from trimtab.experiments.exposures import decode
from trimtab.experiments.records import experiment_state, stored_definition


def prepared(folder: Path) -> Path:
    with opened(folder, VirtualClock(BEGIN_US)) as project:
        started(project, definition_of(project), BEGIN_US)
    return folder


def killed(folder: Path, after_s: float) -> None:
    """Let the process work for a while, and kill it."""
    script = Path(exposure_process.__file__)
    with forked.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            raise AssertionError(process.stderr.read())
        time.sleep(after_s)  # a random point of its work, not a wait for something
        assert process.poll() is None, process.stderr.read()
        process.kill()


def compared(folder: Path) -> int:
    """Return how many stored days equal the recomputation with loops over the logs, which all must."""
    with opened(folder, VirtualClock(BEGIN_US)) as project:
        state = experiment_state(project.state.catalog, "prices")
        assert state is not None
        written = Written()
        written.logged += [Logged(decode(one), one.appended_at_us) for one in records(project.state.exposures)]
        names = list(project.definitions.sources["orders"].columns)
        for record in records(project.state.events):
            event = event_of(record.payload)
            row = dict(zip(names, event.values, strict=False))
            user, amount, gone = row.get("user") or "", row.get("amount"), event.op == "delete"
            written.add(Order(event.id, event.event_at_us, user, amount, record.appended_at_us, gone))
        definition, seen = stored_definition(state), set[str]()
        days = stored_days(project.state.catalog, "prices", 1)
        for day in days:
            assert day.variants == expected_day(written, definition, state, day.day_us, day.known_by_us, seen)[0]
        assert sum(one.units + one.testers for day in days for one in day.variants.values()) == len(seen)
        return len(days)


def campaign(folder: Path, kills: int, seed: int, *, least_days: int = 0) -> int:
    """Kill it so often, and until so many days are stored: a busy machine gets less done between two kills."""
    rng, found, number = random.Random(seed), 0, 0
    while number < kills or (found < least_days and number < 10 * kills):
        killed(folder, rng.uniform(0.0, 1.0))
        number += 1
        if number % 10 == 0 or number >= kills:
            found = compared(folder)
    return found


@pytest.mark.slow
def test_days_equal_a_recomputation_after_kills(tmp_path: Path) -> None:
    assert campaign(prepared(tmp_path / "p"), 5, 5, least_days=3) >= 3


@pytest.mark.soak
def test_days_equal_a_recomputation_after_100_kills(soak_report, tmp_path: Path) -> None:
    """`pytest -m soak tests/app/test_exposure_kills.py`."""
    seed = random.SystemRandom().randrange(2**31)
    days = campaign(prepared(tmp_path / "p"), 100, seed)
    print(f"100 kills, seed {seed}: {days} stored days equal the recomputation")
    soak_report("exposure_kills", runs=100, failures=0, days=days)
    assert days > 30
