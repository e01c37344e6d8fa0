"""Models that sleep, woken by those who ask."""

from __future__ import annotations

import asyncio

from trimtab.serving.answer.answering import Answerer
from trimtab.serving.arms.endpoint import Endpoint
from trimtab.serving.http.requests.threads import Threads
from trimtab.serving.problems import Refused


class ModelLoading:
    """Wakes one model: a thread loads its version, and whoever asks for it waits in the event loop.

    However many ask, and however long a load takes, threads are there for other models and for events.  # D140

    Args:
        endpoint: The model.
        threads: Where its version is loaded.
    """

    def __init__(self, endpoint: Endpoint, threads: Threads) -> None:
        self._endpoint = endpoint
        self._threads = threads
        self._load: asyncio.Task[Answerer] | None = None
        self.askers = 0  # who wait

    async def answerer(self) -> Answerer:
        """The version that answers, once it is loaded; the load goes on when an asker does not wait any more.

        Raises:
            Unavailable: There is none.
            Refused: As many wait for it already as may wait, or are at work on something else (429).
        """
        if not self._endpoint.ready:
            raise self._endpoint.refusal()
        if self.askers >= self._threads.at_once:
            raise Refused(429, f"{self.askers} requests wait until the model is loaded. Ask again in a moment.")
        if self._load is None:
            self._threads.check_room()
            self._load = asyncio.get_running_loop().create_task(self._threads.wait(lambda: self._endpoint.current))
            self._load.add_done_callback(self._loaded)
        self.askers += 1
        try:
            return await asyncio.shield(self._load)
        finally:
            self.askers -= 1

    def _loaded(self, load: asyncio.Task[Answerer]) -> None:
        self._load = None  # it keeps the version, or why there is none, also while the model sleeps again
        if not load.cancelled():
            load.exception()  # whoever waits is told; where nobody does any more, nothing is to be said of it
