"""A service whose clock stands where its standard input puts it, and that ticks when it is told to.

Each line is a time in microseconds to move the clock to, `tick`, or `status`; one line is the answer.
"""

from __future__ import annotations

import sys
import threading

import msgspec

import trimtab as tt
from trimtab.core.clock import VirtualClock


def main(folder: str, now_us: int) -> None:
    clock = VirtualClock(now_us)
    with tt.open(folder, clock=clock, environment={"TRIMTAB_TRAINING_EXECUTOR": "thread"}) as project:

        def obey() -> None:
            for line in sys.stdin:
                word = line.strip()
                if word == "tick":
                    acts = [decision.act for decision in project.tick()]
                    print(msgspec.json.encode(acts).decode(), flush=True)
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
