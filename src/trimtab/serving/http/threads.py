"""Where a service does what blocks, so that its event loop need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from trimtab.serving.problems import Refused

_AT_WORK = 8
_LOOKING = 2


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
        return await asyncio.get_running_loop().run_in_executor(self._looking, function, *arguments)

    def close(self) -> None:
        """Wait for all of it."""
        for pool in (self._working, self._waiting, self._looking):
            pool.shutdown()

    async def _run(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        self.under_way += 1

        def left(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._left)

        try:
            future = pool.submit(function, *arguments)
        except RuntimeError:  # closed
            self.under_way -= 1
            raise
        future.add_done_callback(left)
        return await asyncio.wrap_future(future)

    def _left(self) -> None:
        self.under_way -= 1
