"""A worker process as its supervisor sees it: its channel and its output."""

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
_LONGEST_LINE = 16_384  # characters; longer lines are split
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Worker:
    """A process started afresh, not forked: a fork inherits locks that other threads hold.

    Args:
        slot: Its number, from 1; its replacement has the same.
        command: The command; the descriptors of the channel and the listening socket are added.
        task: The task it is sent.
        listener: The socket that all workers take connections from.
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
                process_group=0,  # Ctrl-C is for the supervisor, which stops its workers in order
            )
        except BaseException:
            self.channel.close()
            raise
        finally:
            theirs.close()
        assert self.process.stdout is not None
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        with contextlib.suppress(OSError):  # it has ended already: the supervisor notices
            self.channel.sendall(framed_task(task))
        self.channel.setblocking(False)
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._part = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def receive(self) -> bytes:
        """Receive its messages; empty when it has closed its end."""
        try:
            messages = self.channel.recv(4096)
        except (BlockingIOError, ConnectionResetError):
            return b""
        if messages:
            self.received_s = time.monotonic()
        return messages

    def forward_output(self) -> bool:
        """Print its output, each line with its number; False at the end."""
        try:
            read = os.read(self.output.fileno(), 65_536)
        except BlockingIOError:
            return True
        *lines, self._part = (self._part + read.decode("utf-8", "replace")).split("\n")
        if self._part and (not read or len(self._part) > _LONGEST_LINE):
            lines, self._part = [*lines, self._part], ""
        for line in lines:
            self._lines.append(line)
            with contextlib.suppress(OSError):  # standard error is closed: go on supervising
                print(f"worker {self.slot}: {line}", file=sys.stderr, flush=True)
        return bool(read)

    def last_output(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self._lines)

    def terminate(self) -> None:
        """Let it finish the requests in flight."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def close(self) -> None:
        """Release the files of a process that has ended."""
        while self._has_more() and self.forward_output():
            pass
        self.output.close()
        self.channel.close()

    def ending(self) -> str:
        """How it ended, for messages."""
        status = self.process.returncode
        if status is not None and status < 0:
            name = f"signal {-status}"  # a real-time one has no name
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
            return f"was ended by {name}"
        return f"ended with status {status}"

    def _send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)  # without effect once it was waited for

    def _has_more(self) -> bool:
        """Whether its output can be read, or has ended; a child of the worker may hold it open."""
        return bool(select.select([self.output], [], [], 0)[0])


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Variables for a worker: numerical libraries use one thread, unless the caller has set a number.

    One row needs no more, and the threads of several workers would wait for each other. # D92
    """
    return {**dict.fromkeys(_THREADS, "1"), **given}
