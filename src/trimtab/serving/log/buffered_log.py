"""A prediction log with a buffer: answers are sent at once, and predictions are written a little later.  # D109"""

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

TOGETHER = 256  # as soon as this many payloads are buffered, they are written
MAINTENANCE_BYTES = 2 << 20  # after this many written bytes, the log needs maintenance
_LATER_S = 0.05  # how long payloads wait, so that more are written together
_RETRY_S = 1.0  # pause after a failed write
_RECOVER_S = 10.0  # time between two searches for buffer files of killed processes
_logger = logging.getLogger(__name__)


class BufferedLog:
    """A `Log` of predictions that buffers payloads before it writes them to another log. Many threads may use it.

    The buffer is in a spool: a memory-mapped file, whose content survives the end of the process. If the process is
    killed, nothing is lost. A power cut may lose the buffer, as with any log that does not wait for the disk. The
    buffer is written to the log by `flush`, by a thread 50 ms after a call of `buffer`, as soon as 256 payloads are
    buffered, and before this object is read. While the log cannot be written, reads do not include the buffer. `append`
    works as in any log: when it returns, its payloads are safe. They come after everything that was buffered before.

    A forked child cannot use this object.

    Args:
        folder: The folder of the spools of all processes.
    """

    def __init__(self, log: Log, folder: Path) -> None:
        self.log = log
        self._folder = folder
        self._forked = False  # whether this process was forked from the one that made this object
        self._mutex = threading.RLock()  # protects the buffer and its spool; held only for microseconds
        self._writing = threading.Lock()  # protects writes to the log and its maintenance; taken before `_mutex`
        self._spool: Spool | None = None
        self._payloads: list[bytes] = []
        self._in_doubt = 0  # how many of the first payloads may be in the log already (their write was interrupted)
        self._written_bytes = 0  # bytes written since the last maintenance
        self._retry_at_s = 0.0  # after a failure: the time before which writing is not tried again
        self._recover_at_s = 0.0  # the time of the next search for spools of killed processes
        self._wake = threading.Event()  # set when something is buffered, or when the log is closed
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        _open_logs.add(self)
        guard(self, folder)

    # -- the buffer ---------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Return the number of payloads that are not in the log yet."""
        return len(self._payloads)

    @property
    def wants_maintenance(self) -> bool:
        """Return whether so much was written to the log that it needs maintenance."""
        return self._written_bytes >= MAINTENANCE_BYTES

    def open(self) -> Spool:
        """Open the spool of this process, and move the payloads of killed processes into the log.

        Raises:
            Unavailable: The spool cannot be created.
            Misuse: This process was forked from the one that made this object.
        """
        self._check_process()
        with self._mutex:
            if self._spool is None:
                self._spool = Spool(self._folder, PredictionLog(self.log))
            return self._spool

    def add(self, payloads: Sequence[bytes]) -> bool:
        """Buffer all payloads or none. Return False if there is no room. The caller must call `flush` later."""
        if self._forked:
            self._check_process()
        with self._mutex:
            if added := (self._spool or self.open()).add(payloads):
                self._payloads += payloads
        return added

    def buffer(self, payloads: Sequence[bytes]) -> None:
        """Buffer payloads, to be written some milliseconds later. This does not wait for the disk.

        Raises:
            Unavailable: The buffer is full, and the log cannot be written now.
        """
        if not self.add(payloads):
            self.make_room()
            if not self.add(payloads):  # too large even for an empty buffer
                self.append(payloads)
                return
        if not self._wake.is_set():
            self._wake_thread()
        if len(self._payloads) >= TOGETHER:
            self._try_flush(wait=False)

    def flush(self, *, wait: bool = True) -> bool:
        """Write the buffer to the log. Without `wait`, return False if another thread writes or maintains the log.

        Raises:
            Unavailable: The log cannot be written now. Everything stays in the buffer.
        """
        self._check_process()
        if not wait and self._writing.locked():
            return False
        with self._writing:  # `with`, because an interrupt between `acquire` and `try` would leave it locked. # D170
            self._write()
        return True

    def make_room(self) -> None:
        """Write the buffer to the log while no thread can add to it, so that the spool is empty afterwards.

        Raises:
            Unavailable: The log cannot be written now. Everything stays in the buffer.
        """
        self._check_process()
        with self._writing, self._mutex:
            self._write()

    def release(self) -> None:
        """Write the buffer to the log and release the spool. The next payload opens a spool again.

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
        """Write the buffer to the log. The caller holds the write lock. Payloads may be added meanwhile."""
        if self._in_doubt:
            self._settle()
        with self._mutex:
            moved = self._payloads[:]
        if not moved:
            return
        self._in_doubt = len(moved)  # after an interrupt such as Ctrl-C, it is unknown whether these were written
        self.log.append(moved)
        self._written_bytes += sum(map(len, moved))
        self._moved(len(moved))

    def _settle(self) -> None:
        """After an interrupted write, drop its payloads if they are in the log. (Either all are, or none.)"""
        with self._mutex:
            first = self._payloads[0] if self._payloads else None
        there = first is not None and PredictionLog(self.log).locate(payload_id(first)) is not None
        self._moved(self._in_doubt if there else 0)

    def _moved(self, count: int) -> None:
        """Remove the first `count` payloads from the buffer, because they are in the log."""
        with self._mutex:
            del self._payloads[:count]
            if not self._payloads and self._spool is not None:
                self._spool.clear()
            self._in_doubt = 0

    def _check_process(self) -> None:
        """Raise an error in a forked child, which could wait forever for a lock that a thread of the parent held."""
        if self._forked:
            raise forked(self._folder)

    def after_fork(self) -> None:
        """Make every later call in this forked child raise an error."""
        self._forked = True

    # -- the port -----------------------------------------------------------------------------------------------

    @property
    def partition(self) -> str:
        """The partition that this process appends to."""
        return self.log.partition

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append all payloads or none, after those in the buffer, and return their positions once they are safe."""
        self._check_process()
        with self._writing:
            self._write()
            return self.log.append(payloads, at_us=at_us)

    def append_packs(self, packs: Sequence[bytes], *, at_us: int | None = None) -> range:
        """Append the payloads in packs, all or none, after those in the buffer."""
        self._check_process()
        with self._writing:
            self._write()
            return PredictionLog(self.log).append_packs(packs, at_us=at_us)

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """Read the log, after writing the buffer to it."""
        self._flush_for_read()
        return self.log.read(partition, after, limit=limit)

    def positions(self) -> dict[str, int]:
        """Return the last positions of the log, after writing the buffer to it."""
        self._flush_for_read()
        return self.log.positions()

    def truncate(self, partition: str, through: int) -> int:
        self._flush_for_read()
        return self.log.truncate(partition, through)

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        self.flush()
        return self.log.erase(partition, instead)

    def copy_to(self, to: Path, /) -> object:
        """Copy the log, after writing the buffer to it.

        Raises:
            Misuse: This kind of log cannot be copied.
            Unavailable: The buffer cannot be written, so the copy would be incomplete.
        """
        if not isinstance(self.log, Copyable):
            raise Misuse(f"{type(self.log).__name__} cannot be copied to a folder. Back it up with its own tools.")
        self.flush()
        return self.log.copy_to(to)

    def mark(self) -> Hashable | None:
        """Write the buffer to the log, and return the log's mark, which changes with each write."""
        self._flush_for_read()
        return self.log.mark()

    def maintenance(self) -> None:
        """Do the maintenance of the log. Meanwhile, payloads are buffered, and they are written at the end."""
        with self._writing:
            self.log.maintenance()
            self._written_bytes = 0
            self._write()  # SQLite syncs at the first write after a checkpoint; no answer should wait for that. # D0229

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
        """Write the buffer to the log. At most every ten seconds, also write the spools of killed processes to it."""
        self._check_process()
        if self._payloads:
            self._try_flush(wait=True)
        if monotonic() < self._recover_at_s:
            return
        self._recover_at_s = monotonic() + _RECOVER_S
        try:
            recover_spools(self._folder, PredictionLog(self.log))
        except Unavailable as error:  # the folder cannot be written, but the log can be read
            _logger.warning("%s", error)

    def _try_flush(self, *, wait: bool) -> None:
        """Write the buffer. If this fails, the payloads stay in the buffer, and writing is tried again later."""
        if monotonic() < self._retry_at_s:
            return
        try:
            self.flush(wait=wait)
        except Exception as error:  # the answers were sent already, so do not raise an error
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
                if self._payloads:  # the write failed, or payloads were added meanwhile
                    self._wake.set()
                if self.wants_maintenance:
                    self.maintenance()
            except TrimtabError as error:  # the next write will report the error
                _logger.warning("maintenance of the prediction log failed: %s", error)
            except Exception:  # the thread must continue
                _logger.exception("maintenance of the prediction log failed")


_open_logs: weakref.WeakSet[BufferedLog] = weakref.WeakSet()


def _at_exit() -> None:
    for log in list(_open_logs):
        log.close()


atexit.register(_at_exit)
