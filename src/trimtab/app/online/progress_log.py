"""Log progress messages while a user waits for slow work."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

_logger = logging.getLogger(__name__)
_QUICK_S = 0.5  # shorter work logs nothing
_EVERY_S = 10.0  # the time between two messages


class ProgressLog:
    """Logs the current step and its progress after half a second, and then every ten seconds.

    Use it in a `with` statement, and call it at each step. Its messages are warnings, so that they reach standard error
    even if logging is not set up. Its thread starts at the first call, because short work needs none.
    """

    def __init__(self, what: str, *, quick_s: float = _QUICK_S, every_s: float = _EVERY_S) -> None:
        self._what = what
        self._far = "..."
        self._wait_s, self._every_s = quick_s, every_s
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, what: str, done: int, of: int) -> None:
        """Set the current step and its progress: `done` of about `of` records."""
        self._what, self._far = what, f"{min(1.0, done / of) if of else 1.0:.0%} of {of:,} records"
        if self._thread is None:
            self._thread = threading.Thread(target=self._log, name="trimtab-progress", daemon=True)
            self._thread.start()

    def __enter__(self) -> ProgressLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _log(self) -> None:
        while not self._done.wait(self._wait_s):
            self._wait_s = self._every_s
            _logger.warning("%s: %s", self._what, self._far)
