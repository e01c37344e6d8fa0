"""Group commit of the prediction log: answers given at the same time share one append."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter
from typing import TypeAlias

from trimtab.core.errors import TrimtabError, Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.log.buffered_log import MAINTENANCE_BYTES, TOGETHER, BufferedLog
from trimtab.serving.log.log_health import LogHealth
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import encode

SLOW_S = 0.005  # if appends usually take longer than this, they are made in the thread
_LOOKS = 4  # iterations of the loop for which a group waits for more answers
_WEIGHT = 0.1  # weight of the newest append in `usual_s`
_RETRY_AFTER = 256  # number of appends in the thread before appending in the loop is tried again
_FINISHED_TOGETHER = 32  # most answers that are completed in one iteration of the loop
_LATER_S = 0.02  # how long buffered answers wait for more answers that share their append
_APPEND_BYTES = 8 << 10  # bytes that a disk writes for the smallest append
_logger = logging.getLogger(__name__)

_Waiting: TypeAlias = "tuple[Sequence[Prediction], asyncio.Future[None]]"


class GroupCommit:
    """Appends predictions for the tasks of one event loop. Each answer leaves once its predictions are in the log.

    Predictions made in one iteration of the loop are appended together at its end. While appends are quick, syncs
    included, they are made in the loop itself, because a thread costs more time than a solid-state disk takes. While
    appends are slow, they are made in a thread. Predictions that arrive meanwhile share the next append. The
    maintenance of the log runs in that thread, too, and appends wait for it.  # D108

    In front of a `BufferedLog`, answers leave as soon as they are buffered, and are written in the loop some
    milliseconds later. While the log cannot be written, the answers stay buffered and the write is retried. Once the
    buffer is full, requests are refused. After two failures the log is not tried for a while, so that refusals are
    quick.

    Args:
        log: The prediction log.
        failing: Called with the reason when the log begins to fail, and with None when it works again.
    """

    def __init__(self, log: PredictionLog, failing: Callable[[str | None], object] | None = None) -> None:
        self.usual_s = 0.0  # how long an append usually takes
        self._log = log
        self._buffer = log.log if isinstance(log.log, BufferedLog) else None
        self._health = LogHealth(failing)
        self._timer: asyncio.TimerHandle | None = None  # the timer for writing the buffer
        self._turn: list[_Waiting] = []  # predictions to append at the end of this iteration
        self._handed: list[_Waiting] = []  # predictions to append in the thread
        self._mutex = threading.Lock()  # of `_handed`
        self._in_loop = True
        self._in_thread = 0  # number of appends in the thread since the last append in the loop
        self._written_bytes = 0  # since the last maintenance
        self._in_maintenance = False
        self._thread = ThreadPoolExecutor(1, "trimtab-commit")
        self._closed = False

    @property
    def buffered(self) -> int:
        """Return the number of answered predictions that are buffered and not in the log yet."""
        return 0 if self._buffer is None else self._buffer.buffered

    @property
    def failures(self) -> int:
        """Return how many appends failed."""
        return self._health.failures

    @property
    def failure(self) -> Exception | None:
        """Return why nothing can be appended now."""
        waits = self.buffered > 0
        return self._health.current(waits=waits, known_at_once=self._buffer is not None)

    # -- through the buffer -------------------------------------------------------------------------------------

    def buffer(self, predictions: Sequence[Prediction]) -> bool:
        """Buffer `predictions`, which reach the log later. Returns False when they must be appended first."""
        buffer = self._buffer
        if buffer is None:
            return False
        payloads = [encode(p) for p in predictions]
        if not buffer.add(payloads):
            busy = self._in_maintenance or self._health.waits
            if busy or not self._make_room(buffer) or not buffer.add(payloads):
                return False
        if buffer.buffered >= TOGETHER and self._health.error is None:
            self.append_buffered()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATER_S, self.append_buffered)
        return True

    def append_buffered(self) -> None:
        """Write the buffer, or schedule a retry. If the buffer cannot be written, `failure` says why."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        buffer, pause_s = self._buffer, 0.0
        if buffer is None or not buffer.buffered:
            return
        try:
            if buffer.flush(wait=self._closed):
                self._health.succeeded()
            else:
                pause_s = _LATER_S  # a reader is writing the buffer now, or the log is in maintenance
        except (
            Exception
        ) as error:  # the answers were given, so they are kept and retried, and `failure` shows the error
            pause_s = self._health.failed(error)
        if pause_s and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self.append_buffered)
        elif buffer.wants_maintenance:
            self._start_maintenance()

    def _make_room(self, buffer: BufferedLog) -> bool:
        """Write the whole buffer, and return whether that succeeded."""
        try:
            buffer.make_room()
        except Exception as error:  # the request is refused, with this error as the reason
            self._health.failed(error)
            return False
        return True

    # -- without the buffer -------------------------------------------------------------------------------------

    def append(self, predictions: Sequence[Prediction]) -> asyncio.Future[None]:
        """Append `predictions`, and return a future that is done once they are in the log.

        The future raises Unavailable when the log cannot be written now. In that case none of the predictions are in
        the log.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if self._health.waits:
            done.set_exception(self._refusal())
        elif self._in_loop or self._closed:
            if not self._turn and not self._in_maintenance:
                loop.call_soon(self._flush, loop, 1, _LOOKS)
            self._turn.append((predictions, done))
        else:
            self._hand_over(loop, (predictions, done))
        return done

    def close(self) -> None:
        """Append the predictions that are buffered or wait in the thread, then stop the thread."""
        self._closed = True
        self._thread.shutdown()
        self.append_buffered()
        self._append_turn()

    def _flush(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        if self._in_maintenance:
            return  # the end of the maintenance appends
        if (
            looks and len(self._turn) > seen
        ):  # clients that were just answered send their next requests: let those requests join
            loop.call_soon(self._flush, loop, len(self._turn), looks - 1)
            return
        self._append_turn()

    def _append_turn(self) -> None:
        waiting, self._turn = self._turn, []
        if waiting:
            self._finish(waiting, self._append(waiting))
            if self._written_bytes >= MAINTENANCE_BYTES:
                self._start_maintenance()
        if self.usual_s > SLOW_S:
            self._in_loop, self._in_thread = False, 0

    def _hand_over(self, loop: asyncio.AbstractEventLoop, one: _Waiting) -> None:
        with self._mutex:
            first = not self._handed
            self._handed.append(one)
        if first:
            self._thread.submit(self._append_handed, loop)

    def _append_handed(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._mutex:
            waiting, self._handed = self._handed, []
        error = self._append(waiting)
        loop.call_soon_threadsafe(self._appended, waiting, error)
        if self._written_bytes >= MAINTENANCE_BYTES:
            self._maintain()

    def _appended(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        """Complete the answers in the loop, after an append in the thread."""
        self._finish(waiting, error)
        self._in_thread += 1
        if (
            self._in_thread >= _RETRY_AFTER and not self._in_loop
        ):  # waiting for the thread makes appends look slower than they are
            self._in_loop, self.usual_s = True, SLOW_S / 2

    def _finish(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        """Complete futures, only some in each iteration, because hundreds at once would delay all other tasks."""
        together = len(waiting) if self._closed else _FINISHED_TOGETHER
        for _, future in waiting[:together]:
            if not future.done():  # the client may have closed its connection
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
        if rest := waiting[together:]:
            asyncio.get_running_loop().call_soon(self._finish, rest, error)

    def _append(self, waiting: Sequence[_Waiting]) -> Exception | None:
        start = perf_counter()
        try:
            payloads = [encode(p) for predictions, _ in waiting for p in predictions]
            self._log.append_payloads(payloads)
        except Exception as error:  # every task that waits gets the error
            self._health.failed(error)
            return error
        finally:
            self.usual_s += _WEIGHT * (perf_counter() - start - self.usual_s)
        self._health.succeeded()
        self._written_bytes += _APPEND_BYTES + sum(map(len, payloads))
        return None

    def _refusal(self) -> Unavailable:
        waiting = f", and {self.buffered:,} answers wait for it" if self.buffered else ""
        return Unavailable(f"predictions cannot be logged now{waiting}: {self._health.error}")

    # -- maintenance of the log ---------------------------------------------------------------------------------

    def _start_maintenance(self) -> None:
        """Let the thread do the maintenance of the log."""
        if self._in_maintenance or self._closed:
            return
        self._in_maintenance = True
        loop = asyncio.get_running_loop()
        self._thread.submit(self._maintain_for, loop)

    def _maintain_for(self, loop: asyncio.AbstractEventLoop) -> None:
        self._maintain()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._maintained)

    def _maintain(self) -> None:
        self._written_bytes = 0
        try:
            self._log.log.maintenance()
        except TrimtabError as error:  # the next append reports the error
            _logger.warning("maintenance of the prediction log failed: %s", error)
        except Exception:  # the log has a fault, but appends go on
            _logger.exception("maintenance of the prediction log failed")

    def _maintained(self) -> None:
        """Append in the loop, after a maintenance, what was made meanwhile."""
        self._in_maintenance = False
        if not self._closed:
            self.append_buffered()
            self._append_turn()
