"""The line between a worker and the process that watches it: a task first, then a byte a message.

Its end is the end of whoever held the other end, however that came: so neither outlives the other unnoticed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from trimtab.core.errors import Unavailable

READY = b"r"  # it takes connections
BEAT = b"b"  # its event loop turns; about once a second
WAKE = b"n"  # it has appended events that somebody waits for
CHANGED = b"c"  # what it answers by is not what the service began with
_SIZE = struct.Struct("<I")


class Line:
    """A worker's end.

    Args:
        fd: The inherited descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def task(self) -> bytes:
        """What the worker is to do: the first thing that is said."""
        (size,) = _SIZE.unpack(self._exactly(_SIZE.size))
        return self._exactly(size)

    def say(self, word: bytes) -> None:
        """Say one of these words; nothing happens when nobody listens any more."""
        with contextlib.suppress(OSError):  # the end is noticed by `watch`; a full line is one nobody reads just now
            self._socket.send(word, socket.MSG_DONTWAIT)

    def watch(self, gone: Callable[[], object]) -> None:
        """Call `gone`, in a thread, once the other end is gone."""

        def wait() -> None:
            with contextlib.suppress(OSError):
                while self._socket.recv(64):
                    pass
            gone()

        threading.Thread(target=wait, name="trimtab-line", daemon=True).start()

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            part = self._socket.recv(size)
            if not part:
                raise Unavailable("the process that watches this worker ended before it said what to do.")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def said(task: bytes) -> bytes:
    """A task as it goes over the line."""
    return _SIZE.pack(len(task)) + task
