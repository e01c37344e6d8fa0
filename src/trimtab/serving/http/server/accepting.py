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
from functools import partial
from pathlib import Path
from struct import Struct
from time import perf_counter
from typing import Any

_logger = logging.getLogger(__name__)
_FILE = "connections"
_COUNT = Struct("<I")
_NOBODY = 0xFFFF_FFFF  # there is no worker in this place
_MOST = 64  # workers
_POLITE_S, _MOST_POLITE_S = 0.001, 0.005  # so long one leaves a connection to others, for each that it has more
_UNEVEN = 16  # a worker that has so many times as many takes one more than its share: many that wait are taken soon
_AT_ONCE_S = 0.002  # connections are taken so long, and then those that are open have their turn
_AT_THE_END_S = 0.5  # so long connections that wait are taken by a server that ends: thousands
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
    """Takes all connections that wait, in turn with other workers; what uvicorn asks of a server.

    The event loop's own server takes one at each turn: where a turn takes 20 ms, 50 a second, and a look at
    `/health/live` waits behind all that came before.  # D0173

    Args:
        listener: The socket that connections are taken from.
        protocol: Makes what reads a connection.
        context: With it connections speak TLS.
        connections: Those of all workers; None: there is only this one.
        count: How many this one has now.
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
        self._announce(0)
        self._loop.add_reader(listener.fileno(), self._look)

    def close(self) -> None:
        """Take what waits, and no more: the kernel resets what nobody took when the socket is closed."""
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
        """Return once all connections that were taken are set up, or after `timeout_s`."""
        if self._begun:
            await asyncio.wait(self._begun, timeout=timeout_s)

    async def wait_closed(self) -> None: ...

    def beat(self) -> None:
        """Announce to other workers how many there are: some were closed meanwhile."""
        self._announce(self._mine())

    def _announce(self, mine: int) -> None:
        if self._connections is not None:
            self._connections.set(mine)

    def _mine(self) -> int:
        return self._count() + len(self._begun)

    def _look(self) -> None:
        until_s = perf_counter() + _AT_ONCE_S
        taken = True
        while taken and perf_counter() < until_s:
            mine = self._mine()
            self._announce(mine)
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
        self._loop.add_reader(self._listener.fileno(), self._look)
        self._take()

    def _take(self) -> bool:
        """Take one connection, and return whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # somebody else has taken it, or it is gone
        except OSError as error:
            _logger.error("no connection can be taken: %s", error)
            self._pause(_AFTER_ERROR_S)
            return False
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._set_up(connection))
        self._begun.add(task)
        task.add_done_callback(partial(self._is_set_up, connection))
        self._announce(self._mine())
        return True

    def _is_set_up(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        if task.cancelled():  # the loop ends
            connection.close()

    async def _set_up(self, connection: socket.socket) -> None:
        try:
            _, made = await self._loop.connect_accepted_socket(self._protocol, connection, ssl=self._context)
        except (OSError, ssl.SSLError) as error:  # it hung up, or does not speak TLS
            _logger.debug("a connection was not set up: %s", error)
            connection.close()
            return
        if self._closed:
            made.shutdown()  # the server ends, and has done so with all that it knew of
