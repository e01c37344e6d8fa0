"""A worker process as its supervisor sees it, with its channel and its output."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence

from trimtab.serving.workers.channel import framed_task

_LAST_LINES = 12
_LONGEST_LINE = 16_384  # longer lines of output are split after this many characters
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Worker:
    """A process that the supervisor starts.

    It is a new process and not a fork, because a fork would inherit locks that other threads hold.

    Args:
        slot: The number of the worker, from 1. Its replacement gets the same number.
        command: The command to run. The file descriptors of the channel and of the listening socket are added to it.
        listener: The socket from which all workers accept connections.
    """

    def __init__(self, slot: int, command: Sequence[str], task: bytes, listener: socket.socket) -> None:
        self.slot = slot
        self.ready = self.changed = False
        self.begun_s = self.received_s = time.monotonic()
        self.channel, theirs = socket.socketpair()
        inherited = theirs.fileno(), listener.fileno()
        try:
            self.process = subprocess.Popen(
                [*command, *map(str, inherited)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                env=environment(os.environ),
                process_group=0,  # Ctrl-C must reach only the supervisor, which ends its workers properly
            )
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()
        assert self.process.stdout is not None
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        with contextlib.suppress(OSError):  # the worker has ended, which the supervisor will notice
            self.channel.sendall(framed_task(task))
        self.channel.setblocking(False)
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._part = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def receive(self) -> bytes:
        """Receive messages from the worker. The result is empty if there are none, or the channel is closed."""
        try:
            messages = self.channel.recv(4096)
        except (BlockingIOError, ConnectionResetError):
            return b""
        if messages:
            self.received_s = time.monotonic()
        return messages

    def forward_output(self) -> bool:
        """Print the output of the worker, with its number before each line. Return False when the output has ended."""
        try:
            read = os.read(self.output.fileno(), 65_536)
        except BlockingIOError:
            return True
        *lines, self._part = (self._part + read.decode("utf-8", "replace")).split("\n")
        if self._part and (not read or len(self._part) > _LONGEST_LINE):
            lines, self._part = [*lines, self._part], ""
        for line in lines:
            self._lines.append(line)
            with contextlib.suppress(OSError):  # standard error is closed, but supervision must continue
                print(f"worker {self.slot}: {line}", file=sys.stderr, flush=True)
        return bool(read)

    def last_output(self) -> str:
        """Return the last lines that the worker printed."""
        return "\n".join(self._lines)

    def terminate(self) -> None:
        """Tell the worker to finish its requests and end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def close(self) -> None:
        """Release the resources of a process that has ended."""
        while self._has_more() and self.forward_output():
            pass
        self.output.close()
        self.channel.close()

    def ending(self) -> str:
        """Return how the worker has ended, as text for messages."""
        status = self.process.returncode
        if status is not None and status < 0:
            name = f"signal {-status}"  # real-time signals have no names
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
            return f"was ended by {name}"
        return f"ended with status {status}"

    def _send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)  # does nothing after the process was waited for

    def _has_more(self) -> bool:
        """Return whether there is output, or its end, to read. (A child of the worker may keep the output open.)"""
        return bool(select.select([self.output], [], [], 0)[0])


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for a worker.

    Unless the user has set another number, they limit numerical libraries to one thread. One row needs no more, and
    threads of several workers would compete for the processor.  # D92
    """
    return {**dict.fromkeys(_THREADS, "1"), **given}
