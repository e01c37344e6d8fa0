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
_POLL_S = 0.05  # when closing: time between two checks whether to stop waiting
_logger = logging.getLogger(__name__)
_unfinished: set[Future[Any]] = set()  # work that was still running when its pool was closed


class Threads:
    """Three thread pools: for work on requests, for requests that only wait, and for metrics and readiness checks.

    They are separate, so that waiting requests do not take the threads for work, and requests do not delay metrics and
    readiness checks.

    Args:
        at_once: While this many requests use the first two pools, `work` refuses others.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.under_way = 0  # number of requests with work in threads, even if their client is gone
        self._working = ThreadPoolExecutor(_AT_WORK, "trimtab-http")
        self._waiting = ThreadPoolExecutor(at_once, "trimtab-waits")
        self._looking = ThreadPoolExecutor(_LOOKING, "trimtab-looks")
        self._futures: set[Future[Any]] = set()  # keeps references to running work until it is done
        self._closed = False

    def check_room(self) -> None:
        """Raise `Refused` (429) if too many requests use threads."""
        if self.under_way >= self.at_once:
            raise Refused(429, f"{self.under_way} slow requests are in flight. Send the request again soon.")

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do the first work on a request in a thread.

        Raises:
            Refused: Too many requests use threads (429). Nothing was done.
        """
        self.check_room()
        return await self._run(self._working, function, *arguments)

    async def go_on(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do further work on a request, after `work` or `wait` has worked on it. This is never refused."""
        return await self._run(self._working, function, *arguments)

    async def wait(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do work that mostly waits, in the pool for waiting requests. This is never refused."""
        return await self._run(self._waiting, function, *arguments)

    async def look(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do work for metrics or readiness checks, in the pool for these."""
        return await asyncio.wrap_future(self._begin(self._looking, function, *arguments))

    def close(self, within_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Start no more work, and wait for running work. A second call does nothing.

        A thread cannot be stopped from outside. A thread that still works after `within_s` continues; see `exit_now`.

        Args:
            within_s: The maximum time to wait.
            hurried: Returns whether to stop waiting. It is called from time to time.
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
            pool.shutdown()  # all threads of the pool are idle and end at once

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        self.under_way += 1

        def done(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(self._left)

        try:
            future = self._begin(pool, function, *arguments)
        except RuntimeError:  # the pool has been closed
            self.under_way -= 1
            raise
        future.add_done_callback(done)
        try:
            return await asyncio.wrap_future(future)
        finally:
            # break a reference cycle (error and this frame) that would keep the decoded body in memory
            del future

    def _begin(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = pool.submit(function, *arguments)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def _left(self) -> None:
        self.under_way -= 1


def still_at_work() -> int:
    """Return how many threads still do work that was running when their pool was closed.

    The interpreter would wait for them at its end.
    """
    return sum(not future.done() for future in _unfinished)


def exit_now(status: int) -> None:
    """End the process at once if threads are still working after their pool was closed. Otherwise do nothing.

    A serving process calls this after it has closed everything else. Otherwise a model that hangs, for example, would
    delay a restart.  # D92
    """
    if not still_at_work():
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the stream is closed or the pipe is broken
            stream.flush()
    os._exit(status)
