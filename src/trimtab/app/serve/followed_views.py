"""Let a worker wait until another process has applied events to the online features."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from trimtab.app.online.stored_views import missing
from trimtab.app.system import System
from trimtab.serving.failures import NotApplied, not_applied
from trimtab.serving.workers.states import ServiceState

_LOOK_S, _LONGEST_LOOK_S = 0.001, 0.02
_ASK_S = 0.1  # the time between two reads of the state that the applying process publishes
_KNOWN_S = 1.0  # how long the list of views is cached


class FollowedViews:
    """For a process that only reads online features: finds out how far events are applied. Threads may share it.

    Args:
        wake: Wakes the process that applies events, so that it looks for new events.
        told: Returns the newest state that the applying process has published.
    """

    def __init__(
        self, system: System, wake: Callable[[], object], told: Callable[[], ServiceState | None] = lambda: None
    ) -> None:
        self._system = system
        self._wake = wake
        self._state_of_engine = told
        self._hashes: frozenset[str] = frozenset()
        self._known_s = -_KNOWN_S

    def missing(self, positions: Mapping[str, int]) -> int:
        """Return how many log records up to `positions` have not been applied to the views.

        Raises:
            Unavailable: The stored online features are gone and have not been rebuilt yet.
            Corrupt: The stored online features are damaged. The message has the command that repairs them.
        """
        state = self._system.state
        state.online.reopen_if_replaced()
        return missing(state, self._needed(), positions)

    def wait_applied(self, positions: Mapping[str, int], timeout_s: float) -> None:
        """Wait until all log records up to `positions` have been applied.

        Raises:
            NotApplied: The records were not applied within `timeout_s`, or events are no longer applied at all.
        """
        begun_s = checked_s = time.monotonic()
        look_s = _LOOK_S
        self._wake()
        while self.missing(positions):
            now_s = time.monotonic()
            if now_s - begun_s >= timeout_s:
                raise _not_applied(f"waited {timeout_s} s", self._state_of_engine())
            if now_s - checked_s >= _ASK_S:
                checked_s, told = now_s, self._state_of_engine()
                if told is not None and told.stopped:
                    raise _not_applied("", told)
            time.sleep(look_s)
            look_s = min(2 * look_s, _LONGEST_LOOK_S)

    def _needed(self) -> frozenset[str]:
        if time.monotonic() - self._known_s >= _KNOWN_S:
            self._hashes = frozenset(view.hash for view in self._system.live.views())
            self._known_s = time.monotonic()
        return self._hashes


def _not_applied(why: str, told: ServiceState | None) -> NotApplied:
    said = "" if told is None or told.stands_still is None else told.stands_still
    return not_applied("; ".join(filter(None, (why, said))))
