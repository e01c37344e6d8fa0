"""Group commit: answers of one moment share one append to the prediction log."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import TypeAlias

from trimtab.core.records import Prediction
from trimtab.serving.prediction_log import PredictionLog, encode
from trimtab.serving.spool import Spool

SLOW_S = 0.005  # an append that usually takes longer must not hold up the loop
_LOOKS = 4  # turns of the loop that a group may wait for more to join it
_WEIGHT = 0.1  # of the newest append in the usual time
_RETRY_AFTER = 256  # appends in the thread before the loop is tried again

_LATER_S = 0.01  # how long noted answers wait for more to share their append
_NOTED_AT_MOST = 256  # then they wait no longer

_Waiting: TypeAlias = "tuple[Sequence[Prediction], asyncio.Future[None]]"


class GroupCommit:
    """Appends predictions for the tasks of one event loop; each answer leaves after its own are in the log.

    What the tasks of one turn of the loop made is appended together at its end. That happens in the loop itself as
    long as appends are quick, syncs included: handing them to a thread costs more than a solid-state disk takes.
    When they are slow it happens in a thread, where whatever arrives meanwhile shares the next append.

    With a spool, answers leave as soon as they are noted there, and are appended in the loop some milliseconds later:
    killing the process loses none, for the spool is read when it starts again. While the log cannot be written they
    stay noted; once the spool is full, askers are refused.
    """

    def __init__(self, log: PredictionLog, spool: Spool | None = None) -> None:
        self.usual_s = 0.0  # how long an append usually takes
        self.failure: Exception | None = None  # why noted answers are not in the log yet
        self._log = log
        self._spool = spool
        self._noted: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._turn: list[_Waiting] = []  # for the end of this turn of the loop
        self._handed: list[_Waiting] = []  # for the thread
        self._in_loop = True
        self._in_thread = 0  # appends since the loop was left
        self._queue: queue.SimpleQueue[asyncio.AbstractEventLoop | None] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    def note(self, predictions: Sequence[Prediction]) -> bool:
        """Note `predictions` in the spool: they will be in the log; False when they have to be appended first."""
        if self._spool is None:
            return False
        payloads = [encode(p) for p in predictions]
        if not self._spool.add(payloads):
            self.append_noted()
            if not self._spool.add(payloads):  # full still, or too many for it
                return False
        self._noted += payloads
        if len(self._noted) >= _NOTED_AT_MOST and self.failure is None:
            self.append_noted()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATER_S, self.append_noted)
        return True

    def append_noted(self) -> None:
        """Append what is noted; `failure` says why when that cannot be done now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._noted or self._spool is None:
            return
        try:
            self._log.append_payloads(self._noted)
        except Exception as error:  # answered and noted: kept, tried again with the next ones, shown in `failure`
            self.failure = error
            return
        self.failure = None
        self._noted = []
        self._spool.clear()

    def append(self, predictions: Sequence[Prediction]) -> asyncio.Future[None]:
        """A future that is done once `predictions` are in the log.

        It raises Unavailable when the log cannot be written now; none of them are in it then.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if self._in_loop:
            if not self._turn:
                loop.call_soon(self._flush, loop, 1, _LOOKS)
            self._turn.append((predictions, done))
        else:
            self._hand_over(loop, (predictions, done))
        return done

    def close(self) -> None:
        """Append what is noted or waits in the thread, then stop it."""
        self.append_noted()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _flush(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        if (
            looks and len(self._turn) > seen
        ):  # busy: what the last commit answered is coming back, let it share this one
            loop.call_soon(self._flush, loop, len(self._turn), looks - 1)
            return
        waiting, self._turn = self._turn, []
        _finish(waiting, self._append(waiting))
        if self.usual_s > SLOW_S:
            self._in_loop, self._in_thread = False, 0

    def _hand_over(self, loop: asyncio.AbstractEventLoop, one: _Waiting) -> None:
        with self._mutex:
            first = not self._handed
            self._handed.append(one)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="trimtab-commit", daemon=True)
            self._thread.start()
        if first:
            self._queue.put(loop)

    def _run(self) -> None:
        while (loop := self._queue.get()) is not None:
            with self._mutex:
                waiting, self._handed = self._handed, []
            error = self._append(waiting)
            loop.call_soon_threadsafe(self._appended, waiting, error)

    def _appended(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        """In the loop, after an append of the thread."""
        _finish(waiting, error)
        self._in_thread += 1
        if self._in_thread >= _RETRY_AFTER and not self._in_loop:  # the thread's own waiting makes appends look slow
            self._in_loop, self.usual_s = True, SLOW_S / 2

    def _append(self, waiting: Sequence[_Waiting]) -> Exception | None:
        start = perf_counter()
        try:
            self._log.append([p for predictions, _ in waiting for p in predictions])
        except Exception as error:  # whatever it is, the tasks must not wait for ever: each raises it
            return error
        finally:
            self.usual_s += _WEIGHT * (perf_counter() - start - self.usual_s)
        return None


def _finish(waiting: Sequence[_Waiting], error: Exception | None) -> None:
    for _, future in waiting:
        if not future.done():  # the asker may have gone
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
