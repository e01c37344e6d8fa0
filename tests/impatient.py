"""Clients that retry at once, in a process of their own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

CLIENTS, FEW = 2_000, 8  # connections: in overload, and of a capacity that is measured with the same process
_FILE = Path(__file__).with_name("impatient_process.py")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Answered(msgspec.Struct, frozen=True):
    """Counts of the answers to impatient clients."""

    seconds: float
    statuses: dict[str, int]
    waits: list[str]  # the values of Retry-After
    health_ms: list[float]
    cpu_s: float = 0.0  # of the processes that serve

    @property
    def per_s(self) -> float:
        return self.statuses.get("200", 0) / self.seconds

    @property
    def per_cpu_s(self) -> float:
        return self.statuses.get("200", 0) / max(self.cpu_s, 1 / _TICKS_PER_S)


def retry_at_once(
    port: int, request: bytes, *, connections: int, seconds: float, pids: Sequence[int] = (), reconnect: bool = False
) -> Answered:
    """Send `request` again and again over each connection for some seconds."""
    command = [sys.executable, str(_FILE), str(port), str(connections), str(seconds), *["reconnect"] * reconnect]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=_many_files) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request)
        process.stdin.close()
        assert process.stdout.readline() == b"warm\n"
        before_s = _cpu_s(pids)
        found = msgspec.convert(json.loads(process.stdout.readline()), Answered)
        return msgspec.structs.replace(found, cpu_s=_cpu_s(pids) - before_s)


def overloaded(port: int, request: bytes, pids: Sequence[int], *, rounds: int = 3) -> dict[str, float]:
    """Figures of an overload by 2,000 clients, against what 8 are answered before and after it.

    `share` is of the capacity in answers a second; `share_cpu` in answers for a second of the service's processors,
    which other load of the machine does not change much.
    """
    few, many = [], []
    for _ in range(rounds):
        few.append(retry_at_once(port, request, connections=FEW, seconds=3, pids=pids))
        many.append(retry_at_once(port, request, connections=CLIENTS, seconds=5, pids=pids))
    few.append(retry_at_once(port, request, connections=FEW, seconds=3, pids=pids))
    health_ms = sorted(one for found in many for one in found.health_ms)
    capacity, cpu = median(one.per_s for one in few), median(one.per_cpu_s for one in few)
    return {
        "capacity_per_s": capacity,
        "share": median(one.per_s for one in many) / capacity,
        "share_cpu": median(one.per_cpu_s for one in many) / cpu,
        "refused_per_s": sum(one.statuses.get("429", 0) for one in many) / sum(one.seconds for one in many),
        "health_p50_ms": median(health_ms),
        "health_p99_ms": health_ms[int(0.99 * (len(health_ms) - 1))],
    }


def _many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _cpu_s(pids: Sequence[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(one[11]) + int(one[12]) for one in fields) / _TICKS_PER_S
