"""Temporary handlers for the signals that ask a process to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, `kill`, a terminal that closes


@contextmanager
def caught(
    handle: Callable[[int, FrameType | None], object],
    numbers: Sequence[signal.Signals] = ENDING,
    *,
    for_good: bool = False,
) -> Iterator[None]:
    """Call `handle` on these signals inside the `with` block. In any thread but the main thread nothing changes.

    A terminal that closes sends two hang-ups, one from its shell and one from the kernel. The first is handled, and
    later ones are ignored. A hang-up that was ignored before (`nohup`) stays ignored.

    Args:
        handle: Called in the main thread, between two instructions.
        numbers: The signals.
        for_good: Whether to ignore the signals afterwards, because the process is about to end. Otherwise the previous
            handlers are restored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        handle(number, frame)

    before = {number: signal.getsignal(number) for number in numbers if not _is_nohup(number)}
    for number in before:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            if not _is_nohup(number):
                signal.signal(number, signal.SIG_IGN if for_good else handler)


def _is_nohup(number: signal.Signals) -> bool:
    """Return whether this is a hang-up that is ignored."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
