"""The program of the child process of a `ProcessExecutor`.

It reads tasks from standard input, and sends back events and results.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import sys
import threading
import traceback
from typing import IO

import msgspec

from trimtab.run.events import Event
from trimtab.run.executors import Failure, Frames, Result, Task, Workplace, failure_of, framed


def main() -> None:
    """Run tasks until the parent process closes its side of the pipe or dies."""
    replies = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    if hasattr(os, "nice"):
        os.nice(int(sys.argv[2]))
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)  # tasks must not read the requests to this process
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    idle = threading.Event()
    idle.set()
    threading.Thread(target=_listen, args=(requests, tasks, idle), name="trimtab-parent", daemon=True).start()
    sending = threading.Lock()

    def send(message: Event | Result | Failure) -> None:
        with sending:
            replies.write(framed(msgspec.msgpack.encode(message)))

    place = Workplace(send)
    if sys.argv[3]:
        importlib.import_module(sys.argv[3])
    try:
        while (task := tasks.get()) is not None:
            idle.clear()
            answer = _done(task, place)
            sys.stdout.flush()
            idle.set()
            send(answer)
    finally:
        place.close()


def _listen(requests: IO[bytes], tasks: queue.SimpleQueue[Task | None], idle: threading.Event) -> None:
    """Put the requested tasks into the queue, and end the process when the parent is gone.

    If a task is running, for which the parent was waiting, the process ends at once.
    """
    frames = Frames()
    while data := requests.read(1 << 16):
        for frame in frames.add(data):
            idle.clear()
            tasks.put(msgspec.msgpack.decode(frame, type=Task))
    if not idle.is_set():
        os._exit(1)
    tasks.put(None)


def _done(task: Task, place: Workplace) -> Result | Failure:
    try:
        return Result(task.call(place))
    except BaseException as error:  # the outer loop of the process; the parent raises the error
        return failure_of(error, traceback.format_exc())


if __name__ == "__main__":
    main()
