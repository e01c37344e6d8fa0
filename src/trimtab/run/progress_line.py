"""One line about the progress of slow work, on a terminal or in a notebook."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

_QUICK_S = 1.0  # if work takes less time than this, nothing is shown
_EVERY_S = 0.5  # time between two updates of the line
_WIDTH = 99


class ProgressLine:
    """Shows the work, the share that is done, and the time since its beginning, on one line of standard error.

    The line appears if the work takes longer than a second, is updated while the work goes on, and disappears at its
    end. If standard error is neither a terminal nor in a notebook, nothing is shown. Use the object in `with`, and call
    it with the amount done and the total amount.

    Args:
        what: The work, such as "ingesting orders".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._share: float | None = None
        self._begun_s = time.monotonic()
        self._ended = threading.Event()
        self._written = 0  # the length of the line that is shown
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ProgressLine:
        if can_update():
            self._thread = threading.Thread(target=self._show, name="progress line", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._write("")

    def __call__(self, done: float, total: float) -> None:
        self._share = min(1.0, done / total) if total else None

    def say(self, what: str, share: float | None = None) -> None:
        """Name other work from now on, with the share of it that is done, if this is known."""
        self._what, self._share = what, share

    def _show(self) -> None:
        wait_s = _QUICK_S
        while not self._ended.wait(wait_s):
            wait_s = _EVERY_S
            share = "" if self._share is None else f" {self._share:.0%}"
            seconds = int(time.monotonic() - self._begun_s)
            self._write(f"{self._what}:{share} {seconds // 60}:{seconds % 60:02}"[:_WIDTH])

    def _write(self, line: str) -> None:
        if not line and not self._written:
            return
        end = "\r" if not line else ""
        sys.stderr.write(f"\r{line:{self._written}}{end}")
        sys.stderr.flush()
        self._written = len(line)


def can_update() -> bool:
    """Return whether standard error can update a line: on a terminal, or in a notebook."""
    stream = sys.stderr
    return stream is not None and (type(stream).__module__.startswith("ipykernel") or stream.isatty())
