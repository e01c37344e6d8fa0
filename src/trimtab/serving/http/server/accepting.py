"""Accept connections so that each worker gets its share: the worker with the fewest connections accepts first.

Otherwise the worker that the kernel wakes first would accept all waiting connections. If a client opened a pool of
connections at once, one worker would get all of them and the others would be idle. A connection stays with its worker.
# D92
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from struct import Struct
from time import perf_counter
from typing import Any

_logger = logging.getLogger(__name__)
_FILE = "connections"
_COUNT = Struct("<I")
_NO_WORKER = 0xFFFF_FFFF
_MOST = 64  # the maximum number of workers
# If a worker has n connections more than the worker that has the fewest, it pauses for n * `_POLITE_S` (at most for
# `_MOST_POLITE_S`) before it accepts the next one.
_POLITE_S, _MOST_POLITE_S = 0.001, 0.005
# n is first reduced by a sixteenth of the worker's own connections, so that no client waits long
_UNEVEN = 16
_AT_ONCE_S = 0.002  # seconds of accepting before the open connections are served again
_AT_THE_END_S = 0.5  # seconds of accepting at the end of the server
_AFTER_ERROR_S = 1.0  # pause after an error such as too many open files


class Connections:
    """Each worker's number of open connections, in a file that all workers map into memory.

    Args:
        folder: The folder in which the processes of one service keep their files.
        slot: The number of this worker, from 1.
    """

    def __init__(self, folder: Path, slot: int) -> None:
        self._at = (slot - 1) * _COUNT.size
        path = folder / _FILE
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _MOST * _COUNT.size)

    def set(self, count: int) -> None:
        _COUNT.pack_into(self._shared, self._at, count)

    def excess(self, count: int) -> int:
        """Return `count` minus the number of connections of the worker that has the fewest."""
        others: Iterator[tuple[int]] = _COUNT.iter_unpack(self._shared)
        return count - min(other for (other,) in others)

    def close(self) -> None:
        """Record that this worker accepts no more connections."""
        self.set(_NO_WORKER)
        self._shared.close()


def begin(folder: Path) -> None:
    """Create the file. Call this before a worker starts. Workers left from a killed service keep using the old file."""
    end(folder)
    (folder / _FILE).write_bytes(_COUNT.pack(_NO_WORKER) * _MOST)


def left(folder: Path, slot: int) -> None:
    """Record that a worker has ended."""
    with (folder / _FILE).open("r+b") as file:
        file.seek((slot - 1) * _COUNT.size)
        file.write(_COUNT.pack(_NO_WORKER))


def end(folder: Path) -> None:
    """Remove the file. Call this after the last worker has ended."""
    (folder / _FILE).unlink(missing_ok=True)


class Acceptor:
    """Accepts connections in turn with other workers. It has the interface that uvicorn expects of a server.

    The event loop's own server accepts only one connection in each iteration of the loop: 50 a second if an iteration
    takes 20 ms. A request for `/health/live` would wait until all earlier connections are accepted.  # D0082

    Args:
        protocol: Makes the protocol object of a new connection.
        connections: The connection counts of all workers, or None if there is only this worker.
        count: Returns the number of open connections of this worker.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], Any],
        context: ssl.SSLContext | None,
        connections: Connections | None,
        count: Callable[[], int],
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._context = context
        self._connections = connections
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._begun: set[asyncio.Task[None]] = set()  # connections that are being set up
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        self._publish(0)
        self._loop.add_reader(listener.fileno(), self._accept_fairly)

    def close(self) -> None:
        """Accept the waiting connections, and then no more.

        Later connections are reset by the kernel when the socket is closed.
        """
        self._closed = True
        self._loop.remove_reader(self._listener.fileno())
        until_s = perf_counter() + _AT_THE_END_S
        while self._take() and perf_counter() < until_s:
            pass
        if self._later is not None:
            self._later.cancel()
        if self._connections is not None:
            self._connections.close()

    async def set_up(self, timeout_s: float) -> None:
        """Wait until all accepted connections are set up, but at most for `timeout_s`."""
        if self._begun:
            await asyncio.wait(self._begun, timeout=timeout_s)

    async def wait_closed(self) -> None: ...

    def beat(self) -> None:
        """Publish this worker's number of connections for the other workers."""
        self._publish(self._mine())

    def _publish(self, mine: int) -> None:
        if self._connections is not None:
            self._connections.set(mine)

    def _mine(self) -> int:
        return self._count() + len(self._begun)

    def _accept_fairly(self) -> None:
        until_s = perf_counter() + _AT_ONCE_S
        taken = True
        while taken and perf_counter() < until_s:
            mine = self._mine()
            self._publish(mine)
            excess = 0 if self._connections is None else self._connections.excess(mine) - mine // _UNEVEN
            if excess > 0:
                self._pause(min(excess * _POLITE_S, _MOST_POLITE_S))
                return
            taken = self._take()

    def _pause(self, time_s: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._later = self._loop.call_later(time_s, self._go_on)

    def _go_on(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener.fileno(), self._accept_fairly)
        self._take()  # one connection, even if other workers have fewer, so that no client waits for them forever

    def _take(self) -> bool:
        """Accept one connection. Return False if none is waiting."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker has accepted the connection, or the client has closed it
        except OSError as error:
            _logger.error("connections: cannot be accepted: %s", error)
            self._pause(_AFTER_ERROR_S)
            return False
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._set_up(connection))
        self._begun.add(task)
        task.add_done_callback(partial(self._is_set_up, connection))
        self._publish(self._mine())
        return True

    def _is_set_up(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        if task.cancelled():  # the event loop is ending
            connection.close()

    async def _set_up(self, connection: socket.socket) -> None:
        try:
            _, made = await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._context)
        except (OSError, ssl.SSLError) as error:  # the client has closed the connection, or does not speak TLS
            _logger.debug("connections: one was not set up: %s", error)
            connection.close()
            return
        if self._closed:
            made.shutdown()  # the server was closed meanwhile
