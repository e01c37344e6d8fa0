"""Python processes that begin at once: forked from one that has the libraries loaded, otherwise like any other.

For tests of what a process does, not of how it begins: how much memory it takes and which modules it loads say nothing
here. A command of another kind, or one that needs what only a new interpreter has, is started as by `subprocess`.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: a child whose parent ends becomes a child of this process
AT_BEGIN = ("PYTHON", "OMP_", "OPENBLAS_", "MKL_", "LD_")  # variables that are read when Python or a library is loaded


class Server:
    """The process that forks; it ends with this one."""

    def __init__(self) -> None:
        self.begun_with = at_begin(os.environ)
        self.requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())]
            alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # who forks has no threads
            self._process = subprocess.Popen(command, env=alone, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def fork(self, arguments: list[str], folder: str, environment: dict[str, str], files: list[int]) -> int:
        """The number of a child of this process, with these arguments of `python`, and stdin, stdout and stderr."""
        asked = {"arguments": arguments, "folder": folder, "environment": environment}
        libc = ctypes.CDLL(None)
        libc.prctl(SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self.requests, [json.dumps(asked).encode()], files)
            child = int(self.requests.recv(100))
            self.requests.recv(100)  # its parent has ended, so that it is ours
        finally:
            libc.prctl(SUBREAPER, 0, 0, 0, 0)
        return child


def at_begin(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment what a new interpreter would heed, and a fork cannot."""
    quiet = ("PYTHONWARNINGS", "ignore")
    return {name: value for name, value in environment.items() if name.startswith(AT_BEGIN) and (name, value) != quiet}


@functools.cache
def server() -> Server:
    return Server()


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`, quicker for `[sys.executable, "-c" or "-m" or a file, ...]`."""

    def _execute_child(self, args: Sequence[Any], *more: Any) -> None:
        _, preexec, _, pass_fds, cwd, given, _, _, shell, *pipes = more[:15]
        words = [str(word) for word in args]
        environment = dict(os.environ if given is None else given)
        plain = not (preexec or pass_fds or shell) and {*more[16:]} <= {None, False, -1}
        known = words[0] == sys.executable and (words[1] in ("-c", "-m") or not words[1].startswith("-"))
        if sys.platform != "linux" or not (plain and known) or server().begun_with != at_begin(environment):
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        files = [pipe if pipe != -1 else own for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.pid = server().fork(words[1:], str(cwd or Path.cwd()), environment, files)
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
