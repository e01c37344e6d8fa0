"""Group commit: answers of one moment share one append to the prediction log."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from typing import Literal

from trimtab.core.records import Prediction
from trimtab.serving.prediction_log import PredictionLog

CommitMode = Literal["relaxed", "durable"]


class GroupCommit:
    """Appends predictions for the tasks of one event loop; a task waits until its own are in the log.

    relaxed: what the tasks of one turn of the loop made is appended at its end, in the loop itself: without a sync
    that takes less time than handing it to a thread. The answer leaves after it, so that kill -9 loses nothing that
    was answered. durable: a thread appends and syncs; whatever arrives meanwhile shares the next sync.
    """

    def __init__(self, log: PredictionLog, mode: CommitMode) -> None:
        self.mode = mode
        self._log = log
        self._waiting: list[tuple[Sequence[Prediction], asyncio.Future[None]]] = []
        self._queue: queue.SimpleQueue[asyncio.AbstractEventLoop | None] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None

    async def append(self, predictions: Sequence[Prediction]) -> None:
        """Return once `predictions` are in the log.

        Raises:
            Unavailable: The log cannot be written now; none of them are in it.
        """
        loop = asyncio.get_running_loop()
        if self.mode == "relaxed":
            if not self._waiting:
                loop.call_soon(self._flush)
            done = loop.create_future()
            self._waiting.append((predictions, done))
            await done
            return
        done = loop.create_future()
        with self._mutex:
            first = not self._waiting
            self._waiting.append((predictions, done))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="trimtab-commit", daemon=True)
            self._thread.start()
        if first:
            self._queue.put(loop)
        await done

    def close(self) -> None:
        """Append what waits, then stop."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        error = self._append([p for predictions, _ in waiting for p in predictions])
        _finish([done for _, done in waiting], error)

    def _run(self) -> None:
        while (loop := self._queue.get()) is not None:
            with self._mutex:
                waiting, self._waiting = self._waiting, []
            error = self._append([p for predictions, _ in waiting for p in predictions])
            loop.call_soon_threadsafe(_finish, [done for _, done in waiting], error)

    def _append(self, predictions: Sequence[Prediction]) -> Exception | None:
        try:
            self._log.append(predictions)
        except Exception as error:  # whatever it is, the tasks must not wait for ever: each raises it
            return error
        return None


def _finish(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if not future.done():  # the asker may have gone
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
