"""How far a step is, told from deep inside it: code that loops says so, and whoever does the step hears it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_EVERY_S = 0.2  # between two that are passed on

Heard = Callable[[float, float], object]
_heard: ContextVar[Heard | None] = ContextVar("progress", default=None)


@contextmanager
def listening(hear: Heard | None) -> Iterator[None]:
    """Let `hear` get what is reported meanwhile in this thread, now and then; None: nobody."""
    token = _heard.set(None if hear is None else _now_and_then(hear))
    try:
        yield
    finally:
        _heard.reset(token)


def is_listening() -> bool:
    """Whether anybody listens: else whoever loops need not say anything."""
    return _heard.get() is not None


def report(done: float, total: float) -> None:
    """Say how much of the step under way is done.

    Raises:
        Cancelled: It is to end.
    """
    hear = _heard.get()
    if hear is not None:
        hear(done, total)


def _now_and_then(hear: Heard) -> Heard:
    told_s = 0.0

    def passed_on(done: float, total: float) -> None:
        nonlocal told_s
        if done >= total or time.monotonic() - told_s >= _EVERY_S:
            told_s = time.monotonic()
            hear(done, total)

    return passed_on
