"""Aliases that move while a model is asked over many connections: what came back, and how soon from which version."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import shop
from answer_load import RECORD
from numpy.typing import NDArray

import forked
from processes import PATIENCE_S
from trimtab.app.project import Project
from trimtab.core.time import format_time

AS_OF = format_time(shop.NOW_US)
ALONE_S, ALONE = 0.3, 10  # a version that gave all answers of so long, and so many, answers alone
MOST = 100_000  # answers in that time
LOAD = Path(__file__).parent / "answer_load.py"
CLI = [sys.executable, "-c", "from trimtab.cli import main; main()"]
Answers: TypeAlias = "NDArray[Any]"  # of `answer_load.RECORD`
RECORD_BYTES = np.dtype(RECORD).itemsize


def promote(project: Project, name: str) -> float:
    """Make a registered version champion, as if a gate had passed it; when."""
    registry = project.registry
    version, champion = registry.get(name), registry.alias("buyer", "champion")
    assert champion is not None
    passed = registry.gates_of(registry.get("buyer@2"))[0]
    number = len(registry.history("buyer", "champion"))
    gate = msgspec.structs.replace(passed, id=f"test-{number}", candidate=version.id, champion=champion.id)
    registry.put_gate(gate)
    begun = time.time()
    registry.move("buyer", "champion", version, why="A test.", gate=gate)
    return begun


def roll_back(folder: Path) -> float:
    """`trimtab rollback`; the moment in the alias's history."""
    done = forked.run(
        [*CLI, "--json", "rollback", "buyer", "--why", "It was better."],
        cwd=folder,
        env=shop.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["at_us"]) / 1e6


@contextmanager
def asking(folder: Path, url: str, connections: int, rate: float = 0.0) -> Iterator[Callable[[], Answers]]:
    """A process that asks `buyer` over so many connections; call what is given to end it and to have its answers.

    Each connection asks again as soon as it is answered; with a `rate`, so many requests a second are made in all.
    """
    stop, out = folder / "stop", folder / "answers"
    stop.unlink(missing_ok=True)
    host, port = url.removeprefix("http://").split(":")
    row = json.dumps(shop.visit("-", shop.NOW_US) | {"at": AS_OF})
    command = [sys.executable, str(LOAD), host, port, "buyer", row, str(connections), str(rate), str(stop), str(out)]
    process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ended() -> Answers:
        stop.touch()
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")
        return np.fromfile(out, RECORD)

    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield ended
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_until_alone(folder: Path, at: float, name: str) -> None:
    """Wait until the version that a move `at` names has given all answers of the last `ALONE_S`."""
    out, end_s = folder / "answers", time.monotonic() + PATIENCE_S
    while True:
        count = out.stat().st_size // RECORD_BYTES  # the last one may be written in part
        found = np.fromfile(out, RECORD, MOST, offset=max(0, count - MOST) * RECORD_BYTES)
        found = found[found["came"] > found["came"].max(initial=0.0) - ALONE_S]
        if len(found) >= ALONE and found["asked"].min() >= at and (found["version"] == name.encode()).all():
            return
        assert time.monotonic() < end_s, (name, np.unique(found["version"], return_counts=True))
        time.sleep(0.1)


def waited_s(answers: Answers, moves: list[tuple[float, str]]) -> list[float]:
    """For each move of the alias how long another version than the one it names went on answering."""
    ends = [at for at, _ in moves[1:]] + [float("inf")]
    found = []
    for (at, version), end in zip(moves, ends, strict=True):
        then = answers[(at <= answers["came"]) & (answers["came"] < end)]
        others = then["version"] != version.encode()
        assert not others.all()
        found.append(float(then["came"][others].max(initial=at)) - at)
    return found
