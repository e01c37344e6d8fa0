"""The supervisor of a service's workers: it starts them, replaces those that fail, and ends them.

The supervisor holds the listening socket while workers start and end, so that no connection is refused. Requests do not
pass through this process.  # D92
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

import msgspec

from trimtab.core.errors import Unavailable
from trimtab.run.signals import caught
from trimtab.serving.workers.channel import CHANGED, READY, WAKE
from trimtab.serving.workers.worker import Worker

_logger = logging.getLogger(__name__)
_TICK_S = 0.25  # time between two checks of all workers
_STEADY_S = 10.0  # after a worker process has run this long, the failures of the processes before it no longer count
_AT_ONCE = 3  # after more failures in a row than this, a worker is only replaced after a pause
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_FAILED_STARTS = 3  # if a worker fails this many times before any was ready, the service does not start
_CLOSING_S = 2.0  # additional seconds after `grace_s` in which a worker may close its files


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait for a worker, in seconds."""

    start_s: float = 120.0  # until the worker is ready
    silent_s: float = 20.0  # after this time without a message, the worker counts as stuck
    grace_s: float = 10.0  # at the end: to finish requests in flight


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one worker, as shown to people."""

    slot: int
    pid: int | None  # None if no process runs at present, until the worker is restarted
    ready: bool
    restarts: int
    ended: str = ""  # how the previous process of this worker ended, if it failed
    last_words: str = ""  # the last output of that process
    changed: bool = False  # the worker's definitions differ from those with which the service began


class _Slot:
    """A place for one worker process. If it ends, a new one takes the place. Restarts and failures are counted here."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.restarts = 0
        self.failures = 0  # the number of failures in a row
        self.begin_s = 0.0  # the earliest time (`monotonic`) at which the next process may start
        self.ended = self.last_words = ""


