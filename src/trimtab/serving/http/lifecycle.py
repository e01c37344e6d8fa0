"""Start and end of a service, together with servers of other protocols in the same event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from trimtab.serving.http.requests.wire import Receive, Send

_GRACE_S = 10.0  # where the caller gives none


class Server(Protocol):
    """A server of another protocol."""

    async def start(self) -> None:
        """Take requests."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, and finish requests in flight within `grace_s`."""
        ...


class Lifecycle:
    """Start and end of a service.

    Args:
        close: Closes the service; called with the seconds left for work in flight, and what to ask now and then whether
            to wait no longer.
    """

    def __init__(self, close: Callable[[float, Callable[[], bool]], object]) -> None:
        self.server: Server | None = None  # of another protocol; set it before `start`
        self._close = close
        self._started = False
        self._stopping: asyncio.Task[None] | None = None
        self._end_s: float | None = None  # monotonic: the end of the grace; None: the service goes on
        self._hurried: Callable[[], bool] = lambda: False

    @property
    def ending(self) -> bool:
        """Whether the service ends."""
        return self._end_s is not None

    async def start(self) -> None:
        """Start the other server, if there is one; in the event loop, before connections are taken.

        Raises:
            Unavailable: Its port cannot be listened on.
        """
        if self.server is None or self._started:
            return
        self._started = True
        try:
            await self.server.start()
        except BaseException:
            self.close()
            raise

    def begin_end(self, grace_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Let the other server finish; in the event loop.

        Args:
            grace_s: How long that, and work in threads, may take from now on.
            hurried: Whether to wait no longer, asked now and then.
        """
        if self._end_s is None:
            self._end_s, self._hurried = monotonic() + grace_s, hurried
        if self.server is not None and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self.server.stop(grace_s))

    def close(self) -> None:
        """Close the service within what is left of the grace."""
        self._close(_GRACE_S if self._end_s is None else self._end_s - monotonic(), self._hurried)

    async def run(self, receive: Receive, send: Send) -> None:
        """ASGI's lifespan protocol."""
        while True:
            try:
                message = await receive()
            except asyncio.CancelledError:
                if self._end_s is None:
                    raise
                return  # the end is not waited for any more
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                self.begin_end(_GRACE_S)
                if self._stopping is not None:
                    await self._stopping
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
