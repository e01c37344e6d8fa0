"""A door that a fork closes: it waits until nobody is inside, so that parent and child share nothing half done."""

from __future__ import annotations

import threading
import time
from types import TracebackType

_LONGEST_WAIT_S = 10.0  # a fork goes on after this, whoever is inside


class ForkGate:
    """`with gate:` around work that no fork may split. It does not nest within one thread.

    >>> with ForkGate() as gate:
    ...     gate.inside
    1
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self.inside = 0

    def __enter__(self) -> ForkGate:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self.inside += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self.inside -= 1
            if not self.inside:
                self._changed.notify_all()

    def close(self) -> bool:
        """Before a fork: let nobody in, and wait until all are out; False when somebody stayed for too long."""
        end = time.monotonic() + _LONGEST_WAIT_S
        with self._changed:
            self._closed = True
            while self.inside and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self.inside

    def open(self) -> None:
        """After a fork, in the parent."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()
