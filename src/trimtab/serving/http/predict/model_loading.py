"""Load a model that was unloaded, while the requests that need it wait."""

from __future__ import annotations

import asyncio

from trimtab.serving.answer.answering import Answerer
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.problems import Refused


class ModelLoading:
    """Loads the version of one model in a thread, while requests for it wait in the event loop.

    Waiting requests use no threads, so that threads stay free for other models and for events.  # D80
    """

    def __init__(self, endpoint: Endpoint, threads: Threads) -> None:
        self._endpoint = endpoint
        self._threads = threads
        self._load: asyncio.Task[Answerer] | None = None
        self.waiting = 0  # the number of requests that wait for the load

    async def answerer(self) -> Answerer:
        """Wait until the deployed version is loaded, and return its answerer.

        The load continues even if the client closes its connection.

        Raises:
            Unavailable: No version is deployed.
            Refused: Too many requests are waiting, or all threads are busy (429).
        """
        if not self._endpoint.ready:
            raise self._endpoint.refusal()
        if self.waiting >= self._threads.at_once:
            raise Refused(429, f"{self.waiting} requests wait for the model to be loaded. Send the request again soon.")
        if self._load is None:
            self._threads.check_room()
            self._load = asyncio.get_running_loop().create_task(self._threads.wait(lambda: self._endpoint.current))
            self._load.add_done_callback(self._loaded)
        self.waiting += 1
        try:
            return await asyncio.shield(self._load)
        finally:
            self.waiting -= 1

    def _loaded(self, load: asyncio.Task[Answerer]) -> None:
        self._load = None  # otherwise the task would keep the version in memory after it is unloaded again
        if not load.cancelled():
            load.exception()  # mark the error as retrieved, so that asyncio does not log it; requests raise it anyway
