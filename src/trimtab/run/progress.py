"""Let code deep inside a step report the step's progress to the code that runs the step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_EVERY_S = 0.2  # at most one report is passed on in this time; the last one (all is done) always is

ProgressListener = Callable[[float, float], object]  # called with the amount that is done and the total amount
_listener: ContextVar[ProgressListener | None] = ContextVar("progress", default=None)


@contextmanager
def listening(listener: ProgressListener | None) -> Iterator[None]:
    """In the block, pass reports of this thread to `listener`, about five a second at most.

    If `listener` is None, reports are dropped.
    """
    token = _listener.set(None if listener is None else _throttled(listener))
    try:
        yield
    finally:
        _listener.reset(token)


def is_listening() -> bool:
    """Return whether there is a listener. Without one, a loop need not report."""
    return _listener.get() is not None


def report(done: float, total: float) -> None:
    """Report how much of the running step is done.

    Raises:
        Cancelled: The run was cancelled, so the step must end.
    """
    listener = _listener.get()
    if listener is not None:
        listener(done, total)


def _throttled(listener: ProgressListener) -> ProgressListener:
    sent_s = 0.0

    def passed_on(done: float, total: float) -> None:
        nonlocal sent_s
        if done >= total or time.monotonic() - sent_s >= _EVERY_S:
            sent_s = time.monotonic()
            listener(done, total)

    return passed_on
