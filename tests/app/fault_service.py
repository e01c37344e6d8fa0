"""A service whose clock stands where its standard input puts it, and that ticks when it is told to.

Each line is a time in microseconds to move the clock to, `tick`, or `status`; one line is the answer.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback

import msgspec

import trimtab as tt
from trimtab.app.training.ticking import Ticked
from trimtab.core.clock import VirtualClock


def acts(project: tt.Project) -> list[str]:
    """What a tick of ours did: the service has its own, and while one goes on the clock must not move."""
    turns: list[Ticked] = []
    while not turns or turns[-1].at_work is not None:  # there is one deployment
        time.sleep(0.01 * bool(turns))
        project.tick(watch=turns.append)
    return [decision.act for decision in turns[-1].decisions]


def main(folder: str, now_us: int) -> None:
    clock = VirtualClock(now_us)
    with tt.open(folder, clock=clock, environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"}) as project:

        def obey() -> None:
            try:
                follow()
            except BaseException:
                traceback.print_exc()
                os._exit(1)  # otherwise the test would wait for an answer

        def follow() -> None:
            for line in sys.stdin:
                word = line.strip()
                if word == "tick":
                    print(msgspec.json.encode(acts(project)).decode(), flush=True)
                elif word == "status":
                    print(msgspec.json.encode(project.status().red).decode(), flush=True)
                else:
                    clock.advance_to(int(word))
                    print("ok", flush=True)

        def ready(url: str) -> None:
            print(url, flush=True)
            threading.Thread(target=obey, daemon=True).start()

        project.serve(port=0, ready=ready)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
