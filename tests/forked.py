"""Python processes that start quickly, because they are forked from a process that has loaded the libraries.

Use them for tests of what a process does. Tests of how a process starts need a real one: memory use, loaded modules and
the number of threads are those of the fork server here. A command that a fork cannot run (another program, options of
the interpreter) is started by `subprocess`.
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
BEFORE = [["-X", "faulthandler"], ["-P"], ["-W", "error"]]  # options of the interpreter that a fork can follow
LATE = {"PYTHONPATH", "PYTHONWARNINGS", "PYTHONUNBUFFERED"}  # variables of the interpreter that a fork can follow


class Server:
    """A fork server: a process that forks on request.

    Args:
        requests: The socket for requests. The server ends when it is closed.
        group: The process group of the server and its children.
        begun_with: The environment variables of the interpreter that the server was started with.
    """

    def __init__(self, requests: socket.socket, group: int, begun_with: dict[str, str]) -> None:
        self.group, self.begun_with = group, begun_with
        self._requests, self._lock = requests, threading.Lock()

    def fork(self, asked: dict[str, Any], files: Sequence[int]) -> int:
        """Fork a child of this process, and return its id; for `asked` and `files` see `fork_server.become`."""
        libc = ctypes.CDLL(None)
        with self._lock:
            libc.prctl(SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._requests, [json.dumps(asked).encode()], files)
                child = int(self._requests.recv(100))
                self._requests.recv(100)  # the parent of the child has ended, so this process has become its parent
            finally:
                libc.prctl(SUBREAPER, 0, 0, 0, 0)
        return child


def at_begin(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a new interpreter would follow and a fork cannot."""
    return {k: v for k, v in environment.items() if k.startswith(("PYTHON", "LD_", "LC_", "LANG")) and k not in LATE}


SERVERS: list[Server] = []  # empty, or the server of this process


def server() -> Server:
    """Return the fork server of this process, which is started at the first call."""
    if not SERVERS:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())]
            alone = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            }  # it forks, so without threads
            started = subprocess.Popen(command, env=alone, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(lambda: (ours.close(), started.wait()))
        SERVERS.append(Server(ours, os.getpgrp(), at_begin(alone)))
    return SERVERS[0]


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, which forks for `[sys.executable, "-c" or "-m" or a file, ...]`."""

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
        known = known and (bool(session) or server().group == os.getpgrp())  # a fork is in the group of the server
        if not known or server().begun_with != at_begin(environment):
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        asked = {
            "options": options,
            "arguments": words,
            "folder": str(Path(os.fsdecode(cwd or "")).absolute()),
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
    """`subprocess.run` with this `Popen`."""
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


# Replaces `subprocess` in a module that calls `subprocess.Popen`.
LIKE_SUBPROCESS = types.SimpleNamespace(**{**vars(subprocess), "Popen": Popen, "run": run})
