"""Connections among workers: each is taken by the one that has fewest, for it stays there as long as it is open.

Whoever the kernel wakes first would else take all that wait: a client's pool of connections, opened at once, would
have one worker to itself and leave the others idle.  # D92
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct

_logger = logging.getLogger(__name__)
_FILE = "connections"
_COUNT = Struct("<I")
_NOBODY = 0xFFFF_FFFF  # there is no worker in this place
_MOST = 64  # workers
_POLITE_S, _MOST_POLITE_S = 0.001, 0.005  # so long one leaves a connection to others, for each that it has more
_AFTER_ERROR_S = 1.0  # too many open files: some have to be closed first


class Connections:
    """How many connections each worker has open, in a small file that all of them have in memory.

    Args:
        folder: Where the processes of one service write.
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
        """How many `count` is above the fewest that a worker has; 0 or less: nobody has fewer."""
        others: Iterator[tuple[int]] = _COUNT.iter_unpack(self._shared)
        return count - min(other for (other,) in others)

    def close(self) -> None:
        """This worker takes no more."""
        self.set(_NOBODY)
        self._shared.close()


def begin(folder: Path) -> None:
    """Make the file, before the first worker is started; workers of a service that was killed keep theirs."""
    end(folder)
    (folder / _FILE).write_bytes(_COUNT.pack(_NOBODY) * _MOST)


def left(folder: Path, slot: int) -> None:
    """The worker in this place is gone."""
    with (folder / _FILE).open("r+b") as file:
        file.seek((slot - 1) * _COUNT.size)
        file.write(_COUNT.pack(_NOBODY))


def end(folder: Path) -> None:
    """Remove the file, after the last worker."""
    (folder / _FILE).unlink(missing_ok=True)


class Acceptor:
    """Takes connections one by one, in turn with other workers; what uvicorn asks of a server.

    Args:
        listener: The socket that all workers take connections from.
        protocol: Makes what reads a connection.
        context: With it connections speak TLS.
        connections: Those of all workers.
        count: How many this one has now.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        connections: Connections,
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
        connections.set(0)
        self._loop.add_reader(listener.fileno(), self._look)

    def close(self) -> None:
        """Take no more."""
        self._loop.remove_reader(self._listener.fileno())
        if self._later is not None:
            self._later.cancel()
        self._connections.close()

    async def wait_closed(self) -> None: ...

    def beat(self) -> None:
        """Tell the others how many there are: some were closed meanwhile."""
        self._connections.set(self._mine())

    def _mine(self) -> int:
        return self._count() + len(self._begun)

    def _look(self) -> None:
        mine = self._mine()
        self._connections.set(mine)
        excess = self._connections.excess(mine)
        if excess <= 0:
            self._take()
        else:
            self._pause(min(excess * _POLITE_S, _MOST_POLITE_S))

    def _pause(self, time_s: float) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._later = self._loop.call_later(time_s, self._go_on)

    def _go_on(self) -> None:
        self._later = None
        self._loop.add_reader(self._listener.fileno(), self._look)
        self._take()

    def _take(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # somebody else has taken it, or it is gone
        except OSError as error:
            _logger.error("no connection can be taken: %s", error)
            self._pause(_AFTER_ERROR_S)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._set_up(connection))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        self._connections.set(self._mine())

    async def _set_up(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._context)
        except (OSError, ssl.SSLError) as error:  # it hung up, or does not speak TLS
            _logger.debug("a connection was not set up: %s", error)
            connection.close()
