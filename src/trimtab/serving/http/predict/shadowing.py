"""Run shadow versions a little at a time, while no request is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter

from trimtab.core.records import Prediction
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.arms.arms import Shadow, ShadowMetrics
from trimtab.serving.http.predict.scheduler import RequestScheduler
from trimtab.serving.log.commit import GroupCommit

_PAUSE_S = 0.005  # the shortest pause between two pieces of work
_WORK_S = 0.001  # seconds of work after each pause; at least one prediction is made
# a pause takes at least this many times as long as the work before it: shadows use at most a sixth of the time
_PAUSES = 5


class Shadowing:
    """Lets shadows answer the requests that were offered to them.

    Args:
        scheduler: Says whether requests are in flight.
        commit: Logs the predictions of the shadows.
    """

    def __init__(self, scheduler: RequestScheduler, commit: GroupCommit) -> None:
        self._scheduler = scheduler
        self._commit = commit
        self._busy: set[Shadow] = set()
        self._timer: asyncio.TimerHandle | None = None

    def offer(self, shadow: Shadow, rows: Sequence[Row]) -> None:
        """Offer answered requests to a shadow."""
        shadow.offer(rows)
        if shadow.waits:
            self._busy.add(shadow)
            self._later()

    def _later(self, pause_s: float = _PAUSE_S) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._work)

    def _work(self) -> None:
        self._timer, begun_s = None, perf_counter()
        if not self._scheduler.under_way:
            for shadow in list(self._busy):
                made = shadow.work(_WORK_S / len(self._busy))
                if made:
                    self._log(made, shadow.counts)
                if not shadow.waits:
                    self._busy.discard(shadow)
        if self._busy:
            self._later(max(_PAUSE_S, _PAUSES * (perf_counter() - begun_s)))

    def _log(self, made: Sequence[Prediction], counts: ShadowMetrics) -> None:
        """Log predictions of a shadow. If this fails, they are dropped and counted."""

        def logged(done: asyncio.Future[None]) -> None:
            if done.cancelled() or done.exception() is not None:
                counts.dropped += len(made)
            else:
                counts.answered += len(made)

        if self._commit.buffer(made):
            counts.answered += len(made)
        else:
            self._commit.append(made).add_done_callback(logged)
