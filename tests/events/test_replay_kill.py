"""A replay of quarantined rows that is killed at random instants: every row becomes an event once, and none is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import forked
from trimtab import store
from trimtab.core.clock import SystemClock
from trimtab.events.columns.history import History
from trimtab.events.definitions import source
from trimtab.events.ingest import Ingestor
from trimtab.events.quarantine import Quarantine

ROWS = 4_000
WRONG = source("sales", time="at", key="id", columns={"id": str, "n": float})
RIGHT = source("sales", time="at", key="id", columns={"id": str, "n": str})
CHILD = """
import sys
from trimtab import store
from trimtab.core.clock import SystemClock
from trimtab.events import Ingestor, Quarantine, source
from trimtab.events import quarantine as module

module._TOGETHER = 50  # so that there are many instants to be killed at
folder = sys.argv[1]
right = source("sales", time="at", key="id", columns={"id": str, "n": str})
quarantine = Quarantine(store.open(f"sqlite://{folder}/quarantine", "log"))
ingestor = Ingestor(store.open(f"sqlite://{folder}/log", "log"), [right], clock=SystemClock(), quarantine=quarantine)
print("ready", flush=True)
quarantine.replay(ingestor)
print("done", flush=True)
"""


def _run(folder: Path, kills: int, seed: int) -> int:
    """How many of the kills came before the replay was done."""
    with (
        closing(store.open(f"sqlite://{folder}/quarantine", "log")) as refused,
        closing(store.open(f"sqlite://{folder}/log", "log")) as log,
    ):
        ingestor = Ingestor(log, [WRONG], clock=SystemClock(), quarantine=Quarantine(refused))
        ingestor.push("sales", [{"id": f"s{i}", "n": f"#{i}", "at": i} for i in range(ROWS)])
    rng, early = random.Random(seed), 0
    for kill in range(kills + 1):
        with forked.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            if kill < kills:
                time.sleep(rng.uniform(0.0, 0.12))
                child.kill()
                early += child.stdout.read() == ""
            else:
                assert child.stdout.read() == "done\n"
    with (
        closing(store.open(f"sqlite://{folder}/quarantine", "log")) as refused,
        closing(store.open(f"sqlite://{folder}/log", "log")) as log,
    ):
        assert Quarantine(refused).counts() == {}
        history = History(log, [RIGHT])
        history.refresh()
        assert sorted(history.frame("sales").columns["id"].to_list()) == sorted(f"s{i}" for i in range(ROWS))
    return early


def test_a_replay_that_is_killed_makes_no_event_twice_and_loses_none(tmp_path: Path) -> None:
    assert _run(tmp_path, kills=4, seed=1) >= 1


@pytest.mark.soak
def test_a_hundred_killed_replays(tmp_path: Path) -> None:
    for seed in range(25):
        folder = tmp_path / str(seed)
        folder.mkdir()
        _run(folder, kills=4, seed=seed)
