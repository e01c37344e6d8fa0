"""What may go wrong at each of thousands of requests a second is said once in ten seconds; metrics count all of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from time import monotonic

_EVERY_S = 10.0
_KINDS = 1_000  # that are remembered


class Seldom:
    """Says what went wrong, of each kind at most once in ten seconds, and then how often it was not said meanwhile.

    Threads may share one.

    Args:
        logger: Where it is said.
        now_s: Seconds that only go on.
    """

    def __init__(self, logger: logging.Logger, now_s: Callable[[], float] = monotonic) -> None:
        self._logger = logger
        self._now_s = now_s
        self._mutex = threading.Lock()
        self._said: dict[Hashable, tuple[float, int]] = {}  # when it was said last, and how often it was not since

    def warning(self, what: str, error: BaseException) -> None:
        """Something was done in another way: one line."""
        kept = self._kept(what)
        if kept is not None:
            self._logger.warning("%s: %s: %s%s", what, type(error).__name__, error, _more(kept))

    def error(self, what: str, error: BaseException) -> None:
        """Something was not done: with its traceback. What is raised in the same place is of one kind."""
        kept = self._kept((type(error), *_raised_in(error)))
        if kept is not None:
            self._logger.error("%s%s", what, _more(kept), exc_info=error)

    def _kept(self, kind: Hashable) -> int | None:
        """How often a kind was not said since the last time; None: it is not to be said now either."""
        now_s = self._now_s()
        with self._mutex:
            said_s, kept = self._said.get(kind, (-_EVERY_S, 0))
            if now_s - said_s < _EVERY_S:
                self._said[kind] = said_s, kept + 1
                return None
            if len(self._said) >= _KINDS:
                self._said.clear()
            self._said[kind] = now_s, 0
            return kept


def _more(kept: int) -> str:
    return f" (and {kept:,} more like it since this was last said)" if kept else ""


def _raised_in(error: BaseException) -> tuple[str, int]:
    """The file and the line that raised an error, or the one that it was raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    frame, trace = ("", 0), error.__traceback__
    while trace is not None:
        frame, trace = (trace.tb_frame.f_code.co_filename, trace.tb_lineno), trace.tb_next
    return frame
