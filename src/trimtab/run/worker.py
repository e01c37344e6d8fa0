"""The child of a `ProcessExecutor`: takes tasks from standard input until that closes, and tells what comes of them."""

from __future__ import annotations

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
    """Work until the parent closes its end, or dies."""
    told = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    if hasattr(os, "nice"):
        os.nice(int(sys.argv[2]))
    asked = os.fdopen(os.dup(0), "rb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)  # whatever a task reads from standard input is not ours
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    idle = threading.Event()
    idle.set()
    threading.Thread(target=_listen, args=(asked, tasks, idle), name="trimtab-parent", daemon=True).start()
    telling = threading.Lock()

    def tell(message: Event | Result | Failure) -> None:
        with telling:
            told.write(framed(msgspec.msgpack.encode(message)))

    place = Workplace(tell)
    try:
        while (task := tasks.get()) is not None:
            idle.clear()
            answer = _done(task, place)
            sys.stdout.flush()
            idle.set()
            tell(answer)
    finally:
        place.close()


def _listen(asked: IO[bytes], tasks: queue.SimpleQueue[Task | None], idle: threading.Event) -> None:
    """Queue what is asked; when nobody can ask any more, end: at once if somebody was waiting for the task at hand."""
    frames = Frames()
    while data := asked.read(1 << 16):
        for frame in frames.add(data):
            idle.clear()
            tasks.put(msgspec.msgpack.decode(frame, type=Task))
    if not idle.is_set():
        os._exit(1)
    tasks.put(None)


def _done(task: Task, place: Workplace) -> Result | Failure:
    try:
        return Result(task.call(place))
    except BaseException as error:  # the worker's outermost place: the parent raises it
        return failure_of(error, traceback.format_exc())


if __name__ == "__main__":
    main()
