"""A worker for tests: says what its task tells it to, and does no more."""

from __future__ import annotations

import sys
import threading
import time

from trimtab.serving.workers.channel import BEAT, READY, WAKE, WorkerChannel


def main(fd: int) -> None:
    line = WorkerChannel(fd)
    gone = threading.Event()
    task = line.task().decode()
    line.on_close(gone.set)
    print(f"doing: {task}", flush=True)
    if task == "fail":
        sys.exit("nothing can be loaded here")
    if task == "idle":
        time.sleep(60)
    line.send(READY)
    if task == "nudge":
        line.send(WAKE)
    while not gone.wait(0.05):
        if task != "hang":
            line.send(BEAT)
    print("alone", flush=True)
    if task == "stubborn":
        time.sleep(60)


if __name__ == "__main__":
    main(int(sys.argv[1]))
