"""Thread pools of a service, for work that would block its event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from time import monotonic
from typing import Any

from trimtab.serving.problems import Refused

_AT_WORK = 8
_LOOKING = 2
_POLL_S = 0.05  # time between two checks at the end whether to stop waiting
_logger = logging.getLogger(__name__)
_unfinished: set[Future[Any]] = set()  # work that still ran when its pool was closed


class Threads:
    """Three pools: for work of requests, for requests that only wait, and for metrics and readiness.

    So waiting requests leave threads for work, and working requests leave threads for metrics and readiness.

    Args:
        at_once: How many requests may work or wait.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.under_way = 0  # number of requests whose thread is not done, even if their client has gone
        self._working = ThreadPoolExecutor(_AT_WORK, "trimtab-http")
        self._waiting = ThreadPoolExecutor(at_once, "trimtab-waits")
        self._looking = ThreadPoolExecutor(_LOOKING, "trimtab-looks")
        self._futures: set[Future[Any]] = set()  # keeps tasks alive until they are done
        self._closed = False

    def check_room(self) -> None:
        """Refuse a request when too many work or wait.

        Raises:
            Refused: Too many requests work or wait (429).
        """
        if self.under_way >= self.at_once:
            raise Refused(429, f"{self.under_way} slow requests are in flight. Send it again soon.")

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run the first work of a request in a thread.

        Raises:
            Refused: Too many requests are in flight (429). Nothing was done.
        """
        self.check_room()
        return await self._run(self._working, function, *arguments)

    async def go_on(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run more work of a request for which something was done already. This work is never refused."""
        return await self._run(self._working, function, *arguments)

    async def wait(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run work that only waits. This work is never refused."""
        return await self._run(self._waiting, function, *arguments)

    async def look(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run work for metrics and readiness."""
        return await asyncio.wrap_future(self._begin(self._looking, function, *arguments))

    def close(self, within_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Begin no more work, and wait for work in flight. A second call does nothing.

        A thread cannot be ended. A thread that still works after `within_s` goes on, see `exit_now`.

        Args:
            within_s: The longest wait.
            hurried: Whether to stop waiting; asked now and then.
        """
        if self._closed:
            return
        self._closed = True
        pools, end_s = (self._working, self._waiting, self._looking), monotonic() + within_s
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        at_work = set(self._futures)
        while at_work and (left_s := end_s - monotonic()) > 0 and not hurried():
            _, at_work = wait(at_work, min(left_s, _POLL_S))
        if at_work:
            _logger.warning("threads still work on %d slow requests at the end; not waiting for them", len(at_work))
            _unfinished.update(at_work)
            return
        for pool in pools:
            pool.shutdown()  # the threads of the pool are idle, and end

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        self.under_way += 1

        def done(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._left)

        try:
            future = self._begin(pool, function, *arguments)
        except RuntimeError:  # the pool is closed
            self.under_way -= 1
            raise
        future.add_done_callback(done)
        try:
            return await asyncio.wrap_future(future)
        finally:
            # the error refers to this frame: both would keep the decoded body alive until a garbage collection
            del future

    def _begin(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = pool.submit(function, *arguments)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def _left(self) -> None:
        self.under_way -= 1


def still_at_work() -> int:
    """Return how many threads still work after their pool was closed.

    The interpreter would wait for them at its end.
    """
    return sum(not future.done() for future in _unfinished)


def exit_now(status: int) -> None:
    """End the process now if threads still work after their pool was closed. Otherwise do nothing.

    This is the last call of a serving process, when everything else is closed. A hanging model, for instance, must not
    delay a restart. # D92
    """
    if not still_at_work():
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the stream is closed, or is a broken pipe
            stream.flush()
    os._exit(status)
