"""Repairs and rollouts go on where a process was killed: the same decisions as without."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import loop_process
import numpy as np
import pytest
import shop
from test_rollout import answered, with_stages

import forked
from trimtab.core.time import DAY_US
from trimtab.serving.arms.arms import CANARY, arm_shares

STAGES = 'shadow="1d", margin=0.9, canary=[0.3, 0.6], step="1h"'


def prepared(trained: Path) -> Path:
    """A project that fits again every four days, with a version in the shadow of the one that answers."""
    folder = with_stages(trained, STAGES, ', retrain=tt.every("4d"), cooldown="1d"')
    with shop.opened(folder) as project:
        project.promote("buyer@1", why="The smaller one.")
    return folder


def lived(folder: Path, day: int) -> int:
    """A day of answered visits with their labels; the time at which it is over."""
    begin_us = shop.NOW_US + day * DAY_US
    with shop.opened(folder, begin_us) as project:
        shop.a_day_of_visits(project, np.random.default_rng(day))
        if CANARY in project.registry.aliases("buyer"):
            answered(project, f"buyer@{CANARY}", 100)
    return begin_us + DAY_US


def ticked(folder: Path, now_us: int, kill_after_s: float | None) -> None:
    """Tick in a process of its own, which is killed after a while where that is given."""
    script = Path(loop_process.__file__)
    with forked.Popen(
        [sys.executable, str(script), str(folder), str(now_us)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        if kill_after_s is not None:
            time.sleep(kill_after_s)  # a random point of its work, not a wait for something
            process.kill()
            return
        said = process.stdout.readline()
        assert said == "ticked\n", process.stderr.read()


def told(folder: Path, now_us: int) -> list[tuple[str, str, str | None]]:
    """What was decided, and what answers: nothing of it may depend on kills."""
    with shop.opened(folder, now_us) as project:
        assert project.verify_ledger() == len(project.ledger())
        rows = [(d.act, d.cause, d.version) for d in project.ledger() if d.model == "buyer"]
        champion = project.registry.alias("buyer", "champion")
        return [*rows, ("serves", str(arm_shares(project.state.catalog, "buyer").canary), champion and champion.id)]


def campaign(trained: Path, folder: Path, days: int, kills_a_day: int, seed: int) -> int:
    """Live some days, killing each tick a few times; the kills. Decisions are those of a life without any."""
    chance, kills = random.Random(seed), 0
    calm, shaken = (prepared(Path(shutil.copytree(trained, folder / name))) for name in ("calm", "shaken"))
    now_us = shop.NOW_US
    for day in range(days):
        for one in (calm, shaken):
            now_us = lived(one, day)
        ticked(calm, now_us, None)
        for _ in range(kills_a_day):
            ticked(shaken, now_us, chance.uniform(0.0, 2.5))
            kills += 1
        ticked(shaken, now_us, None)
    expected = told(calm, now_us)
    assert told(shaken, now_us) == expected
    assert {"shadow", "compare", "canary", "promote"} <= {act for act, _, _ in expected}
    return kills


@pytest.mark.slow
def test_a_killed_loop_decides_what_an_undisturbed_one_does(trained_once: Path, tmp_path: Path) -> None:
    assert campaign(trained_once, tmp_path, days=6, kills_a_day=1, seed=3) == 6


@pytest.mark.soak
def test_200_kills_of_the_loop(soak_report, trained_once: Path, tmp_path: Path) -> None:
    """`pytest -m soak tests/app/test_loop_kills.py`."""
    seed = random.SystemRandom().randrange(2**31)
    kills = campaign(trained_once, tmp_path, days=20, kills_a_day=10, seed=seed)
    soak_report("loop_kills", runs=kills, failures=0)
    assert kills >= 200
