"""What goes wrong at each of thousands of requests a second is told at length once in ten seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from time import monotonic

_EVERY_S = 10.0
_KINDS = 1_000  # that are remembered, where so many were said in ten seconds


class ThrottledLogger:
    """Tells what went wrong, of each kind at length at most once in ten seconds. Threads may share one.

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
        """Something was done in another way: a line, and nothing meanwhile, which metrics count."""
        kept = self._kept(what)
        if kept is not None:
            more = f" (and {kept:,} more since this was last said)" if kept else ""
            self._logger.warning("%s: %s: %s%s", what, type(error).__name__, error, more)

    def error(self, what: str, error: BaseException, *, of: str) -> None:
        """Something was not done: always a line, and with it a traceback, unless one was shown just now.

        Args:
            what: What was not done, and for whom.
            error: Why; what is raised in the same place, of the same type, is of one kind.
            of: What else a kind is told by: a model.
        """
        kind = type(error)
        if self._kept((of, f"{kind.__module__}.{kind.__qualname__}", *_raised_in(error))) is None:
            self._logger.error("%s: %r", what, error)
        else:
            self._logger.error("%s", what, exc_info=error)

    def _kept(self, kind: Hashable) -> int | None:
        """How often a kind was not said since the last time; None: it is not to be said now either."""
        now_s = self._now_s()
        with self._mutex:
            said_s, kept = self._said.get(kind, (-_EVERY_S, 0))
            if now_s - said_s < _EVERY_S:
                self._said[kind] = said_s, kept + 1
                return None
            if len(self._said) >= _KINDS:
                self._said = {other: said for other, said in self._said.items() if now_s - said[0] < _EVERY_S}
            if len(self._said) < _KINDS:
                self._said[kind] = now_s, 0
            return kept


def _raised_in(error: BaseException) -> tuple[str, int]:
    """The file and the line that raised an error, or the one that it was raised from."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:  # it may be its own
        error = error.__cause__
        seen.add(id(error))
    place, trace = ("", 0), error.__traceback__
    while trace is not None:
        place, trace = (trace.tb_frame.f_code.co_filename, trace.tb_lineno), trace.tb_next
    return place
