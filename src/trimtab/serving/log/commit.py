"""Group commit: answers of one moment share one append to the prediction log."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TypeAlias

from trimtab.core.errors import TrimtabError, Unavailable
from trimtab.core.records import Prediction
from trimtab.serving.log.buffered_log import TOGETHER, UPKEEP_BYTES, BufferedLog
from trimtab.serving.log.prediction_log import PredictionLog, encode

SLOW_S = 0.005  # an append that usually takes longer must not hold up the loop
_LOOKS = 4  # turns of the loop that a group may wait for more to join it
_WEIGHT = 0.1  # of the newest append in the usual time
_RETRY_AFTER = 256  # appends in the thread before the loop is tried again
_FINISHED_TOGETHER = 32  # answers at a turn of the loop
_LATER_S = 0.02  # how long noted answers wait for more to share their append
_APPEND_BYTES = 8 << 10  # that an append counts for, beside its payloads: what a disk writes for the least of them
_STALE_S = 5.0  # so long after it a failure says nothing: nobody asked since
_AGAIN_S, _AGAIN_AT_MOST_S = 0.1, 2.0  # after a failure the log is left alone for so long, then twice as long, ...

_logger = logging.getLogger(__name__)

_Waiting: TypeAlias = "tuple[Sequence[Prediction], asyncio.Future[None]]"


class GroupCommit:
    """Appends predictions for the tasks of one event loop; each answer leaves after its own are in the log.

    What the tasks of one turn of the loop made is appended together at its end. That happens in the loop itself as
    long as appends are quick, syncs included: handing them to a thread costs more than a solid-state disk takes.
    When they are slow it happens in a thread, where whatever arrives meanwhile shares the next append. There the log
    gets its upkeep too, now and then; what is made meanwhile waits to be appended, or stays noted. # D108

    In front of a `BufferedLog` answers leave as soon as they are noted, and are written in the loop some milliseconds
    later: killing the process loses none. While the log cannot be written they stay noted, and are tried again now and
    then; once there is no room for more, askers are refused. Without notes they are refused at once. A log that failed
    twice is left alone for a moment: who is refused then is refused quickly.

    Args:
        log: The prediction log.
        failing: Called when the log begins to fail, with why, and with None when it is well again.
    """

    def __init__(
        self,
        log: PredictionLog,
        failing: Callable[[str | None], object] | None = None,
    ) -> None:
        self.usual_s = 0.0  # how long an append usually takes
        self._failure: Exception | None = None
        self._failed_at_s = 0.0
        self.failures = 0  # appends that failed
        self._failing = failing
        self._in_a_row = 0  # of them
        self._again_at_s = 0.0  # until then the log is left alone
        self._log = log
        self._notes = log.log if isinstance(log.log, BufferedLog) else None
        self._timer: asyncio.TimerHandle | None = None
        self._turn: list[_Waiting] = []  # for the end of this turn of the loop
        self._handed: list[_Waiting] = []  # for the thread
        self._in_loop = True
        self._in_thread = 0  # appends since the loop was left
        self._written_bytes = 0  # since the last upkeep
        self._in_upkeep = False
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._thread_at_s = 0.0  # until then none is started: that failed
        self._closed = False

    def note(self, predictions: Sequence[Prediction]) -> bool:
        """Note `predictions`: they will be in the log; False when they have to be appended first."""
        notes = self._notes
        if notes is None:
            return False
        payloads = [encode(p) for p in predictions]
        if not notes.add(payloads):
            busy = self._in_upkeep or self._is_left_alone()  # who appends is answered when that is over
            if busy or not self._make_room() or not notes.add(payloads):
                return False
        if notes.noted >= TOGETHER and self._failure is None:
            self.append_noted()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LATER_S, self.append_noted)
        return True

    def append_noted(self) -> None:
        """Write what is noted, or have it tried in a moment; `failure` says why when that cannot be done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        notes, pause_s = self._notes, 0.0
        if notes is None or not notes.noted:
            return
        try:
            if not notes.flush(wait=self._closed):
                pause_s = _LATER_S  # somebody who reads writes it just now, or the log has its upkeep
            elif self._failure is not None:
                self._succeeded()
        except Exception as error:  # answered and noted: kept, tried again, shown in `failure`
            pause_s = self._failed(error)
        if pause_s and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self.append_noted)
        elif notes.wants_upkeep:
            self._start_upkeep()

    def _make_room(self) -> bool:
        """Write all that is noted; whether that could be done."""
        assert self._notes is not None
        try:
            self._notes.make_room()
        except Exception as error:  # the same
            self._failed(error)
            return False
        return True

    @property
    def noted(self) -> int:
        """Predictions that were answered, and are noted, but not in the log yet."""
        return 0 if self._notes is None else self._notes.noted

    def append(self, predictions: Sequence[Prediction]) -> asyncio.Future[None]:
        """A future that is done once `predictions` are in the log.

        It raises Unavailable when the log cannot be written now; none of them are in it then.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if self._is_left_alone():
            done.set_exception(self._refusal())
        elif self._in_loop or not self._has_thread():
            if not self._turn and not self._in_upkeep:
                loop.call_soon(self._flush, loop, 1, _LOOKS)
            self._turn.append((predictions, done))
        else:
            self._hand_over(loop, (predictions, done))
        return done

    def close(self) -> None:
        """Append what is noted or waits in the thread, then stop it."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        self.append_noted()
        self._append_turn()

    def _flush(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        if self._in_upkeep:
            return  # it is done at its end
        if looks and len(self._turn) > seen:  # busy: what the last commit answered is coming back, let it share this
            loop.call_soon(self._flush, loop, len(self._turn), looks - 1)
            return
        self._append_turn()

    def _append_turn(self) -> None:
        waiting, self._turn = self._turn, []
        if waiting:
            self._finish(waiting, self._append(waiting))
        if self.usual_s > SLOW_S:
            self._in_loop, self._in_thread = False, 0

    def _hand_over(self, loop: asyncio.AbstractEventLoop, one: _Waiting) -> None:
        with self._mutex:
            first = not self._handed
            self._handed.append(one)
        if first:
            self._queue.put(lambda: self._append_handed(loop))

    def _has_thread(self) -> bool:
        """Whether there is the thread, which is started where it is not; if that cannot be, the loop does its work."""
        if self._thread is None and not self._closed and perf_counter() >= self._thread_at_s:
            thread = threading.Thread(target=self._run, name="trimtab-commit", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system allows no more of them
                self._thread_at_s = perf_counter() + _AGAIN_AT_MOST_S
                _logger.warning("the prediction log has to do without a thread: %s", error)
            else:
                self._thread = thread
        return self._thread is not None

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception:  # the next one is to be done all the same
                _logger.exception("work on the prediction log failed")

    def _append_handed(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._mutex:
            waiting, self._handed = self._handed, []
        error = self._append(waiting)
        loop.call_soon_threadsafe(self._appended, waiting, error)

    def _appended(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        """In the loop, after an append of the thread."""
        self._finish(waiting, error)
        self._in_thread += 1
        if self._in_thread >= _RETRY_AFTER and not self._in_loop:  # the thread's own waiting makes appends look slow
            self._in_loop, self.usual_s = True, SLOW_S / 2

    def _finish(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        """Let answers go on, some at each turn of the loop: hundreds together would keep all others waiting."""
        together = len(waiting) if self._closed else _FINISHED_TOGETHER
        for _, future in waiting[:together]:
            if not future.done():  # the asker may have gone
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
        except Exception as error:  # whatever it is, the tasks must not wait for ever: each raises it
            self._failed(error)
            return error
        finally:
            self.usual_s += _WEIGHT * (perf_counter() - start - self.usual_s)
        if self._failure is not None:
            self._succeeded()
        self._look_after(sum(map(len, payloads)))
        return None

    # -- upkeep of the log --------------------------------------------------------------------------------------

    def _look_after(self, written_bytes: int) -> None:
        """Have the log's upkeep done once much was appended."""
        self._written_bytes += _APPEND_BYTES + written_bytes
        if self._written_bytes >= UPKEEP_BYTES:
            self._start_upkeep()

    def _start_upkeep(self) -> None:
        """Have it done in the thread."""
        if self._in_upkeep or self._closed:
            return
        self._written_bytes = 0
        if threading.current_thread() is self._thread:  # appends are done here: they wait of themselves
            self._keep_up()
            return
        if not self._has_thread():
            return  # then appends fold
        loop = asyncio.get_running_loop()
        self._in_upkeep = True
        self._queue.put(lambda: self._keep_up_for(loop))

    def _keep_up(self) -> None:
        try:
            self._log.log.maintenance()
        except TrimtabError as error:  # the next append says what is wrong
            _logger.warning("the upkeep of the prediction log has to wait: %s", error)

    def _keep_up_for(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._keep_up()
        finally:
            loop.call_soon_threadsafe(self._kept_up)

    def _kept_up(self) -> None:
        """In the loop, after an upkeep: append what was made meanwhile."""
        self._in_upkeep = False
        if not self._closed:
            self.append_noted()
            self._append_turn()

    # -- a log that fails ---------------------------------------------------------------------------------------

    @property
    def failure(self) -> Exception | None:
        """Why nothing can be appended now.

        Nothing tries a log that nobody asks for. So that a process which is asked nothing while it is not ready gets
        ready again, a failure is forgotten after five seconds unless something waits to be appended; at once, where
        notes that waited are written by now.
        """
        stale = self._notes is not None or perf_counter() - self._failed_at_s > _STALE_S
        if self._failure is not None and not self.noted and stale:
            self._succeeded()
        return self._failure

    def _failed(self, error: Exception) -> float:
        """After how many seconds the log may be tried again."""
        self._failure, begins = error, self._failure is None
        self._failed_at_s = perf_counter()
        self.failures += 1
        self._in_a_row += 1
        pause_s: float = min(_AGAIN_AT_MOST_S, _AGAIN_S * 2 ** min(self._in_a_row - 1, 16))
        if self._in_a_row > 1:
            self._again_at_s = perf_counter() + pause_s
        if begins and self._failing is not None:
            self._failing(str(error))
        return pause_s

    def _succeeded(self) -> None:
        failed, self._failure, self._in_a_row, self._again_at_s = self._failure, None, 0, 0.0
        if failed is not None and self._failing is not None:
            self._failing(None)

    def _is_left_alone(self) -> bool:
        return self._failure is not None and perf_counter() < self._again_at_s

    def _refusal(self) -> Unavailable:
        waiting = f", and {self.noted:,} that were answered wait for it" if self.noted else ""
        return Unavailable(f"predictions cannot be logged now{waiting}: {self._failure}")
