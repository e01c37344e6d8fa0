"""Log repeated failures: each kind of failure is logged in full at most once in ten seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from time import monotonic

_EVERY_S = 10.0
_KINDS = 1_000  # the maximum number of kinds that are kept in memory


class ThrottledLogger:
    """Logs failures, each kind in full at most once in ten seconds. Threads may share this object.

    Args:
        now_s: A monotonic clock, in seconds.
    """

    def __init__(self, logger: logging.Logger, now_s: Callable[[], float] = monotonic) -> None:
        self._logger = logger
        self._now_s = now_s
        self._mutex = threading.Lock()
        # by kind: when it was last logged, and how often it was suppressed since then
        self._logged: dict[Hashable, tuple[float, int]] = {}

    def warning(self, what: str, error: BaseException) -> None:
        """Log a failure that did not make the request fail. For each `what`, this logs at most once in ten seconds."""
        kept = self._suppressed(what)
        if kept is not None:
            more = f" (and {kept:,} more since this was last logged)" if kept else ""
            self._logger.warning("%s: %s: %s%s", what, type(error).__name__, error, more)

    def error(self, what: str, error: BaseException, *, of: str) -> None:
        """Log a request that failed. This always logs a line, and at most once in ten seconds a traceback of each kind.

        Args:
            what: A text that names the request.
            error: The error. Errors of the same type that are raised at the same line are of the same kind.
            of: The model. Errors of different models are of different kinds.
        """
        kind = type(error)
        if self._suppressed((of, f"{kind.__module__}.{kind.__qualname__}", *_raised_in(error))) is None:
            self._logger.error("%s: %r", what, error)
        else:
            self._logger.error("%s", what, exc_info=error)

    def _suppressed(self, kind: Hashable) -> int | None:
        """Return how often a kind was suppressed since it was last logged; None: it must be suppressed now."""
        now_s = self._now_s()
        with self._mutex:
            logged_s, kept = self._logged.get(kind, (-_EVERY_S, 0))
            if now_s - logged_s < _EVERY_S:
                self._logged[kind] = logged_s, kept + 1
                return None
            if len(self._logged) >= _KINDS:
                self._logged = {one: at for one, at in self._logged.items() if now_s - at[0] < _EVERY_S}
            if len(self._logged) < _KINDS:
                self._logged[kind] = now_s, 0
            return kept


def _raised_in(error: BaseException) -> tuple[str, int]:
    """Return the file and the line that raised an error, or that raised its first cause, if it has one."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    place, trace = ("", 0), error.__traceback__
    while trace is not None:
        place, trace = (trace.tb_frame.f_code.co_filename, trace.tb_lineno), trace.tb_next
    return place
