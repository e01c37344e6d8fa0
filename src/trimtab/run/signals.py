"""Handle the signals that tell a process to end, for a limited time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # sent by Ctrl-C, by `kill`, and by a terminal that closes


@contextmanager
def caught(
    handle: Callable[[int, FrameType | None], object],
    numbers: Sequence[signal.Signals] = ENDING,
    *,
    for_good: bool = False,
) -> Iterator[None]:
    """In the block, call `handle` when one of these signals arrives.

    Signals can only be handled in the main thread; in other threads, this does nothing. When a terminal closes, its
    shell and the kernel both send SIGHUP. The first SIGHUP is handled, and later ones are ignored. If SIGHUP was
    ignored before (`nohup`), it stays ignored.

    Args:
        handle: Called in the main thread, between two instructions.
        numbers: The signals to handle.
        for_good: Whether to ignore the signals after the block, because the process then ends. If False, the previous
            handlers are restored (except for SIGHUP, if one has arrived).
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
    """Return whether the signal is a SIGHUP that `nohup` lets the process ignore."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
