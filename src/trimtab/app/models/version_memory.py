"""Keep loaded versions in memory: all that answer requests, and recently used ones within a memory limit."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from trimtab.core.errors import Misuse, TrimtabError
from trimtab.registry import LoadedModel, Version

if TYPE_CHECKING:
    from trimtab.serving.answer.batching import BatchCosts

_RETRY_S = 2.0  # pause after a failed load, because each attempt reads the whole version  # D80
_logger = logging.getLogger(__name__)


class VersionMemory:
    """Loads versions and keeps them in memory within a limit. Versions that a holder needs are never dropped.

    A holder is a user of versions, such as the served model of a deployment. A version is loaded only once, even if
    several threads request it at the same time. A thread never waits for the load of a version that it did not request.
    # D80

    A version counts with the size of its stored model, although it may take more memory.

    Args:
        load: Loads a version. Several threads may call it at the same time.
        retry_s: The number of seconds after which `begin` retries a failed load.
    """

    def __init__(self, load: Callable[[Version], LoadedModel], cap_bytes: int, *, retry_s: float = _RETRY_S) -> None:
        self.cap_bytes = cap_bytes
        self._load = load
        self._retry_s = retry_s
        self._mutex = threading.RLock()  # never held while a version is being loaded
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # by version id; the last was used most recently
        self._answering: dict[str, frozenset[str]] = {}  # for each holder, the ids of versions that answer requests
        self._waiting: dict[str, frozenset[str]] = {}  # for each holder, the ids of versions that will answer later
        self._loads: dict[str, Future[LoadedModel]] = {}  # the running loads, by version id
        self._failed: dict[str, _Failed] = {}
        self._threads: dict[str, threading.Thread] = {}

    def find(self, version: Version, holder: str) -> LoadedModel | None:
        """Return a version if it is in memory, and otherwise None.

        From now on, the version counts as needed by `holder`, even if it is not loaded yet.
        """
        with self._mutex:
            self._waiting[holder] = self._waiting.get(holder, frozenset()) | {version.id}
            kept = self._kept.get(version.id)
            if kept is None:
                return None
            self._kept.move_to_end(version.id)
            return kept.loaded

    def get(self, version: Version, holder: str) -> LoadedModel:
        """Return a version, and load it or wait for its load if necessary.

        From now on, the version counts as needed by `holder`.

        Raises:
            Corrupt: The version cannot be loaded.
            Misuse: The version cannot be loaded on this machine.
        """
        load: Future[LoadedModel] = Future()
        try:
            with self._mutex:
                found = self.find(version, holder)
                if found is not None:
                    return found
                under_way = self._loads.setdefault(version.id, load)
            return self._run(version, load) if under_way is load else under_way.result()
        except BaseException as error:  # even for an interrupt, because other threads may wait for this load
            self._give_up(version, load, error)
            raise

    def begin(self, version: Version, holder: str) -> LoadedModel | None:
        """Return a version if it is in memory. Otherwise begin to load it in a thread, and return None.

        From now on, the version counts as needed by `holder`.

        Raises:
            TrimtabError: The last completed attempt to load the version failed with this error. Another attempt may be
                running.
        """
        with self._mutex:
            found = self.find(version, holder)
            if found is not None:
                return found
            failed = self._failed.get(version.id)
            if version.id not in self._loads and (failed is None or monotonic() >= failed.again_s):
                load: Future[LoadedModel] = Future()
                given = version, load
                thread = threading.Thread(target=self._run_apart, args=given, name="trimtab-load", daemon=True)
                # `start` may fail, so it comes first. The thread cannot end before the next line: it needs the mutex.
                thread.start()
                self._loads[version.id], self._threads[version.id] = load, thread
        if failed is not None:
            raise failed.kind(failed.said)
        return None

    def hold(self, holder: str, answering: Iterable[str], waiting: Iterable[str] = ()) -> None:
        """Set which versions `holder` needs: those that answer, and those that will answer later.

        The holder's other versions may be dropped.
        """
        with self._mutex:
            before, now = self._answering.get(holder, frozenset()), frozenset(answering)
            for address in before - now:  # they count as just used, so that they are in memory for a rollback
                if address in self._kept:
                    self._kept.move_to_end(address)
            self._answering[holder], self._waiting[holder] = now, frozenset(waiting)
            self._drop()

    def costs(self, version: Version) -> BatchCosts | None:
        """Return how long a version takes to score a single row, and batches; None if it is not in memory."""
        with self._mutex:
            kept = self._kept.get(version.id)
        return None if kept is None else kept.costs

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that are loading a version now."""
        with self._mutex:
            return list(self._threads.values())

    def used_bytes(self) -> int:
        """Return the total size of all versions in memory."""
        with self._mutex:
            return sum(map(_size, self._kept.values()))

    def too_full(self) -> bool:
        """Return whether the versions that answer already exceed the limit. # D80"""
        with self._mutex:
            answering = frozenset().union(*self._answering.values())
            return sum(_size(one) for address, one in self._kept.items() if address in answering) > self.cap_bytes

    def _run(self, version: Version, load: Future[LoadedModel]) -> LoadedModel:
        try:
            from trimtab.serving.answer.batching import measure_costs  # imported here, because it loads asyncio

            loaded = self._load(version)
            kept = _Kept(loaded, measure_costs(loaded.scorer, len(loaded.inputs)))
            with self._mutex:
                self._failed.pop(version.id, None)
                self._kept[version.id] = kept
                self._drop()
                if self._loads.get(version.id) is load:
                    del self._loads[version.id]
            load.set_result(loaded)
            return loaded
        except BaseException as error:
            self._give_up(version, load, error)
            raise

    def _give_up(self, version: Version, load: Future[LoadedModel], error: BaseException) -> None:
        """End a failed load: pass an error to the threads that wait for it, and let later calls begin a new load.

        If `error` is an interrupt of this thread, the waiting threads get a `Misuse` that names it.
        """
        failed = _failure(version, error, monotonic() + self._retry_s)
        try:
            with self._mutex:
                if self._loads.get(version.id) is load:
                    self._failed[version.id] = failed
                    del self._loads[version.id]
        finally:
            if not load.done():
                load.set_exception(error if isinstance(error, Exception) else failed.kind(failed.said))

    def _run_apart(self, version: Version, load: Future[LoadedModel]) -> None:
        try:
            with suppress(TrimtabError):  # the next call of `begin` raises the error
                self._run(version, load)
        except Exception:  # from a user's estimator; this is the top of the thread
            _logger.exception("%s cannot be loaded", version.name)
        finally:
            with self._mutex:
                if self._threads.get(version.id) is threading.current_thread():
                    del self._threads[version.id]

    def _drop(self) -> None:
        held = frozenset().union(*self._answering.values(), *self._waiting.values())
        left = self.used_bytes()
        for address in [address for address in self._kept if address not in held]:
            if left <= self.cap_bytes:
                return
            left -= _size(self._kept.pop(address))


class _Kept(NamedTuple):
    loaded: LoadedModel
    costs: BatchCosts


class _Failed(NamedTuple):
    """A failed load. The error is not kept, because its traceback refers to all data that was read."""

    kind: type[TrimtabError]
    said: str
    again_s: float  # the monotonic time from which another attempt is allowed


def _failure(version: Version, error: BaseException, again_s: float) -> _Failed:
    if isinstance(error, TrimtabError):
        return _Failed(type(error), str(error), again_s)
    return _Failed(Misuse, f"{version.name} cannot be loaded here: {type(error).__name__}: {error}", again_s)


def _size(kept: _Kept) -> int:
    return len(kept.loaded.artifact.estimator)
