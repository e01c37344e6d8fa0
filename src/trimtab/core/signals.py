"""Signals that ask a process to end, caught for a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, somebody who says so, a terminal that closes


@contextmanager
def caught(
    handle: Callable[[int, FrameType | None], object],
    numbers: Sequence[signal.Signals] = ENDING,
    *,
    for_good: bool = False,
) -> Iterator[None]:
    """While `handle` is called with these signals; in any other thread than the main one nothing changes.

    A terminal that closes says so twice, by its shell and by the kernel: the first hang-up is handled, and the process
    ignores further ones until it ends. Where they are ignored from the beginning (`nohup`), they stay so.

    Args:
        handle: Called by the main thread, between two instructions of whatever it does.
        numbers: Which signals.
        for_good: Ignore them afterwards, for the process is about to end; else what was there before is there again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)
        handle(number, frame)

    before = {number: signal.getsignal(number) for number in numbers if not _is_nohup(number)}
    for number in before:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            if not _is_nohup(number):
                signal.signal(number, signal.SIG_IGN if for_good else handler)


def _is_nohup(number: signal.Signals) -> bool:
    """Whether this is the hang-up, and ignored."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
