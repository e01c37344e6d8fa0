"""Start and stop a service together with servers of other protocols in the same event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from trimtab.serving.http.requests.wire import Receive, Send

_GRACE_S = 10.0  # the time for running work if the caller gives none


class Server(Protocol):
    """A server of another protocol, such as gRPC."""

    async def start(self) -> None:
        """Begin to accept requests."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Accept no more requests, and finish running ones within `grace_s` seconds."""
        ...


class Lifecycle:
    """Starts and stops a service.

    Args:
        close: Closes the service. Its arguments are the seconds left for running work, and a function that returns
            whether to stop waiting.
    """

    def __init__(self, close: Callable[[float, Callable[[], bool]], object]) -> None:
        self.server: Server | None = None  # a server of another protocol, to be set before `start`
        self._close = close
        self._started = False
        self._stopping: asyncio.Task[None] | None = None
        self._end_s: float | None = None  # when running work must end (`monotonic`); None while the service runs
        self._hurried: Callable[[], bool] = lambda: False

    @property
    def ending(self) -> bool:
        """Return whether the service is ending."""
        return self._end_s is not None

    async def start(self) -> None:
        """Start the other server, if there is one. Call this in the event loop, before connections are accepted.

        Raises:
            Unavailable: The other server cannot listen at its port.
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
        """Begin to end the service: let the other server, if there is one, finish its requests. Call in the event loop.

        Args:
            grace_s: How long the other server and work in threads may still take.
            hurried: Returns whether to stop waiting. It is called from time to time.
        """
        if self._end_s is None:
            self._end_s, self._hurried = monotonic() + grace_s, hurried
        if self.server is not None and self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self.server.stop(grace_s))

    def close(self) -> None:
        """Close the service. Running work may take what is left of `begin_end`'s `grace_s`, or else ten seconds."""
        self._close(_GRACE_S if self._end_s is None else self._end_s - monotonic(), self._hurried)

    async def run(self, receive: Receive, send: Send) -> None:
        """Handle the messages of ASGI's lifespan protocol."""
        while True:
            try:
                message = await receive()
            except asyncio.CancelledError:
                if self._end_s is None:
                    raise
                return  # after a second signal, uvicorn ends without the message for the shutdown
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