class Supervisor:
    """Starts workers, replaces those that fail or hang, and lets all of them finish their requests at the end.

    Args:
        command: The command that runs a worker. The file descriptors of its channel and of the socket are added to it.
        task: Returns the task for the worker with a given number.
        listener: The socket, which is already listening. It is closed at the end.
        patience: How long to wait for each worker.
        wake_requested: Called when a worker has appended events, and a client waits until they are applied.
        ended: Called with the number and the process id of a worker process that has ended.
        each_round: Called at least four times a second, and after each message of a worker.
    """

    def __init__(
        self,
        command: Sequence[str],
        task: Callable[[int], bytes],
        listener: socket.socket,
        count: int,
        *,
        patience: Patience | None = None,
        wake_requested: Callable[[], object] | None = None,
        ended: Callable[[int, int], object] | None = None,
        each_round: Callable[[], object] | None = None,
    ) -> None:
        self._command = command
        self._task = task
        self._listener = listener
        self._patience = patience or Patience()
        self._wake_requested = wake_requested
        self._ended = ended
        self._each_round = each_round
        self._slots = [_Slot(n) for n in range(1, count + 1)]
        self._signals = 0
        self._was_ready = False
        self._selector = selectors.DefaultSelector()
        self._waker, self._wake_end = socket.socketpair()
        self._waker.setblocking(False)
        self._wake_end.setblocking(False)
        self._selector.register(self._wake_end, selectors.EVENT_READ, None)

    def states(self) -> list[SlotState]:
        """Return the state of each worker."""
        return [
            SlotState(
                slot=slot.number,
                pid=None if slot.worker is None else slot.worker.pid,
                ready=slot.worker is not None and slot.worker.ready,
                restarts=slot.restarts,
                ended=slot.ended,
                last_words=slot.last_words,
                changed=slot.worker is not None and slot.worker.changed,
            )
            for slot in self._slots
        ]

    def run(self, announce: Callable[[], object]) -> None:
        """Supervise the workers until a signal or `stop`. Then let them finish their requests.

        A second signal kills the workers.

        Args:
            announce: Called once, when the first worker is ready.

        Raises:
            Unavailable: No worker can be started. The message has the last output of a worker.
        """
        with caught(lambda number, frame: self.stop()):
            try:
                while not self._signals:
                    self._fill_slots()
                    if not self._was_ready and any(slot.worker and slot.worker.ready for slot in self._slots):
                        self._was_ready = True
                        announce()
                    self._listen(_TICK_S)
                    self._check_workers()
                    if self._each_round is not None:
                        self._each_round()
                self._drain()
            finally:
                self._end_all()

    def stop(self) -> None:
        """Act like a signal: the first call lets the workers finish, and the second kills them.

        Any thread may call this.
        """
        self._signals += 1
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"!")

    # -- workers ------------------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        for slot in self._slots:
            if slot.worker is None and time.monotonic() >= slot.begin_s:
                try:
                    slot.worker = Worker(slot.number, self._command, self._task(slot.number), self._listener)
                except OSError as error:  # out of memory, or too many processes
                    self._lost(slot, f"worker {slot.number} cannot be started: {error}", "")
                    continue
                self._selector.register(slot.worker.channel, selectors.EVENT_READ, (slot, "channel"))
                self._selector.register(slot.worker.output, selectors.EVENT_READ, (slot, "output"))

    def _listen(self, wait_s: float) -> None:
        """Receive messages and output from workers, for at most `wait_s`."""
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_end.recv(64)
                continue
            slot, what = key.data
            worker: Worker = slot.worker
            if what == "output":
                if not worker.forward_output():
                    self._selector.unregister(key.fileobj)
                continue
            messages = worker.receive()
            if not messages:  # the channel is closed, so the process has ended or will end soon
                self._selector.unregister(key.fileobj)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(_TICK_S)
            if READY in messages:
                worker.ready = True
            if CHANGED in messages:
                worker.changed = True
            if WAKE in messages and self._wake_requested is not None:
                self._wake_requested()

    def _check_workers(self) -> None:
        """Replace workers that have ended, and kill those that hang."""
        now_s = time.monotonic()
        for slot in self._slots:
            worker = slot.worker
            if worker is None:
                continue
            if worker.process.poll() is not None:
                self._on_worker_exit(slot, worker)
                continue
            silent_s = now_s - worker.received_s
            if silent_s > (self._patience.silent_s if worker.ready else self._patience.start_s):
                what = "has not answered" if worker.ready else "was not ready"
                _logger.warning("worker %d (pid %d) %s for %.0f s: killed", slot.number, worker.pid, what, silent_s)
                worker.kill()
            elif worker.ready and now_s - worker.begun_s > _STEADY_S:
                slot.failures = 0

    def _on_worker_exit(self, slot: _Slot, worker: Worker) -> None:
        self._forget(worker)
        slot.worker = None
        output = worker.last_output()
        self._lost(slot, f"worker {slot.number} (pid {worker.pid}) {worker.ending()}", output)
        if self._ended is not None:
            self._ended(slot.number, worker.pid)

    def _lost(self, slot: _Slot, what: str, output: str) -> None:
        slot.ended, slot.last_words = what, output
        slot.restarts += 1
        slot.failures += 1
        pause_s = 0.0
        if slot.failures > _AT_ONCE:
            pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(slot.failures - _AT_ONCE - 1, 16))
        slot.begin_s = time.monotonic() + pause_s
        if not self._was_ready and slot.failures >= _FAILED_STARTS:
            raise Unavailable(
                f"workers: {_FAILED_STARTS} failures before any worker was ready. The last: {what}: {output}"
            )
        _logger.warning("%s; a new one starts%s", what, f" in {pause_s:.1f} s" if pause_s else "")

    def _forget(self, worker: Worker) -> None:
        for file in (worker.channel, worker.output):
            with contextlib.suppress(KeyError):
                self._selector.unregister(file)
        worker.close()

    # -- the end ------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Accept no more connections, and let the workers finish their requests, until a second signal."""
        self._listener.close()
        left = [slot for slot in self._slots if slot.worker is not None]
        for slot in left:
            if slot.worker is not None:
                slot.worker.terminate()
        end_s = time.monotonic() + self._patience.grace_s + _CLOSING_S
        while left and self._signals < 2 and time.monotonic() < end_s:
            self._listen(0.05)
            left = [slot for slot in left if slot.worker is not None and slot.worker.process.poll() is None]

    def _end_all(self) -> None:
        """Kill all remaining workers, and wait until they have ended."""
        self._listener.close()
        for slot in self._slots:
            worker, slot.worker = slot.worker, None
            if worker is None:
                continue
            if worker.process.poll() is None:
                if worker.ready:  # a worker that was not ready had no requests
                    _logger.warning("worker %d (pid %d) has not finished in time: killed", slot.number, worker.pid)
                worker.kill()
            worker.process.wait()
            self._forget(worker)
        self._selector.close()
        self._waker.close()
        self._wake_end.close()
