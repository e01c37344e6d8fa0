"""kill -9 at random moments of registering and moving: never a half of anything."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forked
from trimtab.core.clock import SystemClock
from trimtab.registry import Registry
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training import fit, save_training_set
from trimtab.training.fitting.artifact import encode_artifact

WORKER = """
import sys, pathlib, msgspec
from trimtab.core.clock import SystemClock
from trimtab.core.errors import Conflict
from trimtab.core.hashing import bytes_hash
from trimtab.registry import Registry
from trimtab.store.file_blob import FileBlob
from trimtab.store.sql_catalog import SqlCatalog
from trimtab.training.fitting.artifact import decode_artifact, encode_artifact, scorer_for
from trimtab.training.fitting.fitted import Fitted

folder, training_set, who = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
artifact = decode_artifact((folder / "artifact").read_bytes())
catalog, blob = SqlCatalog.sqlite(folder / "catalog.db"), FileBlob(folder / "blobs")
registry = Registry(catalog, blob, clock=SystemClock(), actor=who)
for number in range(1_000_000):
    one = msgspec.structs.replace(artifact, kind=f"{who} {number}")
    data = encode_artifact(one)
    fitted = Fitted(model=one.model, recipe="r", features="f", artifact=one, data=data, digest=bytes_hash(data),
                    scorer=scorer_for(one), importance=None, cut_us=0, positions={}, rows=1, seed=0)
    version = registry.register(fitted, training_set=training_set)
    registry.move(one.model, "own", version, why=f"{who} {number}")
    print(version.id, flush=True)
"""


def campaign(folder: Path, world: Any, *, kills: int, seed: int) -> tuple[int, int]:
    """Kill a worker again and again; how many versions were acknowledged, and how many promises were broken."""
    generator = random.Random(seed)
    blob = FileBlob(folder / "blobs")
    training_set = world.training_set()
    digest = save_training_set(training_set, blob)
    (folder / "artifact").write_bytes(encode_artifact(fit(world.model, training_set).artifact))
    acknowledged: list[str] = []
    broken = 0
    for kill in range(kills):
        command = [sys.executable, "-c", WORKER, str(folder), digest, f"w{kill}"]
        worker = forked.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        acknowledged.append(worker.stdout.readline().strip())  # it works: from now on any moment will do
        time.sleep(generator.uniform(0.0, 0.08))
        os.kill(worker.pid, signal.SIGKILL)
        acknowledged += worker.stdout.read().split("\n")[:-1]
        worker.wait()
        worker.stdout.close()
        broken += broken_promises(folder, acknowledged)
    return len(acknowledged), broken


def broken_promises(folder: Path, acknowledged: list[str]) -> int:
    blob = FileBlob(folder / "blobs")
    with SqlCatalog.sqlite(folder / "catalog.db") as catalog:
        registry = Registry(catalog, blob, clock=SystemClock(), actor="judge")
        versions = registry.versions("late_flight")
        history = registry.history("late_flight", "own")
        now = registry.alias("late_flight", "own")
        records = catalog.find("version")
    ids = {version.id for version in versions}
    faults = [
        [version.number for version in versions] != list(range(1, len(versions) + 1)),
        len(records) != len(versions),
        not set(acknowledged) <= ids,
        any(not blob.exists(version.artifact) for version in versions),
        now is None or history[-1].version != now.id,
        any(row.version not in ids for row in history),
        any(row.previous != before.version for before, row in itertools.pairwise(history)),
        not set(acknowledged) <= {row.version for row in history},
    ]
    return sum(faults)


def test_a_killed_worker_leaves_whole_versions_and_one_history(tmp_path: Path, world: Any) -> None:
    acknowledged, broken = campaign(tmp_path, world, kills=4, seed=1)
    assert broken == 0
    assert acknowledged >= 4


@pytest.mark.soak
def test_a_hundred_kills_leave_whole_versions_and_one_history(
    tmp_path: Path, world: Any, soak_report: Callable[..., None]
) -> None:
    acknowledged, broken = campaign(tmp_path, world, kills=100, seed=2)
    soak_report("kill_registry", runs=100, failures=broken, acknowledged=acknowledged)
    assert broken == 0


def test_processes_that_register_at_once_share_the_numbers(tmp_path: Path, world: Any) -> None:
    blob = FileBlob(tmp_path / "blobs")
    training_set = world.training_set()
    digest = save_training_set(training_set, blob)
    (tmp_path / "artifact").write_bytes(encode_artifact(fit(world.model, training_set).artifact))
    script = WORKER.replace("range(1_000_000)", "range(8)").replace("registry.move(", "(lambda *a, **k: None)(")
    workers = [
        forked.Popen([sys.executable, "-c", script, str(tmp_path), digest, f"w{n}"], stdout=subprocess.PIPE)
        for n in range(2)
    ]
    ids = [line for worker in workers for line in worker.communicate()[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0]
    with SqlCatalog.sqlite(tmp_path / "catalog.db") as catalog:
        versions = Registry(catalog, blob, clock=SystemClock(), actor="judge").versions("late_flight")
    assert [version.number for version in versions] == list(range(1, 17))
    assert {version.id.encode() for version in versions} == set(ids)
