"""Closed days of experiments have the sums that plain loops over the written records give."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from experiment_world import BEGIN_US, World, definition_of, expected_day, opened, started

from trimtab.app.experiments.closing import close_due
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.experiments.days import stored_days

WAIT_US = 2 * DAY_US + 3 * HOUR_US  # the longest window, and the delay of the source


@pytest.mark.parametrize("seed", range(5))
def test_days_have_the_sums_of_plain_loops(seed: int, tmp_path: Path) -> None:
    rng, clock = random.Random(seed), VirtualClock(BEGIN_US - 3 * DAY_US)
    with opened(tmp_path / "p", clock) as project:
        definition = definition_of(project)
        ended_us = rng.choice((None, BEGIN_US + 3 * DAY_US + HOUR_US))
        state = started(project, definition, BEGIN_US + 5 * HOUR_US, ended_at_us=ended_us)
        world = World(project, clock, rng, users=120, days=4)
        world.run(lambda: close_due(project), rng.choice((7 * HOUR_US, 3 * DAY_US)))
        clock.advance_to(clock.now_us() + 9 * DAY_US)
        close_due(project)
        assert close_due(project) == []
        days = stored_days(project.state.catalog, "prices", 1)
        assert [day.day_us for day in days[:4]] == [BEGIN_US + n * DAY_US for n in range(4)]
        assert len(days) == 4 if ended_us else len(days) > 4
        seen: set[str] = set()
        for day in days:
            assert day.known_by_us == day.day_us + DAY_US + WAIT_US
            assert day.variants == expected_day(world.written, definition, state, day.day_us, day.known_by_us, seen)
        assert len(seen) > 20
