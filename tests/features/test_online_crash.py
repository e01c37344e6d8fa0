"""An online store whose process is killed at any instant ends with the bytes of one that was left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from online_follower import follow

import forked
from trimtab import store
from trimtab.events.records import Event, encode

FOLLOWER = Path(__file__).with_name("online_follower.py")
START_US = 1_700_000_000_000_000


def write_log(folder: Path, records: int, rng: random.Random) -> None:
    """Events on time, late, ahead and embargoed, some of them corrected, deleted or repeated."""
    log = store.open(f"sqlite://{folder}", "log")
    now_us, payloads, times = START_US, [], []
    for i in range(records):
        now_us += rng.randrange(200_000)
        name = rng.choice(["keyed", "plain"])
        event_id = f"e{rng.randrange(max(1, i))}" if name == "keyed" and rng.random() < 0.3 else f"n{i}"
        event_at = now_us - rng.choice([0, 0, 1, 100_000, 5_000_000, 120_000_000, -300_000])
        known_at = now_us + 2_000_000 if rng.random() < 0.1 else 0
        op = "delete" if name == "keyed" and rng.random() < 0.1 else "upsert"
        values = (event_id, f"w{int(rng.paretovariate(1))}", round(rng.gauss(0, 9), 2), event_at)
        payloads += [encode(Event(name, event_id, event_at, known_at, op, False, values))] * rng.choice([1, 1, 1, 2])
        times += [now_us] * (len(payloads) - len(times))
    log.append(payloads, at_us=times)
    log.close()


def content(folder: Path) -> list[tuple[bytes, bytes]]:
    kv = store.open(f"lmdb://{folder}", "kv")
    found = list(kv.scan(b"", limit=10_000_000))
    kv.close()
    return found


def kill(command: list[str], kills: int, rng: random.Random, *, most: int) -> int:
    """Kill a process that tells of its batches a instant after one of the first `most` of them, so many times.

    Then let it finish. How many times it was killed before it was done: it does not get beyond the five batches after.
    """
    killed = 0
    while killed < kills:
        number = rng.randrange(most)
        process = forked.Popen([*command, str(number + 5)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in ("ready", *range(number))]
        time.sleep(rng.random() * 0.004)
        process.kill()
        said += process.communicate()[0].splitlines(keepends=True)
        if "done\n" in said:
            break
        killed += 1
    done = forked.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.endswith("done\n")
    return killed


def campaign(folder: Path, kills: int, records: int, rng: random.Random) -> tuple[int, int]:
    """How many times the follower was killed before it was done, and how many keys differ in the end."""
    write_log(folder / "log", records, rng)
    follow(str(folder / "log"), str(folder / "calm"))
    command = [sys.executable, str(FOLLOWER), str(folder / "log"), str(folder / "killed")]
    killed = kill(command, kills, rng, most=8)
    calm, after = content(folder / "calm"), content(folder / "killed")
    return killed, len(set(calm) ^ set(after))


@pytest.mark.fast
def test_state_after_kills_is_that_of_an_undisturbed_store(tmp_path: Path) -> None:
    killed, different = campaign(tmp_path, kills=5, records=2_500, rng=random.Random(11))
    assert killed == 5
    assert different == 0


@pytest.mark.soak
def test_state_after_hundreds_of_kills_is_that_of_an_undisturbed_store(
    tmp_path: Path, soak_report: Callable[..., None]
) -> None:
    killed, failures = 0, 0
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        more, different = campaign(folder, kills=15, records=6_000, rng=random.Random(seed))
        killed, failures = killed + more, failures + (different > 0)
    soak_report("kill_apply", runs=killed, failures=failures)
    assert failures == 0
    assert killed >= 200
