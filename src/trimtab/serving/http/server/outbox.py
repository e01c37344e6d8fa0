"""Batched writes: responses of one turn of the event loop are sent together. # D108"""

from __future__ import annotations

import asyncio


class Outbox:
    """Responses that the connections of one event loop have to send.

    Each write between two pieces of work wakes a waiting client process, which costs more than the write itself. In
    one batch, only the first write wakes it.
    """

    def __init__(self) -> None:
        self._out: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send `data` at the end of this turn of the loop, after earlier responses."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self.send)
        self._out.append((transport, data))

    def send(self) -> None:
        """Send everything now, before another write."""
        out, self._out = self._out, []
        for transport, data in out:
            if not transport.is_closing():  # otherwise the client hung up
                transport.write(data)
