"""Exclusive leases. Each is a catalogue record that a thread renews, and a file lock that ends with the process."""

from __future__ import annotations

import logging
import math
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
_LOOK_S = 0.05  # the time between two attempts while another process holds the lease


class Lease:
    """A lease, held by at most one object in all processes at a time.

    It is stored in the catalogue, and comes with a lock on a file in the state folder. When the holder's process dies,
    the operating system frees the lock, so that the next holder need not wait until the lease expires.

    Args:
        ttl_s: The number of seconds without renewal after which the lease expires.
    """

    def __init__(self, catalog: Catalog, name: str, folder: Path, *, ttl_s: float = LEASE_S) -> None:
        self.holder = uuid.uuid4().hex  # not a process id, which is 1 in every container
        self._catalog = catalog
        self._name = name
        self._path = folder / f"{name}.lock"
        self._holder_path = folder / f"{name}.holder"
        self._ttl_s = ttl_s
        self._lock: FileLock | None = None
        self._until_s = 0.0  # the monotonic time at which the lease expires
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lease now."""
        return self._lock is not None and time.monotonic() < self._until_s

    @contextmanager
    def taken(self, otherwise: str, *, patience_s: float = 0.0) -> Iterator[None]:
        """Hold the lease while the block runs.

        Args:
            otherwise: The error message if another process holds the lease.
            patience_s: How many seconds to wait while another process holds the lease.

        Raises:
            Conflict: Another process still holds the lease.
            Unavailable: The lock file or the catalogue cannot be written now.
        """
        if not self.take(patience_s=patience_s):
            raise Conflict(otherwise)
        try:
            yield
        finally:
            self.release()

    def take_turn(self) -> bool:
        """Take only the lease's file lock, for a short piece of work. Return False if another object has the lock.

        The catalogue is not written, because that takes longer than most such work. A holder of the lease has this
        lock, too, so no other object can hold the lease meanwhile. # D216

        Raises:
            Unavailable: The lock file cannot be written now.
        """
        self._lock = self._locked()
        self._until_s = math.inf
        return self._lock is not None

    def take(self, *, patience_s: float = 0.0) -> bool:
        """Acquire the lease, and let a thread renew it until `release` is called.

        Return False if another process holds the lease for all of `patience_s` seconds.

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
        """Release the lease if this object holds it."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            if self._thread is not None:  # otherwise this was a turn, which is in no record
                self._stop.set()
                self._thread.join()
                self._thread = None
                self._catalog.release(self._name, self.holder)
        finally:
            lock.release()

    def free(self) -> bool:
        """Return whether neither this object nor another process holds the file lock of the lease.

        The record in the catalogue is not checked.
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
            if self._holder_path.exists():  # an earlier holder died without removing it; it had the file lock
                self._catalog.release(self._name, self._holder_path.read_text())
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
                    _logger.warning("lease %s: another process took it; trying to get it back", self._name)
            except TrimtabError as error:
                _logger.warning("lease %s: %s", self._name, error)
