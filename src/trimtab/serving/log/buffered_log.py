"""A prediction log with a buffer in front: answers leave at once and are written some milliseconds later.  # D109

# D109
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from time import monotonic

from trimtab.core.errors import Misuse, TrimtabError, Unavailable
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import payload_id
from trimtab.serving.log.spool import Spool, recover_spools
from trimtab.store.forks import forked, guard, unguard
from trimtab.store.ports import Copyable, Log, LogRecord

TOGETHER = 256  # number of buffered payloads that are written together
MAINTENANCE_BYTES = 4 << 20  # number of payloads that are written between two maintenances of the log
_LATER_S = 0.05  # how long payloads wait for more payloads that share their append
_RETRY_S = 1.0  # pause after a failed write
_RECOVER_S = 10.0  # between two looks for spools of killed processes
_logger = logging.getLogger(__name__)


class BufferedLog:
    """A `Log` of predictions that buffers in front of another log. Many threads may use it.

    The buffer is a spool, which lies in memory that outlives the process. If the process is killed, nothing is lost. A
    power cut may lose the buffer, as with any relaxed log. The buffer is written by `flush`, by a thread 50 ms after
    the first payload, and before any read of this object. While the buffer cannot be written, reads return what is in
    the log. `append` works as in any log: when it returns, the payloads have their positions, after all payloads that
    were buffered before.

    A forked child cannot use this object.

    Args:
        log: The log of predictions to which the payloads are written.
        folder: The folder of the spools.
    """

    def __init__(self, log: Log, folder: Path) -> None:
        self.log = log
        self._folder = folder
        self._forked = False  # this process is a child of the one that opened it
        self._mutex = threading.RLock()  # guards the buffer and its spool; held for microseconds
        self._writing = threading.Lock()  # guards writes to the log and its maintenance; taken before the other lock
        self._spool: Spool | None = None
        self._payloads: list[bytes] = []
        self._in_doubt = 0  # how many of the first payloads were in a write that was interrupted
        self._written_bytes = 0  # payloads written since the last maintenance
        self._retry_at_s = 0.0  # after a failure, the time before which the log is not written
        self._recover_at_s = 0.0  # when to look for spools of killed processes again
        self._wake = threading.Event()  # something was buffered, or the log is closing
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        _open_logs.add(self)
        guard(self, folder)

    # -- the buffer ---------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Return how many payloads are buffered and not in the log yet."""
        return len(self._payloads)

    @property
    def wants_maintenance(self) -> bool:
        """Return whether so much was written that the log needs maintenance."""
        return self._written_bytes >= MAINTENANCE_BYTES

    def open(self) -> Spool:
        """Open the spool of this process. After that, payloads that killed processes had buffered are in the log.

        Raises:
            Unavailable: The spool cannot be made.
            Misuse: The process that made this log was forked.
        """
        self._check_process()
        with self._mutex:
            if self._spool is None:
                self._spool = Spool(self._folder, PredictionLog(self.log))
            return self._spool

    def add(self, payloads: Sequence[bytes]) -> bool:
        """Buffer all payloads or none. Returns False when there is no room. The caller calls `flush` later."""
        self._check_process()
        with self._mutex:
            if not (self._spool or self.open()).add(payloads):
                return False
            self._payloads += payloads
        return True

    def buffer(self, payloads: Sequence[bytes]) -> None:
        """Log payloads without waiting: they are buffered now, and written some milliseconds later.

        Raises:
            Unavailable: The buffer is full, and the log cannot be written.
        """
        if self._forked:
            self._check_process()
        with self._mutex:  # the body of `add`, without the cost of a call
            if added := (self._spool or self.open()).add(payloads):
                self._payloads += payloads
        if not added:
            self.make_room()
            if not self.add(payloads):  # the payloads are larger than the spool
                self.append(payloads)
                return
        if not self._wake.is_set():
            self._wake_thread()
        if len(self._payloads) >= TOGETHER:
            self._try_flush(wait=False)

    def flush(self, *, wait: bool = True) -> bool:
        """Write the buffer. Without `wait`, return False if another thread is writing it.

        Raises:
            Unavailable: The log cannot be written now. Everything stays buffered.
        """
        self._check_process()
        if not wait and self._writing.locked():
            return False
        with self._writing:  # an `acquire` before the `try` could be interrupted in between. # D170
            self._write()
        return True

    def make_room(self) -> None:
        """Write the buffer while no thread adds to it, so that the spool is empty.

        Raises:
            Unavailable: The log cannot be written now. Everything stays buffered.
        """
        self._check_process()
        with self._writing, self._mutex:
            self._write()

    def release(self) -> None:
        """Write the buffer and release the spool. The next payload opens a spool again.

        Raises:
            Unavailable: The log cannot be written now. Nothing was released.
        """
        self._check_process()
        with self._writing, self._mutex:
            self._write()
            spool, self._spool = self._spool, None
            if spool is not None:
                spool.close()

    def _write(self) -> None:
        """Move the buffer to the log. The caller holds the write lock. More payloads may be buffered meanwhile."""
        if self._in_doubt:
            self._settle()
        with self._mutex:
            moved = self._payloads[:]
        if not moved:
            return
        self._in_doubt = len(moved)  # after an interrupt, such as Ctrl-C, it is unknown whether they were written
        self.log.append(moved)
        self._written_bytes += sum(map(len, moved))
        self._moved(len(moved))

    def _settle(self) -> None:
        """Drop payloads that an interrupted write brought to the log. The write brought either all of them or none."""
        with self._mutex:
            first = self._payloads[0] if self._payloads else None
        there = first is not None and PredictionLog(self.log).locate(payload_id(first)) is not None
        self._moved(self._in_doubt if there else 0)

    def _moved(self, count: int) -> None:
        with self._mutex:
            del self._payloads[:count]
            if not self._payloads and self._spool is not None:
                self._spool.clear()
            self._in_doubt = 0

    def _check_process(self) -> None:
        """Refuse calls in a forked child, before they wait for a lock that a thread of the parent may hold."""
        if self._forked:
            raise forked(self._folder)

    def after_fork(self) -> None:
        """In a forked child: refuse every later call."""
        self._forked = True

    # -- the port -----------------------------------------------------------------------------------------------

    @property
    def partition(self) -> str:
        """The partition that this process appends to."""
        return self.log.partition

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append all of `payloads` or none, after the buffer, and return their positions once they are safe."""
        self._check_process()
        with self._writing:
            self._write()
            return self.log.append(payloads, at_us=at_us)

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """Read the log, after the buffer was written to it."""
        self._flush_for_read()
        return self.log.read(partition, after, limit=limit)

    def positions(self) -> dict[str, int]:
        """Return the positions of the log, after the buffer was written to it."""
        self._flush_for_read()
        return self.log.positions()

    def truncate(self, partition: str, through: int) -> int:
        self._flush_for_read()
        return self.log.truncate(partition, through)

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        self.flush()
        return self.log.erase(partition, instead)

    def copy_to(self, to: Path, /) -> object:
        """Copy the log, after the buffer was written to it.

        Raises:
            Misuse: The log cannot copy itself.
            Unavailable: The buffer cannot be written, and would be missing in the copy.
        """
        if not isinstance(self.log, Copyable):
            raise Misuse(f"{type(self.log).__name__} cannot be copied to a folder. Copy it by its own means.")
        self.flush()
        return self.log.copy_to(to)

    def mark(self) -> Hashable | None:
        """Return the mark of the log, after the buffer was written to it."""
        self._flush_for_read()
        return self.log.mark()

    def maintenance(self) -> None:
        """Do the maintenance of the log. Meanwhile the buffer is not written, but takes more payloads."""
        with self._writing:
            self.log.maintenance()
            self._written_bytes = 0

    def close(self) -> None:
        """Write the buffer and close the log. What cannot be written stays in the spool for the next process."""
        if self._forked:
            return  # the spool belongs to the parent
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._retry_at_s = 0.0
        self._try_flush(wait=True)
        with self._mutex:
            if self._spool is not None:
                self._spool.close()
                self._spool = None
        _open_logs.discard(self)
        unguard(self)
        self.log.close()

    # -- when the buffer is written -----------------------------------------------------------------------------

    def _flush_for_read(self) -> None:
        """Write the buffer and, every ten seconds, what killed processes had buffered."""
        self._check_process()
        if self._payloads:
            self._try_flush(wait=True)
        if monotonic() < self._recover_at_s:
            return
        self._recover_at_s = monotonic() + _RECOVER_S
        try:
            recover_spools(self._folder, PredictionLog(self.log))
        except Unavailable as error:  # the folder is not writable, but what is in the log can be read
            _logger.warning("%s", error)

    def _try_flush(self, *, wait: bool) -> None:
        """Write the buffer. Payloads that cannot be written stay in the buffer, and are retried later."""
        if monotonic() < self._retry_at_s:
            return
        try:
            self.flush(wait=wait)
        except Exception as error:  # the answers were given, so they must not fail now
            self._retry_at_s = monotonic() + _RETRY_S
            unexpected = not isinstance(error, TrimtabError)
            _logger.warning("%d answers stay buffered: %s", len(self._payloads), error, exc_info=unexpected)

    def _wake_thread(self) -> None:
        with self._mutex:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="trimtab-buffered-log", daemon=True)
                self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._closing.wait(_LATER_S)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self._try_flush(wait=True)
                if self._payloads:  # the write failed, or more payloads came
                    self._wake.set()
                if self.wants_maintenance:
                    self.maintenance()
            except TrimtabError as error:  # the next write reports the error
                _logger.warning("maintenance of the prediction log failed: %s", error)
            except Exception:  # the thread goes on
                _logger.exception("maintenance of the prediction log failed")


_open_logs: weakref.WeakSet[BufferedLog] = weakref.WeakSet()


def _at_exit() -> None:
    for log in list(_open_logs):
        log.close()


atexit.register(_at_exit)
