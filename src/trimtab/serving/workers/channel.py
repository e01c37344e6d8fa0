"""The channel between supervisor and worker: the supervisor sends a task, then the worker sends one-byte messages.

Each side notices when the other process ends: a worker then ends, too, and the supervisor replaces its worker.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from trimtab.core.errors import Unavailable

READY = b"r"  # the worker accepts connections
BEAT = b"b"  # the worker's event loop is running; sent about once a second
WAKE = b"n"  # the worker has appended events, and a client waits until they are applied
CHANGED = b"c"  # the worker's definitions differ from those at the start of the service
_SIZE = struct.Struct("<I")


class WorkerChannel:
    """The worker's end of the channel.

    Args:
        fd: The file descriptor that the worker has inherited.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(True)

    def task(self) -> bytes:
        """Receive the task of the worker, which is sent first."""
        (size,) = _SIZE.unpack(self._exactly(_SIZE.size))
        return self._exactly(size)

    def send(self, message: bytes) -> None:
        """Send one of the messages above. If the supervisor is gone or does not read, nothing happens."""
        with contextlib.suppress(OSError):  # `on_close` notices that the supervisor is gone
            self._socket.send(message, socket.MSG_DONTWAIT)

    def on_close(self, gone: Callable[[], object]) -> None:
        """Call `gone` in a thread when the supervisor has closed its side."""

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
    """Return a task as it is sent: after its size."""
    return _SIZE.pack(len(task)) + task
