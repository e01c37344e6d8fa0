"""A process that ticks a project's loop once at a given time: what the kill tests of the loop kill."""

from __future__ import annotations

import sys
from pathlib import Path

import trimtab as tt
from trimtab.core.clock import VirtualClock


def main(folder: str, now_us: str) -> None:
    print("ready", flush=True)
    environment = {"TRIMTAB_TRAINING_EXECUTOR": "thread"}
    with tt.open(Path(folder), clock=VirtualClock(int(now_us)), environment=environment) as project:
        project.tick()
    print("ticked", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
