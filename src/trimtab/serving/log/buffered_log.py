"""A prediction log with a buffer in front: answers leave at once and are written some milliseconds later.  # D109"""

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

TOGETHER = 256  # buffered payloads that are written at once
MAINTENANCE_BYTES = 4 << 20  # written between two maintenances of the log
_LATER_S = 0.05  # how long payloads wait for more to share their append
_RETRY_S = 1.0  # pause after a failed write
_RECOVER_S = 10.0  # between two looks for spools of killed processes
_logger = logging.getLogger(__name__)


class BufferedLog:
    """A `Log` of predictions that buffers in front of another one; many threads may use it.

    The buffer is a spool, in memory that outlives the process: killing it loses nothing, and a power cut may, as with
    any relaxed log. It is written by `flush`, by a thread 50 ms after the first payload, and before any read here;
    while it cannot be written, reads give what is in the log. `append` is that of any log: when it returns, the
    payloads have their positions, behind all that was buffered before.

    A forked child cannot use it.

    Args:
        log: Where the payloads go: predictions.
        folder: Where spools are.
    """

    def __init__(self, log: Log, folder: Path) -> None:
        self.log = log
        self._folder = folder
        self._forked = False  # this process is a child of the one that opened it
        self._mutex = threading.RLock()  # the buffer and its spool: held for microseconds
        self._writing = threading.Lock()  # writes to the log and its maintenance; taken before the other one
        self._spool: Spool | None = None
        self._payloads: list[bytes] = []
        self._in_doubt = 0  # of the first payloads: their write was interrupted
        self._written_bytes = 0  # since the last maintenance
        self._retry_at_s = 0.0  # the log failed: it is not written before
        self._recover_at_s = 0.0  # when to look for spools of killed processes again
        self._wake = threading.Event()  # something was buffered, or the log is closing
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        _open_logs.add(self)
        guard(self, folder)

    # -- the buffer ---------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """How many payloads are buffered, and not in the log yet."""
        return len(self._payloads)

    @property
    def wants_maintenance(self) -> bool:
        """Whether so much was written that the log needs its maintenance."""
        return self._written_bytes >= MAINTENANCE_BYTES

    def open(self) -> Spool:
        """Open the spool of this process; what killed processes buffered is in the log then.

        Raises:
            Unavailable: It cannot be made.
            Misuse: The process that made this log was forked.
        """
        self._check_process()
        with self._mutex:
            if self._spool is None:
                self._spool = Spool(self._folder, PredictionLog(self.log))
            return self._spool

    def add(self, payloads: Sequence[bytes]) -> bool:
        """Buffer all payloads or none; False when there is no room. The caller calls `flush` later."""
        self._check_process()
        with self._mutex:
            if not (self._spool or self.open()).add(payloads):
                return False
            self._payloads += payloads
        return True

    def buffer(self, payloads: Sequence[bytes]) -> None:
        """Log payloads without a wait: they are buffered now, and written some milliseconds later.

        Raises:
            Unavailable: The buffer is full, and the log cannot be written.
        """
        if self._forked:
            self._check_process()
        with self._mutex:  # `add`, without its call
            if added := (self._spool or self.open()).add(payloads):
                self._payloads += payloads
        if not added:
            self.make_room()
            if not self.add(payloads):  # larger than the spool
                self.append(payloads)
                return
        if not self._wake.is_set():
            self._wake_thread()
        if len(self._payloads) >= TOGETHER:
            self._try_flush(wait=False)

    def flush(self, *, wait: bool = True) -> bool:
        """Write the buffer; without `wait` False where another thread writes just now.

        Raises:
            Unavailable: The log cannot be written now; everything stays buffered.
        """
        self._check_process()
        if not wait and self._writing.locked():
            return False
        with self._writing:  # `acquire` before `try` may be interrupted in between. # D170
            self._write()
        return True

    def make_room(self) -> None:
        """Write the buffer while no thread adds to it, so that the spool is empty.

        Raises:
            Unavailable: The log cannot be written now; everything stays buffered.
        """
        self._check_process()
        with self._writing, self._mutex:
            self._write()

    def release(self) -> None:
        """Write the buffer and release the spool; the next payload opens one again.

        Raises:
            Unavailable: The log cannot be written now; nothing was released.
        """
        self._check_process()
        with self._writing, self._mutex:
            self._write()
            spool, self._spool = self._spool, None
            if spool is not None:
                spool.close()

    def _write(self) -> None:
        """Move the buffer to the log, with the write lock held; more may be buffered meanwhile."""
        if self._in_doubt:
            self._settle()
        with self._mutex:
            moved = self._payloads[:]
        if not moved:
            return
        self._in_doubt = len(moved)  # an interrupt, such as Ctrl-C, leaves open whether they were written
        self.log.append(moved)
        self._written_bytes += sum(map(len, moved))
        self._moved(len(moved))

    def _settle(self) -> None:
        """Drop payloads that an interrupted write did bring to the log: all of them, or none."""
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
        """Refuse a forked child, before it waits for a lock that a thread of its parent may hold."""
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
        """Append all of `payloads` or none, behind the buffer; their positions, once they are safe."""
        self._check_process()
        with self._writing:
            self._write()
            return self.log.append(payloads, at_us=at_us)

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """The log's, with what was buffered here."""
        self._flush_for_read()
        return self.log.read(partition, after, limit=limit)

    def positions(self) -> dict[str, int]:
        """The log's, with what was buffered here."""
        self._flush_for_read()
        return self.log.positions()

    def truncate(self, partition: str, through: int) -> int:
        self._flush_for_read()
        return self.log.truncate(partition, through)

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        self.flush()
        return self.log.erase(partition, instead)

    def copy_to(self, to: Path, /) -> object:
        """The log's, with what was buffered here.

        Raises:
            Misuse: The log does not copy itself.
            Unavailable: The buffer cannot be written, and would be missing in the copy.
        """
        if not isinstance(self.log, Copyable):
            raise Misuse(f"{type(self.log).__name__} cannot be copied to a folder. Copy it by its own means.")
        self.flush()
        return self.log.copy_to(to)

    def mark(self) -> Hashable | None:
        """The log's, with what was buffered here."""
        self._flush_for_read()
        return self.log.mark()

    def maintenance(self) -> None:
        """The log's; the buffer waits meanwhile, and takes more."""
        with self._writing:
            self.log.maintenance()
            self._written_bytes = 0

    def close(self) -> None:
        """Write the buffer and close the log. What cannot be written stays in the spool for the next process."""
        if self._forked:
            return  # it belongs to the parent
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
        """Write the buffer, and every ten seconds what killed processes buffered."""
        self._check_process()
        if self._payloads:
            self._try_flush(wait=True)
        if monotonic() < self._recover_at_s:
            return
        self._recover_at_s = monotonic() + _RECOVER_S
        try:
            recover_spools(self._folder, PredictionLog(self.log))
        except Unavailable as error:  # a folder without write access: what is in the log can be read
            _logger.warning("%s", error)

    def _try_flush(self, *, wait: bool) -> None:
        """Write the buffer; what cannot be written stays there, and is retried later."""
        if monotonic() < self._retry_at_s:
            return
        try:
            self.flush(wait=wait)
        except Exception as error:  # the answers were given: they must not fail now
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
                if self._payloads:  # the write failed, or more came
                    self._wake.set()
                if self.wants_maintenance:
                    self.maintenance()
            except TrimtabError as error:  # the next write reports it
                _logger.warning("maintenance of the prediction log failed: %s", error)
            except Exception:  # the thread goes on
                _logger.exception("maintenance of the prediction log failed")


_open_logs: weakref.WeakSet[BufferedLog] = weakref.WeakSet()


def _at_exit() -> None:
    for log in list(_open_logs):
        log.close()


atexit.register(_at_exit)
