"""Python processes that begin at once: forked from one that has the libraries loaded, otherwise like any other.

For tests of what a process does, not of how it begins: how much memory it takes, which modules it loads and how many
threads its libraries have say nothing here. A command of another kind, or one that needs what only a new interpreter
has, is started as by `subprocess`.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: a child whose parent ends becomes a child of this process
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BEFORE = [["-X", "faulthandler"], ["-P"]]  # options of the interpreter that a fork can heed
LATE = {"PYTHONPATH", "PYTHONWARNINGS", "PYTHONUNBUFFERED"}  # variables of the interpreter that a fork can heed


class Server:
    """A process that forks.

    Args:
        requests: Speaks to it; when this is closed, it ends.
        group: The group that it and its children are in.
        begun_with: What it heeded of the environment that it was started with.
    """

    def __init__(self, requests: socket.socket, group: int, begun_with: dict[str, str]) -> None:
        self.group, self.begun_with = group, begun_with
        self._requests, self._lock = requests, threading.Lock()

    def fork(self, asked: dict[str, Any], files: Sequence[int]) -> int:
        """The number of a child of this process; `asked` and `files` are those of `fork_server.become`."""
        libc = ctypes.CDLL(None)
        with self._lock:
            libc.prctl(SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._requests, [json.dumps(asked).encode()], files)
                child = int(self._requests.recv(100))
                self._requests.recv(100)  # its parent has ended, so that it is ours
            finally:
                libc.prctl(SUBREAPER, 0, 0, 0, 0)
        return child


def at_begin(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment what a new interpreter would heed, and a fork cannot."""
    return {k: v for k, v in environment.items() if k.startswith(("PYTHON", "LD_", "LC_", "LANG")) and k not in LATE}


SERVERS: list[Server] = []  # none, or that of this process


def server() -> Server:
    """The server of this process."""
    if not SERVERS:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())]
            alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # who forks has no threads
            started = subprocess.Popen(command, env=alone, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(lambda: (ours.close(), started.wait()))
        SERVERS.append(Server(ours, os.getpgrp(), at_begin(alone)))
    return SERVERS[0]


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, quicker for `[sys.executable, "-c" or "-m" or a file, ...]`."""

    def _execute_child(self, args: Any, *more: Any) -> None:
        _, preexec, _, pass_fds, cwd, given, _, _, shell, *pipes = more[:15]
        session, group = more[20:]
        environment = dict(os.environ if given is None else given)
        words = [] if isinstance(args, str | bytes | Path) else [os.fsdecode(word) for word in args]
        known, options = words[:1] == [sys.executable], []
        words = words[1:]
        for option in BEFORE:
            if words[: len(option)] == option:
                options.append(option[-1])
                words = words[len(option) :]
        known = known and bool(words) and (words[0] in ("-c", "-m") or not words[0].startswith("-"))
        plain = not (preexec or shell) and {*more[16:20]} <= {None, -1} and group in (-1, 0)
        known = known and plain and sys.platform == "linux"
        if not known or server().group != os.getpgrp() or server().begun_with != at_begin(environment):
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        asked = {
            "options": options,
            "arguments": words,
            "folder": os.fsdecode(cwd or Path.cwd()),
            "environment": environment,
            "session": session,
            "group": group == 0,
            "ignored": [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN],
            "files": [0, 1, 2, *pass_fds],
        }
        files = [pipe if pipe != -1 else own for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.pid = server().fork(asked, [*files, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    command: Sequence[Any],
    *,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` by this `Popen`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if (given := options.pop("input", None)) is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(command, **options) as process:
        try:
            out, err = process.communicate(given, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


# For a module that says `subprocess.Popen`.
LIKE_SUBPROCESS = types.SimpleNamespace(**{**vars(subprocess), "Popen": Popen, "run": run})
