"""Send the responses of one iteration of the event loop together.  # D108"""

from __future__ import annotations

import asyncio


class Outbox:
    """Responses that wait to be sent on the connections of one event loop.

    Each separate write wakes a waiting client process, which costs more than the write itself. If responses are written
    together, only the first write wakes the process.
    """

    def __init__(self) -> None:
        self._out: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send data at the end of this iteration of the loop, after earlier responses."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self.send)
        self._out.append((transport, data))

    def send(self) -> None:
        """Send all waiting responses now. Call this before something else is written."""
        out, self._out = self._out, []
        for transport, data in out:
            if not transport.is_closing():  # skip connections that the client has closed
                transport.write(data)
