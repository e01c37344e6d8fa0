"""The versions in memory: those in service, and recently used ones within a memory limit."""

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

_RETRY_S = 2.0  # until a failed load is retried: each try reads and verifies the version  # D80
_logger = logging.getLogger(__name__)


class VersionMemory:
    """Loads versions and keeps them within a number of bytes; held versions are never dropped.

    A version is loaded once, however many threads request it, and no thread waits for the load of another version.  #
    D80

    A version counts with the size of its stored model; in memory it may take more.

    Args:
        load: Loads a version; called by several threads.
        cap_bytes: The memory limit.
        retry_s: Seconds until `begin` retries a failed load.
    """

    def __init__(self, load: Callable[[Version], LoadedModel], cap_bytes: int, *, retry_s: float = _RETRY_S) -> None:
        self.cap_bytes = cap_bytes
        self._load = load
        self._retry_s = retry_s
        self._mutex = threading.RLock()  # never held during a load
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # most recently used last
        self._answering: dict[str, frozenset[str]] = {}  # version ids by holder
        self._waiting: dict[str, frozenset[str]] = {}  # the same, of versions that do not answer yet
        self._loads: dict[str, Future[LoadedModel]] = {}  # running loads
        self._failed: dict[str, _Failed] = {}
        self._threads: dict[str, threading.Thread] = {}

    def find(self, version: Version, holder: str) -> LoadedModel | None:
        """A version if it is in memory; `holder` holds it from now on, also if it is still to be loaded."""
        with self._mutex:
            self._waiting[holder] = self._waiting.get(holder, frozenset()) | {version.id}
            kept = self._kept.get(version.id)
            if kept is None:
                return None
            self._kept.move_to_end(version.id)
            return kept.loaded

    def get(self, version: Version, holder: str) -> LoadedModel:
        """A loaded version, after waiting for its load; `holder` holds it.

        Raises:
            Corrupt: It cannot be loaded.
            Misuse: Not on this machine.
        """
        load: Future[LoadedModel] = Future()
        try:
            with self._mutex:
                found = self.find(version, holder)
                if found is not None:
                    return found
                under_way = self._loads.setdefault(version.id, load)
            return self._run(version, load) if under_way is load else under_way.result()
        except BaseException as error:  # also on an interrupt: other threads may wait for it
            self._give_up(version, load, error)
            raise

    def begin(self, version: Version, holder: str) -> LoadedModel | None:
        """Like `get` without waiting: None while a thread loads it.

        Raises:
            TrimtabError: The error of the last try, until another one succeeds.
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
                thread.start()  # starting may fail; the thread's end waits for the mutex
                self._loads[version.id], self._threads[version.id] = load, thread
        if failed is not None:
            raise failed.kind(failed.said)
        return None

    def hold(self, holder: str, answering: Iterable[str], waiting: Iterable[str] = ()) -> None:
        """Set the versions that `holder` answers with, or will; others may be dropped."""
        with self._mutex:
            before, now = self._answering.get(holder, frozenset()), frozenset(answering)
            for address in before - now:  # the previous version counts as most recently used: a rollback needs it
                if address in self._kept:
                    self._kept.move_to_end(address)
            self._answering[holder], self._waiting[holder] = now, frozenset(waiting)
            self._drop()

    def costs(self, version: Version) -> BatchCosts | None:
        """The time per row of a version alone and in a batch; None when it is not in memory."""
        with self._mutex:
            kept = self._kept.get(version.id)
        return None if kept is None else kept.costs

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that load a version now."""
        with self._mutex:
            return list(self._threads.values())

    def used_bytes(self) -> int:
        """The size of all versions in memory."""
        with self._mutex:
            return sum(map(_size, self._kept.values()))

    def too_full(self) -> bool:
        """Whether answering versions exceed the limit; waiting ones do not count.  # D80"""
        with self._mutex:
            answering = frozenset().union(*self._answering.values())
            return sum(_size(one) for address, one in self._kept.items() if address in answering) > self.cap_bytes

    def _run(self, version: Version, load: Future[LoadedModel]) -> LoadedModel:
        try:
            from trimtab.serving.answer.batching import measure_costs  # imported here: it loads asyncio

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
        """End a failed load: tell the waiting threads, and let the next request retry.

        An interrupt concerns only the loading thread: the others are told that the load failed.
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
            with suppress(TrimtabError):  # `begin` raises it
                self._run(version, load)
        except Exception:  # the thread's outer loop: any error of a user's estimator
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
    """A failed load; not the error itself, whose frames hold what was read."""

    kind: type[TrimtabError]
    said: str
    again_s: float  # the time of the next retry


def _failure(version: Version, error: BaseException, again_s: float) -> _Failed:
    if isinstance(error, TrimtabError):
        return _Failed(type(error), str(error), again_s)
    return _Failed(Misuse, f"{version.name} cannot be loaded here: {type(error).__name__}: {error}", again_s)


def _size(kept: _Kept) -> int:
    return len(kept.loaded.artifact.estimator)
