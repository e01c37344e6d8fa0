"""Group commit of the prediction log: predictions made at the same time are appended together."""

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
from trimtab.serving.log.prediction_record import PackedPredictions, encode

SLOW_S = 0.005  # if appends usually take longer than this, they are made in a thread
_LOOKS = 4  # a group waits at most this many iterations of the event loop for more predictions
_WEIGHT = 0.1  # the weight of the newest append in the moving average `usual_s`
_RETRY_AFTER = 256  # after this many appends in the thread, appending in the event loop is tried again
_MANY = 1_000  # a request with more predictions (each takes about 4 us to append) uses the thread  # D0217
_FINISHED_TOGETHER = 32  # the maximum number of answers completed in one iteration of the loop
_LATER_S = 0.02  # how long buffered predictions wait, so that more are written together
_APPEND_BYTES = 8 << 10  # each append counts as this many written bytes, in addition to its payloads
_logger = logging.getLogger(__name__)

_Waiting: TypeAlias = "tuple[Sequence[Prediction | bytes], asyncio.Future[None]]"


class GroupCommit:
    """Appends predictions for all tasks of one event loop. A task sends its answer when its predictions are safe.

    The predictions made in one iteration of the loop are appended together: at its end, or up to four iterations later
    as long as more arrive. While appends, with their disk syncs, are fast, they are made in the loop itself, because
    switching to a thread would take longer. Slow or large appends are made in a thread, and predictions that arrive
    meanwhile share the next append. Maintenance of the log runs in that thread, too, and appends wait for it.  # D108

    If the log is a `BufferedLog`, answers are sent as soon as their predictions are in the buffer. The loop writes the
    buffer to the log some milliseconds later. While the log cannot be written, predictions stay in the buffer and
    writing is tried again. If the buffer is full and cannot be written, requests are refused.

    After two failures in a row, requests do not try to write the log for a while, so that refusals are fast.

    Args:
        failing: Called with the reason when the log begins to fail, and with None when it works again.
    """

    def __init__(self, log: PredictionLog, failing: Callable[[str | None], object] | None = None) -> None:
        self.usual_s = 0.0  # how long an append usually takes (a moving average)
        self._log = log
        self._buffer = log.log if isinstance(log.log, BufferedLog) else None
        self._health = LogHealth(failing)
        self._timer: asyncio.TimerHandle | None = None  # the timer for writing the buffer
        self._turn: list[_Waiting] = []  # predictions to append in the loop, at the end of an iteration
        self._handed: list[_Waiting] = []  # predictions to append in the thread
        self._mutex = threading.Lock()  # protects `_handed`
        self._in_loop = True  # whether appends are made in the loop, because they are fast
        self._busy = 0  # number of appends that the thread was told to make and has not made yet
        self._in_thread = 0  # number of appends in the thread since appends in the loop became slow
        self._written_bytes = 0  # bytes written since the last maintenance
        self._in_maintenance = False
        self._thread = ThreadPoolExecutor(1, "trimtab-commit")
        self._closed = False

    @property
    def buffered(self) -> int:
        """Return the number of predictions that were answered but are not in the log yet."""
        return 0 if self._buffer is None else self._buffer.buffered

    @property
    def failures(self) -> int:
        """Return the number of appends that failed."""
        return self._health.failures

    @property
    def failure(self) -> Exception | None:
        """Return the error that prevents appends now, or None."""
        return self._health.current(unwritten=self.buffered > 0, known_at_once=self._buffer is not None)

    # -- through the buffer -------------------------------------------------------------------------------------

    def buffer(self, predictions: Sequence[Prediction | bytes]) -> bool:
        """Buffer predictions or payloads. Return False if `append` must be used: no buffer, no room, or too many."""
        buffer = self._buffer
        if buffer is None or (len(predictions) > _MANY and self._health.error is None):
            return False
        payloads = [p if isinstance(p, bytes) else encode(p) for p in predictions]
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
        """Write the buffer to the log. If this fails, another attempt is scheduled, and `failure` is the error."""
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
                pause_s = _LATER_S  # another thread is writing the buffer, or does maintenance
        except Exception as error:  # the answers were sent already, so try again later
            pause_s = self._health.failed(error)
        if pause_s and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self.append_buffered)
        elif buffer.wants_maintenance:
            self._start_maintenance()

    def _make_room(self, buffer: BufferedLog) -> bool:
        """Write the whole buffer, and return whether this succeeded."""
        try:
            buffer.make_room()
        except Exception as error:  # the request is refused because of this error
            self._health.failed(error)
            return False
        return True

    # -- without the buffer -------------------------------------------------------------------------------------

    def append(self, predictions: Sequence[Prediction | bytes]) -> asyncio.Future[None]:
        """Append predictions. The returned future is done when they are in the log.

        If the log cannot be written now, the future raises Unavailable, and none of the predictions are in the log.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if self._health.waits:
            done.set_exception(self._refusal())
        elif self._closed or (self._in_loop and not self._busy and len(predictions) <= _MANY):
            if not self._turn and not self._in_maintenance:
                loop.call_soon(self._flush, loop, 1, _LOOKS)
            self._turn.append((predictions, done))
        else:
            self._hand_over(loop, (predictions, done))
        return done

    def close(self) -> None:
        """End the thread after it has appended what was handed to it. Then append all other waiting predictions."""
        self._closed = True
        self._thread.shutdown()
        self.append_buffered()
        self._append_turn()

    def _flush(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        if self._in_maintenance:
            return  # `_maintained` appends the predictions
        # if more predictions came, wait: clients that were just answered may send their next requests now
        if looks and len(self._turn) > seen:
            loop.call_soon(self._flush, loop, len(self._turn), looks - 1)
            return
        self._append_turn()

    def _append_turn(self) -> None:
        waiting, self._turn = self._turn, []
        for group in _groups(waiting):
            self._finish(group, self._append(group))
        if waiting and self._written_bytes >= MAINTENANCE_BYTES:
            self._start_maintenance()
        if self.usual_s > SLOW_S:
            self._in_loop, self._in_thread = False, 0

    def _hand_over(self, loop: asyncio.AbstractEventLoop, one: _Waiting) -> None:
        with self._mutex:
            first = not self._handed
            self._handed.append(one)
        if first:
            self._busy += 1
            self._thread.submit(self._append_handed, loop)

    def _append_handed(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._mutex:
            waiting, self._handed = self._handed, []
        appended = [(group, self._append(group)) for group in _groups(waiting)]
        loop.call_soon_threadsafe(self._appended, appended)
        if self._written_bytes >= MAINTENANCE_BYTES:
            self._maintain()

    def _appended(self, appended: Sequence[tuple[Sequence[_Waiting], Exception | None]]) -> None:
        """Complete futures in the event loop, after appends in the thread."""
        for waiting, error in appended:
            self._finish(waiting, error)
        self._busy -= 1
        self._in_thread += 1
        # try the loop again, even if `usual_s` is high: appends take longer in a thread, which waits for other threads
        if self._in_thread >= _RETRY_AFTER and not self._in_loop:
            self._in_loop, self.usual_s = True, SLOW_S / 2

    def _finish(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        """Complete futures, but only some in each iteration, because hundreds at once would delay all other tasks."""
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
        """Append the predictions of one group (see `_groups`). Return the error if this failed."""
        start = perf_counter()
        try:
            if isinstance(waiting[0][0], PackedPredictions):
                payloads = waiting[0][0].packs()
                self._log.append_packs(payloads)
            else:
                payloads = [p if isinstance(p, bytes) else encode(p) for predictions, _ in waiting for p in predictions]
                self._log.append_payloads(payloads)
        except Exception as error:  # each waiting task gets the error
            self._health.failed(error)
            return error
        finally:
            self.usual_s += _WEIGHT * (perf_counter() - start - self.usual_s)
        self._health.succeeded()
        self._written_bytes += _APPEND_BYTES + sum(map(len, payloads))
        return None

    def _refusal(self) -> Unavailable:
        waiting = f" ({self.buffered:,} that were answered wait to be logged)" if self.buffered else ""
        return Unavailable(f"predictions cannot be logged now{waiting}: {self._health.error}")

    # -- maintenance of the log ---------------------------------------------------------------------------------

    def _start_maintenance(self) -> None:
        """Start the maintenance of the log in the thread."""
        if self._in_maintenance or self._closed:
            return
        self._in_maintenance = True
        loop = asyncio.get_running_loop()
        self._thread.submit(self._maintain_for, loop)

    def _maintain_for(self, loop: asyncio.AbstractEventLoop) -> None:
        self._maintain()
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(self._maintained)

    def _maintain(self) -> None:
        self._written_bytes = 0
        try:
            self._log.log.maintenance()
        except TrimtabError as error:  # the next append will report the error
            _logger.warning("maintenance of the prediction log failed: %s", error)
        except Exception:  # even after a fault in the maintenance, appends continue
            _logger.exception("maintenance of the prediction log failed")

    def _maintained(self) -> None:
        """After the maintenance, append the predictions that were made meanwhile."""
        self._in_maintenance = False
        if not self._closed:
            self.append_buffered()
            self._append_turn()


def _groups(waiting: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """Return what is appended together: all lists of predictions, and each `PackedPredictions` alone."""
    plain = [one for one in waiting if not isinstance(one[0], PackedPredictions)]
    return [*([plain] if plain else []), *([one] for one in waiting if isinstance(one[0], PackedPredictions))]
