"""A process that fills, rebuilds and compacts is killed at any instant: every read is that of an undisturbed store."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from online_follower import VIEWS, follow
from test_online_crash import kill, write_log

from trimtab import store
from trimtab.features.definitions import request
from trimtab.features.feature_set import feature_set
from trimtab.features.online.fill.fill import fill, sweep
from trimtab.features.online.generations import id_of
from trimtab.features.online.packed.keys import KeySpace
from trimtab.features.online.read.request_plan import RequestPlan
from trimtab.features.online.store import POSITIONS_KEY, OnlineStore, read_cursors

FILLER = Path(__file__).with_name("online_filler.py")
ASK = request("ask", key="ask_id", time="asked_at", columns={"ask_id": str, "who": str})


def answers(folder: Path) -> tuple[list[Any], dict[str, Any], list[bytes]]:
    """What each view says of each entity at some instants, its counts, and keys that belong to no view."""
    with store.open(f"lmdb://{folder}", "kv") as kv:
        online = OnlineStore(kv, VIEWS)
        for _ in fill(online, store.open(f"sqlite://{folder.parent}/log", "log")):
            pass
        while sweep(online, 1_000):
            pass
        rows = [{"who": f"w{i}"} for i in range(60)]
        end_us = online.s_us
        found = []
        for v in VIEWS:
            plan = RequestPlan(feature_set(ASK, [v]), kv)
            for late_us in (0, 1, 3_000_000, 61_000_000):
                read = plan.read(rows, end_us + late_us)
                found.append((read.values, read.reasons, read.positions))
        held = read_cursors(kv)
        own = [p for name, c in held.items() for p in KeySpace.of(bytes.fromhex(id_of(name)), c.generation).all]
        keys = [key for key, _ in kv.scan(b"", limit=1_000_000) if key != POSITIONS_KEY]
        return (
            found,
            {"applied": [c.applied for c in online.counts().values()], "failures": online.failures()},
            [key for key in keys if not key.startswith(tuple(own))],
        )


def campaign(folder: Path, kills: int, records: int, rng: random.Random) -> tuple[int, bool]:
    """How many times the filler was killed before it was done, and whether it then answers like the calm one."""
    write_log(folder / "log", records, rng)
    follow(str(folder / "log"), str(folder / "calm"))
    command = [sys.executable, str(FILLER), str(folder / "log"), str(folder / "killed")]
    killed = kill(command, kills, rng, most=40)
    calm, after = answers(folder / "calm"), answers(folder / "killed")
    same = calm[0] == after[0] and not after[2]
    return killed, same and calm[1] == after[1]


@pytest.mark.slow
def test_a_filler_that_was_killed_answers_as_if_it_had_not_been(tmp_path: Path) -> None:
    killed, same = campaign(tmp_path, kills=6, records=3_000, rng=random.Random(5))
    assert killed == 6
    assert same


@pytest.mark.soak
def test_a_filler_that_was_killed_hundreds_of_times_answers_as_if_it_had_not_been(
    tmp_path: Path, soak_report: Callable[..., None]
) -> None:
    killed, failures = 0, 0
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        more, same = campaign(folder, kills=12, records=6_000, rng=random.Random(seed))
        killed, failures = killed + more, failures + (not same)
    soak_report("kill_fill", runs=killed, failures=failures)
    assert failures == 0
    assert killed >= 150
