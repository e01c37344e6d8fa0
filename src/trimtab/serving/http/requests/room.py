"""A limit on the memory of request bodies over all connections of a process.  # D0167"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from trimtab.serving.problems import Refused

_SMALL_BYTES = 65_536  # the first bytes of each body are not counted, so that small requests always have room
_COPIES = 3  # bytes of memory per byte of content: the text itself, and the records made from it
_BINARY = 4  # the same for numbers in columns
_LEAST_BYTES = 24 << 20  # a decoded body may take this many bytes plus eight times its size
_TRIMMED_BYTES = 16 << 20  # if more was used, free memory is returned to the system as soon as no body is held
_OBJECT, _LIST, _VALUE = 64, 64, 45  # bytes of memory for each brace, bracket and comma of the JSON
_FULL = "Other requests use all the memory for bodies (serve.max_bodies_bytes). Send the request again later."


def decoded_bytes(part: bytes, *, binary: bool = False) -> int:
    """Estimate the memory that a part of a body takes when decoded. JSON is estimated from its size and punctuation.

    >>> decoded_bytes(b'[{"x": 1}, {"x": 2}]')
    297
    """
    if binary:
        return _BINARY * len(part)
    return _COPIES * len(part) + _OBJECT * part.count(b"{") + _LIST * part.count(b"[") + _VALUE * part.count(b",")


def check_decoded(decoded: int, size: int) -> None:
    """Raise an error (413) if a body of `size` bytes would take far more memory when decoded."""
    most = _LEAST_BYTES + 8 * size
    if decoded > most:
        raise Refused(413, f"body: decoded it would take about {decoded} bytes; the limit is {most}. Send it in parts.")


def no_room() -> Refused:
    """Return the error for a body for which there is no memory now (429)."""
    return Refused(429, _FULL)


class Room:
    """The memory for all request bodies of a process.

    Args:
        limit_bytes: The limit for all bodies together. A body that would exceed it may still be decoded if no other
            body is held in decoded form.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._most = 0  # the largest number of bytes in use since memory was last returned to the system
        self._trim: Callable[[], object] = _trim()
        self._decoded = 0  # the number of requests in flight whose bodies are decoded
        self._waiting: deque[tuple[Share, int, asyncio.Future[None]]] = deque()

    def share(self) -> Share:
        """Return an object for the memory of one request. It must be closed at the end of the request."""
        return Share(self)

    def fits(self, size: int) -> bool:
        """Return whether this many more bytes fit."""
        return self.used_bytes + size <= self.limit_bytes

    def take(self, size: int) -> None:
        """Count this many more bytes as used."""
        self.used_bytes += size
        self._most = max(self._most, self.used_bytes)

    def give_back(self, size: int, *, decoded: bool) -> None:
        """Free the bytes that a request used, so that waiting requests continue in their order."""
        self.used_bytes -= size
        self._decoded -= decoded
        if not self.used_bytes and self._most > _TRIMMED_BYTES:
            self._most = 0
            threading.Thread(target=self._trim, name="trimtab-trim").start()  # in a thread, because it may take 0.1 s
        while self._waiting and self._may_decode(self._waiting[0][1]):
            share, size, turn = self._waiting.popleft()
            if not turn.done():
                self._decode(share, size)
                turn.set_result(None)

    async def decode(self, share: Share, size: int, timeout_s: float) -> None:
        """Wait until there is memory for a decoded body; see `Share.decode`."""
        if not self._waiting and self._may_decode(size):
            self._decode(share, size)
            return
        entry = share, size, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await entry[2]
        except TimeoutError:
            raise no_room() from None
        finally:
            with suppress(ValueError):  # the request has left the queue if it was its turn
                self._waiting.remove(entry)

    def _may_decode(self, size: int) -> bool:
        return not self._decoded or self.fits(size)

    def _decode(self, share: Share, size: int) -> None:
        self.take(size)
        self._decoded += 1
        share.decoded(size)


class Share:
    """The memory of one request's body."""

    __slots__ = ("_decoded", "_received", "_room", "_taken")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._received = 0  # bytes of the body that have arrived
        self._taken = 0  # bytes counted as used in the room
        self._decoded = False

    def add(self, size: int) -> bool:
        """Count bytes of a body that have arrived, before they are stored. Return False if they do not fit."""
        self._received += size
        more = min(size, self._received - _SMALL_BYTES)
        if more <= 0:
            return True
        if not self._room.fits(more):
            return False
        self._room.take(more)
        self._taken += more
        return True

    async def decode(self, size: int, timeout_s: float) -> None:
        """Wait until there is memory for the decoded body.

        Args:
            size: The estimated size of the decoded body in bytes.
            timeout_s: The maximum time to wait.

        Raises:
            Refused: There was no memory within this time (429).
        """
        if size > _SMALL_BYTES:
            await self._room.decode(self, size, timeout_s)

    def decoded(self, size: int) -> None:
        """Count the bytes of the decoded body."""
        self._taken += size
        self._decoded = True

    def close(self) -> None:
        """Free all memory of the request. A second call does nothing."""
        taken, decoded = self._taken, self._decoded
        self._taken, self._decoded = 0, False
        if taken or decoded:
            self._room.give_back(taken, decoded=decoded)


def _trim() -> Callable[[], object]:
    """Return a function that returns free memory to the operating system.

    This is only necessary with glibc. On other systems, the function does nothing.
    """
    import ctypes

    with suppress(AttributeError, OSError, TypeError):
        trim = ctypes.CDLL(None).malloc_trim
        return lambda: trim(0)
    return lambda: None
