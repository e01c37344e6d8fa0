"""The right to be the only one: a lease in the catalogue that a thread renews, and a file that dies with its holder."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.core.errors import Conflict, TrimtabError, Unavailable
from trimtab.store.durable_files import narrow
from trimtab.store.file_lock import FileLock
from trimtab.store.ports import Catalog

_logger = logging.getLogger(__name__)
LEASE_S = 30.0
_LOOK_S = 0.05  # between two looks while somebody else has it


class Lease:
    """One lease of the catalogue, held by this object and no other, in this process or elsewhere.

    Beside the lease stands a lock on a file of the state folder, which the system takes from a process that dies: so
    whoever comes next need not wait until the lease of the dead has run out.

    Args:
        catalog: Where the lease is.
        name: Which lease.
        folder: Where the lock file is.
        ttl_s: After how long without renewal it is anybody's.
    """

    def __init__(self, catalog: Catalog, name: str, folder: Path, *, ttl_s: float = LEASE_S) -> None:
        self.holder = uuid.uuid4().hex  # not the process id: every container has a process 1
        self._catalog = catalog
        self._name = name
        self._path = folder / f"{name}.lock"
        self._holder_path = folder / f"{name}.holder"
        self._ttl_s = ttl_s
        self._lock: FileLock | None = None
        self._until_s = 0.0  # monotonic: it is ours until then
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether it is this object's now."""
        return self._lock is not None and time.monotonic() < self._until_s

    @contextmanager
    def taken(self, otherwise: str, *, patience_s: float = 0.0) -> Iterator[None]:
        """While it is held.

        Args:
            otherwise: What to say where somebody else has it.
            patience_s: How long to wait for somebody else.

        Raises:
            Conflict: Somebody else still has it.
            Unavailable: The lock file or the catalogue cannot be written now.
        """
        if not self.take(patience_s=patience_s):
            raise Conflict(otherwise)
        try:
            yield
        finally:
            self.release()

    def take(self, *, patience_s: float = 0.0) -> bool:
        """Take it and keep it by a thread of its own until `release`; False where somebody else still has it.

        Args:
            patience_s: How long to wait for somebody else.

        Raises:
            Unavailable: The lock file or the catalogue cannot be written now.
        """
        end_s = time.monotonic() + patience_s
        while not self._take():
            if time.monotonic() >= end_s:
                return False
            time.sleep(_LOOK_S)
        return True

    def release(self) -> None:
        """Give it back; nothing happens when it is not held."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._catalog.release(self._name, self.holder)
        finally:
            lock.release()

    def free(self) -> bool:
        """Whether nobody holds it; looked at for a moment, so that it may be taken right afterwards.

        Nothing is made or written.
        """
        try:
            return self._lock is None and not FileLock.is_held(self._path)
        except OSError as error:
            raise Unavailable(f"{self._path}: cannot be read ({error}). Check access.") from error

    def _take(self) -> bool:
        if self._lock is not None:
            return self.held
        lock = self._locked()
        if lock is None:
            return False
        try:
            self._release_the_dead()
            self._holder_path.write_text(self.holder)
            narrow(self._holder_path)
            if not self._renewed():
                lock.release()
                return False
        except OSError as error:
            lock.release()
            raise Unavailable(f"{self._holder_path}: cannot be written ({error}). Check space and access.") from error
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(self._stop,), name="trimtab-lease", daemon=True)
        self._thread.start()
        return True

    def _locked(self) -> FileLock | None:
        try:
            return FileLock.take(self._path)
        except OSError as error:
            raise Unavailable(f"{self._path}: cannot be made ({error}). Check space and access.") from error

    def _release_the_dead(self) -> None:
        """The lock was free, so whoever took the lease beside this file last does not live any more."""
        if self._holder_path.exists():
            self._catalog.release(self._name, self._holder_path.read_text())

    def _renewed(self) -> bool:
        now_s = time.monotonic()
        if not self._catalog.acquire(self._name, self.holder, self._ttl_s):
            return False
        self._until_s = now_s + self._ttl_s
        return True

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self._ttl_s / 4):
            try:
                if not self._renewed():
                    _logger.warning("lease %s: somebody else took it; trying to get it back", self._name)
            except TrimtabError as error:
                _logger.warning("lease %s: %s", self._name, error)
