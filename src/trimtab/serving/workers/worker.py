"""One worker as its supervisor sees it: the process, its line, its last words."""

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

from trimtab.serving.workers.channel import said

_LAST_LINES = 12
_LONGEST_LINE = 16_384  # characters; what goes on is another line
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Worker:
    """A process of its own; never forked, for whoever forks among threads inherits their locks.

    Args:
        slot: Its number, from 1; the one that takes its place has the same.
        command: What is run, the descriptors of the line and the listening socket behind it.
        task: What it is told to do.
        listener: The socket that all workers take connections from.
    """

    def __init__(self, slot: int, command: Sequence[str], task: bytes, listener: socket.socket) -> None:
        self.slot = slot
        self.ready = self.changed = False
        self.begun_s = self.received_s = time.monotonic()
        self.line, theirs = socket.socketpair()
        inherited = theirs.fileno(), listener.fileno()
        try:
            self.process = subprocess.Popen(
                [*command, *map(str, inherited)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                env=environment(os.environ),
                process_group=0,  # Ctrl-C is for the supervisor, which lets its workers finish
            )
        except BaseException:
            self.line.close()
            raise
        finally:
            theirs.close()
        assert self.process.stdout is not None
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        with contextlib.suppress(OSError):  # it is dead already: the supervisor will see
            self.line.sendall(said(task))
        self.line.setblocking(False)
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._part = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self) -> bytes:
        """What it said on its line since."""
        try:
            words = self.line.recv(4096)
        except (BlockingIOError, ConnectionResetError):
            return b""
        if words:
            self.received_s = time.monotonic()
        return words

    def pass_on_output(self) -> bool:
        """Show what it has printed, each line with its number; False at the end."""
        try:
            read = os.read(self.output.fileno(), 65_536)
        except BlockingIOError:
            return True
        *lines, self._part = (self._part + read.decode("utf-8", "replace")).split("\n")
        if self._part and (not read or len(self._part) > _LONGEST_LINE):
            lines, self._part = [*lines, self._part], ""
        for line in lines:
            self._lines.append(line)
            with contextlib.suppress(OSError):  # nobody reads it any more: no reason to stop watching
                print(f"worker {self.slot}: {line}", file=sys.stderr, flush=True)
        return bool(read)

    def last_words(self) -> str:
        """The last lines that it printed; empty when it said nothing."""
        return "\n".join(self._lines)

    def ask_to_end(self) -> None:
        """Let it finish the requests under way."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def close(self) -> None:
        """Let go of what belonged to a process that has ended."""
        while self._has_more() and self.pass_on_output():
            pass
        self.output.close()
        self.line.close()

    def how_it_ended(self) -> str:
        """A word for its exit status."""
        status = self.process.returncode
        if status is not None and status < 0:
            name = f"signal {-status}"  # a real-time one has no name
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
            return f"was ended by {name}"
        return f"ended with status {status}"

    def _send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)  # nothing happens when it has been waited for

    def _has_more(self) -> bool:
        """Whether there is something to read, or the end; a child of its own may hold the other end open."""
        return bool(select.select([self.output], [], [], 0)[0])


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Variables for a worker: numerical libraries use one thread, unless the caller says otherwise.

    A row is never worth more than one, and so many threads a worker would only wait for each other. # D92
    """
    return {**dict.fromkeys(_THREADS, "1"), **given}
