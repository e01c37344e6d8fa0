"""The slowest answers of `trimtab serve` at 70 % of its capacity, with another version put in service meanwhile.

The 99th percentile of the times from when a request was due, log on, against bare ASGI at the same rate.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import _http
import _served
import numpy as np

NAME = "door_predict_p99"
TARGET = "ratio <= 2"
UNIT = "s"
BETTER = "lower"
LOG = "relaxed"
_SECONDS = 4.0
_PATH = f"/v1/models/{_http.MODEL}/predict"
# puts the other version in service when told so; its evidence is that of its training, for the present champion
_MOVE = f"""
import sys, msgspec
import trimtab as tt
with tt.open(".") as project:
    registry, model = project.registry, "{_http.MODEL}"
    one, two = sorted(registry.versions(model), key=lambda version: version.number)
    now = registry.alias(model, "champion")
    other = one if now.id == two.id else two
    passed = registry.passed_gate(one)
    gate = msgspec.structs.replace(passed, id=f"{{passed.id[:-6]}}{{sys.argv[1]}}", champion=now.id)
    registry.put_gate(gate)
    print("ready", flush=True)
    sys.stdin.readline()
    registry.move(model, "champion", other, gate=gate, why="a promotion in between")
"""


class Served(_served.Project):
    """The project, and the rate at which it is asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with self.served(LOG) as ports:
            *latencies, taken = _http.load(ports.http, connections=32)
        self.per_s = 0.7 * len(latencies) / taken


def setup(folder: Path) -> Served:
    return Served(folder)


def ours(project: Served, log: str = LOG) -> float:
    with project.served(log) as ports:
        command = [sys.executable, "-c", _MOVE, f"{time.time_ns() % 10**6:06}"]
        pipe = subprocess.PIPE
        move = subprocess.Popen(command, cwd=project.root, stdin=pipe, stdout=pipe, text=True)
        assert move.stdin is not None
        assert move.stdout is not None
        move.stdout.readline()
        found = _p99_s(ports.http, project.per_s, lambda: print(file=move.stdin, flush=True))
        if move.wait(60):
            raise SystemExit("the other version was not put in service")
    return found


def floor(project: Served) -> float:
    with _http.server(project.folder, "bare") as port:
        return _p99_s(port, project.per_s)


def _p99_s(port: int, per_s: float, halfway: Callable[[], object] | None = None) -> float:
    latencies = _http.paced(port, per_s=per_s, connections=64, path=_PATH, seconds=_SECONDS, halfway=halfway)
    return float(np.quantile(latencies, 0.99))
