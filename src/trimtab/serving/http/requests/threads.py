"""Where a service does what blocks, so that its event loop need not wait."""

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
_LOOK_S = 0.05  # between two looks whether somebody has lost patience
_logger = logging.getLogger(__name__)
_left_behind: set[Future[Any]] = set()  # what threads were at when their pools were closed


class Threads:
    """Three pools: for the work of requests, for requests that only wait, and for looks at the process itself.

    However many wait for something, there is somebody to work; and however many are at work, metrics and readiness are
    answered.

    Args:
        at_once: How many requests may be at work or waiting.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.under_way = 0  # until their thread is done with them, also when nobody waits for it any more
        self._working = ThreadPoolExecutor(_AT_WORK, "trimtab-http")
        self._waiting = ThreadPoolExecutor(at_once, "trimtab-waits")
        self._looking = ThreadPoolExecutor(_LOOKING, "trimtab-looks")
        self._futures: set[Future[Any]] = set()  # until they are done
        self._closed = False

    def check_room(self) -> None:
        """Refuse a request when too many are at work or waiting.

        Raises:
            Refused: There are (429).
        """
        if self.under_way >= self.at_once:
            raise Refused(429, f"{self.under_way} slow requests are under way. Ask again in a moment.")

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The first work of a request.

        Raises:
            Refused: Too many are under way (429); nothing was done.
        """
        self.check_room()
        return await self._run(self._working, function, *arguments)

    async def go_on(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """More work of a request of which something was done already: never refused."""
        return await self._run(self._working, function, *arguments)

    async def wait(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Something that only waits, after what was done: never refused."""
        return await self._run(self._waiting, function, *arguments)

    async def look(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """A look at the process itself."""
        return await asyncio.wrap_future(self._begin(self._looking, function, *arguments))

    def close(self, within_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Begin nothing more, and wait for what is under way; nothing happens the second time.

        Nobody can end a thread. One that is still at work when the time is over is left behind: see `leave`.

        Args:
            within_s: For at most so long.
            hurried: Asked now and then: whether somebody has lost patience.
        """
        if self._closed:
            return
        self._closed = True
        pools, end_s = (self._working, self._waiting, self._looking), monotonic() + within_s
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        at_work = set(self._futures)
        while at_work and (left_s := end_s - monotonic()) > 0 and not hurried():
            _, at_work = wait(at_work, min(left_s, _LOOK_S))
        if at_work:
            _logger.warning("slow requests that are still at work, and nobody waits for any more: %d", len(at_work))
            _left_behind.update(at_work)
            return
        for pool in pools:
            pool.shutdown()  # its threads are idle, and end

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        self.under_way += 1

        def left(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._left)

        try:
            future = self._begin(pool, function, *arguments)
        except RuntimeError:  # closed
            self.under_way -= 1
            raise
        future.add_done_callback(left)
        try:
            return await asyncio.wrap_future(future)
        finally:
            del future  # its error names this frame: together they would keep what was decoded, and be collected late

    def _begin(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future = pool.submit(function, *arguments)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def _left(self) -> None:
        self.under_way -= 1


def still_at_work() -> int:
    """How many threads go on, whose pools were closed: the interpreter waits for them when it ends."""
    return sum(not future.done() for future in _left_behind)


def leave(status: int) -> None:
    """End the process now if threads were left behind that are still at work; else nothing happens.

    The last act of a process that serves, when all else is closed. Whatever a request is at that nobody waits for
    any more, a model that hangs for one, must not keep a port or a restart waiting. # D126
    """
    if not still_at_work():
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it
            stream.flush()
    os._exit(status)
