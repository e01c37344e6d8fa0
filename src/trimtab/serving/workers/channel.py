"""The channel between a worker and its supervisor. A task is sent first, then each message is one byte.

Each end notices when the process at the other end ends, however that happens, so neither outlives the other.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from trimtab.core.errors import Unavailable

READY = b"r"  # the worker takes connections
BEAT = b"b"  # the worker's event loop runs; sent about once a second
WAKE = b"n"  # the worker has appended events that a client waits for
CHANGED = b"c"  # the worker's definitions differ from those with which the service began
_SIZE = struct.Struct("<I")


class WorkerChannel:
    """The worker's end of the channel.

    Args:
        fd: The inherited descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def task(self) -> bytes:
        """Receive the worker's task, which is the first message."""
        (size,) = _SIZE.unpack(self._exactly(_SIZE.size))
        return self._exactly(size)

    def send(self, message: bytes) -> None:
        """Send one of the messages above. Has no effect when the supervisor is gone or does not read."""
        with contextlib.suppress(OSError):  # `on_close` notices that the supervisor is gone
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
    """Return a task in the form in which it is sent, with its size first."""
    return _SIZE.pack(len(task)) + task
