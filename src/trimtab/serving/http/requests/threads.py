"""Thread pools of a service, for what would block its event loop."""

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
_POLL_S = 0.05  # between two checks at the end whether to wait no longer
_logger = logging.getLogger(__name__)
_unfinished: set[Future[Any]] = set()  # work that went on when its pool was closed


class Threads:
    """Three pools: for work of requests, for requests that only wait, and for metrics and readiness.

    So requests that wait leave threads for work, and requests that work leave threads for metrics and readiness.

    Args:
        at_once: How many requests may work or wait.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.under_way = 0  # requests whose thread is not done, also when their client has gone
        self._working = ThreadPoolExecutor(_AT_WORK, "trimtab-http")
        self._waiting = ThreadPoolExecutor(at_once, "trimtab-waits")
        self._looking = ThreadPoolExecutor(_LOOKING, "trimtab-looks")
        self._futures: set[Future[Any]] = set()  # until they are done
        self._closed = False

    def check_room(self) -> None:
        """Refuse a request when too many work or wait.

        Raises:
            Refused: Too many do (429).
        """
        if self.under_way >= self.at_once:
            raise Refused(429, f"{self.under_way} slow requests are in flight. Send it again soon.")

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The first work of a request.

        Raises:
            Refused: Too many requests are in flight (429); nothing was done.
        """
        self.check_room()
        return await self._run(self._working, function, *arguments)

    async def go_on(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """More work of a request that something was done for: never refused."""
        return await self._run(self._working, function, *arguments)

    async def wait(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Work that only waits: never refused."""
        return await self._run(self._waiting, function, *arguments)

    async def look(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Work for metrics and readiness."""
        return await asyncio.wrap_future(self._begin(self._looking, function, *arguments))

    def close(self, within_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Begin nothing more, and wait for work in flight; the second call does nothing.

        A thread cannot be ended. One that still works after `within_s` goes on: see `exit_now`.

        Args:
            within_s: The longest wait.
            hurried: Whether to wait no longer, checked now and then.
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
            pool.shutdown()  # its threads are idle, and end

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        self.under_way += 1

        def done(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._left)

        try:
            future = self._begin(pool, function, *arguments)
        except RuntimeError:  # closed
            self.under_way -= 1
            raise
        future.add_done_callback(done)
        try:
            return await asyncio.wrap_future(future)
        finally:
            del future  # its error refers to this frame: they would keep the decoded body until a collection

    def _begin(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = pool.submit(function, *arguments)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def _left(self) -> None:
        self.under_way -= 1


def still_at_work() -> int:
    """How many threads still work after their pool was closed; the interpreter would wait for them."""
    return sum(not future.done() for future in _unfinished)


def exit_now(status: int) -> None:
    """End the process now if threads still work after their pool was closed; else do nothing.

    The last call of a serving process, when all else is closed: a hanging model, for instance, must not delay a
    restart. # D92
    """
    if not still_at_work():
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a broken pipe
            stream.flush()
    os._exit(status)
