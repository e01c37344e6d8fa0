"""Answers on their way out: those of one turn of the loop leave together. # D112"""

from __future__ import annotations

import asyncio


class Outbox:
    """What the connections of one loop have to send.

    Sending wakes whoever waits for it. Done answer by answer, between two pieces of work, each wakes somebody anew, and
    that takes the system longer than the rest of the sending; done in one go, the first wakes him and the others find
    him awake.
    """

    def __init__(self) -> None:
        self._out: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send `data` at the end of this turn of the loop, behind what was put before."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self.send)
        self._out.append((transport, data))

    def send(self) -> None:
        """Send all of it now: before anything is written past it."""
        out, self._out = self._out, []
        for transport, data in out:
            if not transport.is_closing():  # who hung up meanwhile wants nothing any more
                transport.write(data)
