"""A log that notes first and writes a moment later, for answers that need not wait for it. # D109"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from time import monotonic

from trimtab.core.errors import Misuse, TrimtabError, Unavailable
from trimtab.serving.log.prediction_log import PredictionLog, payload_id
from trimtab.serving.log.spool import Spool, recover_spools
from trimtab.store.ports import Copyable, Log, LogRecord

TOGETHER = 256  # notes that are written as soon as they are so many
_LATER_S = 0.05  # how long notes of this process may wait for more
_AGAIN_S = 1.0  # after a failure the log is left alone for so long
_LOOK_S = 10.0  # between two looks for what killed processes noted
UPKEEP_BYTES = 4 << 20  # written, until the log wants its upkeep
_logger = logging.getLogger(__name__)


class BufferedLog:
    """A `Log` of predictions in front of another one, with notes between; many threads may use it.

    What is noted is in memory that outlives the process: killing it loses none, and a power cut may, as with any
    relaxed log. Notes are written by whoever says `flush`, and before anything is read here; while they cannot be,
    reading gives what is written. `append` is that of any log: when it returns, the payloads have their places, behind
    all that was noted before.

    Args:
        log: Where the payloads go: predictions.
        folder: Where spools are.
    """

    def __init__(self, log: Log, folder: Path) -> None:
        self.log = log
        self._folder = folder
        self._begin()
        _open_logs.add(self)

    def _begin(self) -> None:
        self._mutex = threading.RLock()  # the notes and their spool: held for moments
        self._writing = threading.Lock()  # who writes to the log, or keeps it up: taken before the other one
        self._spool: Spool | None = None
        self._refusal: TrimtabError | None = None  # why there is none
        self._open_at_s = 0.0  # when that is tried again
        self._noted: list[bytes] = []
        self._in_doubt = 0  # notes, the first of all, of a write that did not come to its end
        self._written_bytes = 0  # since the last upkeep
        self._again_at_s = 0.0  # until then the log is left alone: it failed
        self._look_at_s = 0.0  # when to look for notes of the dead again
        self._there = threading.Event()  # something was noted in this process, or the thread is to end
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    # -- notes --------------------------------------------------------------------------------------------------

    @property
    def noted(self) -> int:
        """How many payloads are noted, and not in the log yet."""
        return len(self._noted)

    @property
    def wants_upkeep(self) -> bool:
        """Whether so much was written that the log's upkeep would do good."""
        return self._written_bytes >= UPKEEP_BYTES

    def open(self) -> Spool:
        """Where this process notes, opened at the first call; what killed processes noted is in the log then.

        Raises:
            Unavailable: It cannot be made, or could not a moment ago.
        """
        with self._mutex:
            if self._spool is None:
                if self._refusal is not None and monotonic() < self._open_at_s:
                    raise type(self._refusal)(*self._refusal.args)
                try:
                    self._spool = Spool(self._folder, PredictionLog(self.log))
                except TrimtabError as error:
                    self._refusal, self._open_at_s = error, monotonic() + _AGAIN_S
                    raise
                self._refusal = None
            return self._spool

    def add(self, payloads: Sequence[bytes]) -> bool:
        """Note payloads, all or none; False when there is no room for them. Somebody must say `flush` later."""
        with self._mutex:
            if not (self._spool or self.open()).add(payloads):
                return False
            self._noted += payloads
        return True

    def note(self, payloads: Sequence[bytes]) -> None:
        """Log payloads without a wait: they are noted now, and written in a moment.

        Raises:
            Unavailable: There is no room for notes any more, and the log cannot be written.
        """
        with self._mutex:
            if noted := (self._spool or self.open()).add(payloads):
                self._noted += payloads
        if not noted:
            self.make_room()
            if not self.add(payloads):  # too many for it
                self.append(payloads)
                return
        tended = self._there.is_set() or self._tend()
        if not tended or len(self._noted) >= TOGETHER:
            self._try_flush(wait=not tended)

    def flush(self, *, wait: bool = True) -> bool:
        """Write what is noted; False, if not to `wait`, when somebody else writes or keeps the log up just now.

        Raises:
            Unavailable: The log cannot be written now; all stays noted.
        """
        if not wait and self._writing.locked():
            return False
        with self._writing:  # nothing comes between, which an `acquire` before a `try` lets happen. # D119
            self._write()
        return True

    def make_room(self) -> None:
        """Write what is noted while nobody notes more, so that the spool is empty.

        Raises:
            Unavailable: The log cannot be written now; all stays noted.
        """
        with self._writing, self._mutex:
            self._write()

    def release(self) -> None:
        """Write what is noted and let go of the spool; the next note opens one again.

        Raises:
            Unavailable: The log cannot be written now; nothing was let go of.
        """
        with self._writing, self._mutex:
            self._write()
            spool, self._spool = self._spool, None
            if spool is not None:
                spool.close()

    def _write(self) -> None:
        """Move notes to the log, in the hands of who writes; more may be noted meanwhile."""
        if self._in_doubt:
            self._settle()
        with self._mutex:
            moved = self._noted[:]
        if not moved:
            return
        self._in_doubt = len(moved)  # if this is interrupted, by Ctrl-C for one, nobody knows whether it was written
        self.log.append(moved)
        self._written_bytes += sum(map(len, moved))
        self._moved(len(moved))

    def _settle(self) -> None:
        """Take away notes that an interrupted write did bring to the log: all of them, or none."""
        with self._mutex:
            first = self._noted[0] if self._noted else None
        there = first is not None and PredictionLog(self.log).locate(payload_id(first)) is not None
        self._moved(self._in_doubt if there else 0)

    def _moved(self, count: int) -> None:
        with self._mutex:
            del self._noted[:count]
            if not self._noted and self._spool is not None:
                self._spool.clear()
            self._in_doubt = 0

    # -- the port -----------------------------------------------------------------------------------------------

    @property
    def partition(self) -> str:
        """The partition that this process appends to."""
        return self.log.partition

    def append(self, payloads: Sequence[bytes], *, at_us: Sequence[int] | None = None) -> range:
        """Append all of `payloads` or none, behind what is noted; their positions, once they are safe."""
        with self._writing:
            self._write()
            return self.log.append(payloads, at_us=at_us)

    def read(self, partition: str, after: int, *, limit: int = 10_000) -> list[LogRecord]:
        """As the log's, with what was noted here."""
        self._bring()
        return self.log.read(partition, after, limit=limit)

    def positions(self) -> dict[str, int]:
        """As the log's, with what was noted here."""
        self._bring()
        return self.log.positions()

    def truncate(self, partition: str, through: int) -> int:
        self._bring()
        return self.log.truncate(partition, through)

    def erase(self, partition: str, instead: Mapping[int, bytes]) -> int:
        self.flush()
        return self.log.erase(partition, instead)

    def copy_to(self, to: Path, /) -> object:
        """As the log's, with what was noted here.

        Raises:
            Misuse: The log does not copy itself.
            Unavailable: What is noted cannot be written, and would be missing in the copy.
        """
        if not isinstance(self.log, Copyable):
            raise Misuse(f"{type(self.log).__name__} cannot be copied to a folder. Copy it by its own means.")
        self.flush()
        return self.log.copy_to(to)

    def mark(self) -> Hashable | None:
        """As the log's, with what was noted here."""
        self._bring()
        return self.log.mark()

    def maintenance(self) -> None:
        """The log's; what is noted waits meanwhile, and more may be noted."""
        with self._writing:
            self.log.maintenance()
            self._written_bytes = 0

    def close(self) -> None:
        """Write what is noted, and close the log. What cannot be written stays noted, for whoever opens it next."""
        self._ending.set()
        self._there.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._again_at_s = 0.0
        self._try_flush(wait=True)
        with self._mutex:
            if self._spool is not None:
                self._spool.close()
                self._spool = None
        _open_logs.discard(self)
        self.log.close()

    # -- when notes of this process are written ---------------------------------------------------------------------

    def _bring(self) -> None:
        """Before a read: what is noted here, and now and then what killed processes noted, comes to the log."""
        if self._noted:
            self._try_flush(wait=True)
        if monotonic() < self._look_at_s:
            return
        self._look_at_s = monotonic() + _LOOK_S
        try:
            recover_spools(self._folder, PredictionLog(self.log))
        except Unavailable as error:  # of a folder that is only read: what can be read is
            _logger.warning("%s", error)

    def _try_flush(self, *, wait: bool) -> None:
        """Write what is noted; what cannot be written now stays noted, and is tried again after a moment."""
        if monotonic() < self._again_at_s:
            return
        try:
            self.flush(wait=wait)
        except Exception as error:  # answered and noted: whoever asked must not be told to ask again
            self._again_at_s = monotonic() + _AGAIN_S
            unnamed = not isinstance(error, TrimtabError)
            _logger.warning("%d answers stay noted: %s", len(self._noted), error, exc_info=unnamed)

    def _tend(self) -> bool:
        """Let the thread write what is noted, in a moment; False: there is none, and none can be started."""
        with self._mutex:
            if self._thread is None and not self._ending.is_set():
                thread = threading.Thread(target=self._run, name="trimtab-noted", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the system allows no more of them
                    _logger.warning("answers are written one by one: %s", error)
                    return False
                self._thread = thread
        self._there.set()
        return True

    def _run(self) -> None:
        while True:
            self._there.wait()
            self._ending.wait(_LATER_S)
            self._there.clear()
            if self._ending.is_set():
                return
            try:
                self._try_flush(wait=True)
                if self._noted:  # it failed, or more came
                    self._there.set()
                if self.wants_upkeep:
                    self.maintenance()
            except TrimtabError as error:  # the next write says what is wrong
                _logger.warning("the upkeep of the prediction log has to wait: %s", error)
            except Exception:  # what comes next is to be written all the same
                _logger.exception("work on the prediction log failed")

    def _after_fork_in_child(self) -> None:
        """Leave the parent's notes to it: the child opens a spool of its own."""
        closed = self._ending.is_set()
        self._begin()
        if closed:
            self._ending.set()


_open_logs: weakref.WeakSet[BufferedLog] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for log in list(_open_logs):
        log._after_fork_in_child()


def _at_exit() -> None:
    for log in list(_open_logs):
        log.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
