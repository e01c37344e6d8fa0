"""Start and end of a service, together with servers of other protocols in the same event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from trimtab.serving.http.requests.wire import Receive, Send

_GRACE_S = 10.0  # the grace if the caller gives none


class Server(Protocol):
    """A server of another protocol."""

    async def start(self) -> None:
        """Take requests."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no new requests, and finish requests in flight within `grace_s`."""
        ...


class Lifecycle:
    """Start and end of a service.

    Args:
        close: Closes the service. It is called with the seconds left for work in flight, and with a function that tells
            whether to stop waiting.
    """

    def __init__(self, close: Callable[[float, Callable[[], bool]], object]) -> None:
        self.server: Server | None = None  # server of another protocol; set it before `start`
        self._close = close
        self._started = False
        self._stopping: asyncio.Task[None] | None = None
        self._end_s: float | None = None  # end of the grace (`monotonic`); None: the service goes on
        self._hurried: Callable[[], bool] = lambda: False

    @property
    def ending(self) -> bool:
        """Return whether the service is ending."""
        return self._end_s is not None

    async def start(self) -> None:
        """Start the other server, if there is one. Called in the event loop, before connections are taken.

        Raises:
            Unavailable: The port of the other server cannot be listened on.
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
        """Let the other server finish. Called in the event loop.

        Args:
            grace_s: How long the other server and work in threads may take from now on.
            hurried: Whether to stop waiting; asked now and then.
        """
        if self._end_s is None:
            self._end_s, self._hurried = monotonic() + grace_s, hurried
        if self.server is not None and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self.server.stop(grace_s))

    def close(self) -> None:
        """Close the service within the rest of the grace."""
        self._close(_GRACE_S if self._end_s is None else self._end_s - monotonic(), self._hurried)

    async def run(self, receive: Receive, send: Send) -> None:
        """Handle ASGI's lifespan protocol."""
        while True:
            try:
                message = await receive()
            except asyncio.CancelledError:
                if self._end_s is None:
                    raise
                return  # no one waits for the end any more
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
