"""Keeps so many workers alive behind one listening socket until it is told to end.

The socket stays open here while workers come and go, so nobody's connection is refused meanwhile. No request passes
through this process.  # D92
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
_TICK_S = 0.25  # between two looks at what does not wake the supervisor
_STEADY_S = 10.0  # who has answered so long may die again without a pause
_AT_ONCE = 3  # deaths in a row that are made good at once
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_IN_VAIN = 3  # workers that end before the first one is ready: then the service does not start
_OVER_S = 2.0  # beyond the grace, for a worker to close what it has open


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a worker may keep its supervisor waiting, in seconds."""

    start_s: float = 120.0  # until it is ready
    silent_s: float = 20.0  # without a turn of its event loop
    grace_s: float = 10.0  # to finish the requests under way


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, for people."""

    slot: int
    pid: int | None  # None: it is to be started again in a moment
    ready: bool
    restarts: int
    ended: str = ""  # how the one before it did, when that died
    last_words: str = ""  # of that one
    changed: bool = False  # what it answers by is not what the service began with


class _Slot:
    """A worker's place: who has it, and how often it had to be given again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.restarts = 0
        self.deaths = 0  # in a row
        self.begin_s = 0.0  # not before
        self.ended = self.last_words = ""


class Supervisor:
    """Starts workers, replaces those that die or stand still, and lets all of them finish at the end.

    Args:
        command: What a worker runs; the descriptors of its line and of the socket are added.
        task: What the worker of a number is told to do.
        listener: Listens already; closed at the end.
        count: How many workers.
        patience: How long one may be waited for.
        nudged: Called when a worker has appended events that somebody waits for.
        ended: Called with the number and process id of a worker that is gone.
        each_round: Called about four times a second.
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
        self._nudged = wake_requested
        self._ended = ended
        self._each_round = each_round
        self._slots = [_Slot(n) for n in range(1, count + 1)]
        self._signals = 0
        self._was_ready = False
        self._selector = selectors.DefaultSelector()
        self._bell, self._rung = socket.socketpair()
        self._bell.setblocking(False)
        self._rung.setblocking(False)
        self._selector.register(self._rung, selectors.EVENT_READ, None)

    def states(self) -> list[SlotState]:
        """How the workers are."""
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
        """Supervise until a signal (or `stop`); then workers finish what is under way. A second one kills.

        Args:
            announce: Called once, when the first worker is ready.

        Raises:
            Unavailable: No worker can be started; the message has its last words.
        """
        with caught(lambda number, frame: self.stop()):
            try:
                while not self._signals:
                    self._fill_slots()
                    if not self._was_ready and any(slot.worker and slot.worker.ready for slot in self._slots):
                        self._was_ready = True
                        announce()
                    self._listen(_TICK_S)
                    self._judge()
                    if self._each_round is not None:
                        self._each_round()
                self._drain()
            finally:
                self._end_all()

    def stop(self) -> None:
        """As a signal: the first lets workers finish, the second kills them. Safe from any thread."""
        self._signals += 1
        with contextlib.suppress(BlockingIOError):
            self._bell.send(b"!")

    # -- workers ------------------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        for slot in self._slots:
            if slot.worker is None and time.monotonic() >= slot.begin_s:
                try:
                    slot.worker = Worker(slot.number, self._command, self._task(slot.number), self._listener)
                except OSError as error:  # no memory, too many processes
                    self._lost(slot, f"worker {slot.number} cannot be started: {error}", "")
                    continue
                self._selector.register(slot.worker.line, selectors.EVENT_READ, (slot, "line"))
                self._selector.register(slot.worker.output, selectors.EVENT_READ, (slot, "output"))

    def _listen(self, wait_s: float) -> None:
        """Hear what workers say, for at most `wait_s` or until one of them says something."""
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._rung.recv(64)
                continue
            slot, what = key.data
            worker: Worker = slot.worker
            if what == "output":
                if not worker.pass_on_output():
                    self._selector.unregister(key.fileobj)
                continue
            words = worker.hear()
            if not words:  # its end: the process has ended, or is about to
                self._selector.unregister(key.fileobj)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(_TICK_S)
            if READY in words:
                worker.ready = True
            if CHANGED in words:
                worker.changed = True
            if WAKE in words and self._nudged is not None:
                self._nudged()

    def _judge(self) -> None:
        """Replace who is dead, and kill who stands still."""
        now_s = time.monotonic()
        for slot in self._slots:
            worker = slot.worker
            if worker is None:
                continue
            if worker.process.poll() is not None:
                self._bury(slot, worker)
                continue
            silent_s = now_s - worker.received_s
            if silent_s > (self._patience.silent_s if worker.ready else self._patience.start_s):
                what = "has not answered" if worker.ready else "was not ready"
                _logger.warning("worker %d (pid %d) %s for %.0f s: killed", slot.number, worker.pid, what, silent_s)
                worker.kill()
            elif worker.ready and now_s - worker.begun_s > _STEADY_S:
                slot.deaths = 0

    def _bury(self, slot: _Slot, worker: Worker) -> None:
        self._forget(worker)
        slot.worker = None
        words = worker.last_words()
        self._lost(slot, f"worker {slot.number} (pid {worker.pid}) {worker.how_it_ended()}", words)
        if self._ended is not None:
            self._ended(slot.number, worker.pid)

    def _lost(self, slot: _Slot, what: str, words: str) -> None:
        slot.ended, slot.last_words = what, words
        slot.restarts += 1
        slot.deaths += 1
        pause_s = 0.0
        if slot.deaths > _AT_ONCE:
            pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(slot.deaths - _AT_ONCE - 1, 16))
        slot.begin_s = time.monotonic() + pause_s
        if not self._was_ready and slot.deaths >= _IN_VAIN:
            raise Unavailable(f"no worker can be started, and {_IN_VAIN} were tried: {what}: {words}")
        _logger.warning("%s; a new one starts%s", what, f" in {pause_s:.1f} s" if pause_s else "")

    def _forget(self, worker: Worker) -> None:
        for file in (worker.line, worker.output):
            with contextlib.suppress(KeyError):
                self._selector.unregister(file)
        worker.close()

    # -- the end ------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take no more connections and let the workers finish, unless there is a second signal."""
        self._listener.close()
        left = [slot for slot in self._slots if slot.worker is not None]
        for slot in left:
            if slot.worker is not None:
                slot.worker.ask_to_end()
        end_s = time.monotonic() + self._patience.grace_s + _OVER_S
        while left and self._signals < 2 and time.monotonic() < end_s:
            self._listen(0.05)
            left = [slot for slot in left if slot.worker is not None and slot.worker.process.poll() is None]

    def _end_all(self) -> None:
        """Nobody is left when this returns."""
        self._listener.close()
        for slot in self._slots:
            worker, slot.worker = slot.worker, None
            if worker is None:
                continue
            if worker.process.poll() is None:
                if worker.ready:  # else nobody has asked it anything
                    _logger.warning("worker %d (pid %d) has not finished in time: killed", slot.number, worker.pid)
                worker.kill()
            worker.process.wait()
            self._forget(worker)
        self._selector.close()
        self._bell.close()
        self._rung.close()
