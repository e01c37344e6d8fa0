"""Tasks that the tests of executors run."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import ExitStack

from trimtab.core.errors import Misuse
from trimtab.run import StepBegan, StepEnded, Workplace

GO_ON = threading.Event()


def where(argument: bytes, place: Workplace) -> bytes:
    found = {
        "pid": os.getpid(),
        "nice": os.nice(0),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "asked": argument.decode(),
    }
    return json.dumps(found).encode()


def telling(argument: bytes, place: Workplace) -> bytes:
    place.emit(StepBegan("one", "h"))
    place.progress(1, 2)
    print("printed", flush=True)
    print("complained", file=sys.stderr, flush=True)
    place.emit(StepEnded("one", cached=False, attempts=1))
    return sys.stdin.buffer.read()  # nothing: a task does not get what is meant for its process


def held_up(argument: bytes, place: Workplace) -> bytes:
    place.progress(0, 1)
    assert GO_ON.wait(30)
    place.progress(1, 1)  # its caller was interrupted meanwhile
    raise AssertionError("not cancelled")


def outliving(argument: bytes, place: Workplace) -> bytes:
    """Return a result after the task of `held_up` has ended."""
    others = [one for one in threading.enumerate() if one.name == "trimtab-task" and one != threading.current_thread()]
    GO_ON.set()
    for one in others:
        one.join(30)
    return str(len(others)).encode()


def misused(argument: bytes, place: Workplace) -> bytes:
    raise Misuse("needed a, found b")


def broken(argument: bytes, place: Workplace) -> bytes:
    raise ZeroDivisionError("by nothing")


def dying(argument: bytes, place: Workplace) -> bytes:
    os.kill(os.getpid(), 9)
    return b""


def aborting(argument: bytes, place: Workplace) -> bytes:
    place.emit(StepBegan("one", "h"))
    place.emit(StepEnded("one", cached=False, attempts=1))
    place.emit(StepBegan("fit", "h"))
    if argument:
        os._exit(3)
    os.abort()


def endless(argument: bytes, place: Workplace) -> bytes:
    with open(argument.decode(), "w") as file:
        file.write(str(os.getpid()))
    while True:
        time.sleep(0.02)
        place.progress(0, 1)


def kept(argument: bytes, place: Workplace) -> bytes:
    def make(stack: ExitStack) -> list[int]:
        stack.callback(lambda: open(argument.decode(), "w").close())
        return []

    calls = place.keep("calls", make)
    calls.append(1)
    return str(len(calls)).encode()
