"""The channel between a worker and its supervisor: a task first, then one byte a message.

Each end notices when the process at the other one ends, however that happens, so neither outlives the other.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from trimtab.core.errors import Unavailable

READY = b"r"  # it takes connections
BEAT = b"b"  # its event loop runs; about once a second
WAKE = b"n"  # it has appended events that a client waits for
CHANGED = b"c"  # its definitions are not those that the service began with
_SIZE = struct.Struct("<I")


class WorkerChannel:
    """A worker's end.

    Args:
        fd: The inherited descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def task(self) -> bytes:
        """Receive the worker's task, the first message."""
        (size,) = _SIZE.unpack(self._exactly(_SIZE.size))
        return self._exactly(size)

    def send(self, message: bytes) -> None:
        """Send one of the messages above; without effect when the supervisor is gone or does not read."""
        with contextlib.suppress(OSError):  # `on_close` notices the end
            self._socket.send(message, socket.MSG_DONTWAIT)

    def on_close(self, gone: Callable[[], object]) -> None:
        """Call `gone`, in a thread, once the other end is closed."""

        def wait() -> None:
            with contextlib.suppress(OSError):
                while self._socket.recv(64):
                    pass
            gone()

        threading.Thread(target=wait, name="trimtab-channel", daemon=True).start()

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            part = self._socket.recv(size)
            if not part:
                raise Unavailable("worker: its supervisor ended before it sent a task. Start the service again.")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def framed_task(task: bytes) -> bytes:
    """A task as it is sent: its size first."""
    return _SIZE.pack(len(task)) + task
