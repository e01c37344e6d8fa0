"""The fork server of `forked.py`: a process that has loaded the libraries, and forks on request."""

from __future__ import annotations

import atexit
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path
from typing import Any

import forked

LOADED = (  # the imports of a project that serves or trains; none of them starts a thread
    "duckdb",
    "sklearn.linear_model",
    "skops.io",
    "trimtab.app.features.feature_runs",
    "trimtab.app.inspect.status",
    "trimtab.app.project",
    "trimtab.app.serve.engine",
    "trimtab.app.serve.service",
    "trimtab.app.training.learning",
    "trimtab.app.training.training_child",
    "trimtab.cli.group",
    "trimtab.serving.http.server.fast_path",
    "trimtab.store.lmdb.kv",
    "trimtab.store.sql_catalog",
    "trimtab.store.sqlite.log",
    "trimtab.training.judge.evaluation",
    "trimtab.training.runtimes.sklearn",
    "uvicorn",
    "uvloop",
)


PATH = [folder for folder in sys.path[1:] if folder not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]

HEEDED = forked.at_begin(os.environ)
ENDING = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def wait_for_request(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork at each request; return in the children only, with the request and the files that came with it.

    The child's parent ends at once, so that the process that sent the request, an ancestor, becomes its parent and can
    wait for it. This process ends when the other end of the socket is closed.
    """
    while True:
        text, files, _, _ = socket.recv_fds(requests, 1 << 20, 16)
        if not text:
            os._exit(0)
        between = os.fork()
        if between == 0:
            between, child = os.getpid(), os.fork()
            if child == 0:
                requests.close()
                while os.getppid() == between:
                    time.sleep(0.000_2)
                return json.loads(text), files
            requests.send(str(child).encode())
            os._exit(0)
        os.waitpid(between, 0)
        requests.send(b"its parent has ended")
        for file in files:
            os.close(file)


def serve_until_asked(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for a request, and return in its child. The child has a fork server of its own, forked from the child."""
    while True:
        asked, files = wait_for_request(requests)
        ours, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            requests.close()
            forked.SERVERS[:] = [forked.Server(ours, os.getpgrp(), HEEDED)]
            subprocess.Popen = forked.Popen  # type: ignore[misc]  # its children are forked, too
            return asked, files
        ours.close()
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # the server ends with the process that it was forked from
        for file in files:
            os.close(file)
        with open(os.devnull, "r+b", buffering=0) as nothing:
            for number in range(3):
                os.dup2(nothing.fileno(), number)


def become(asked: dict[str, Any], files: list[int]) -> None:
    """Turn this process into what a new interpreter would be, and run its program.

    Args:
        asked: The interpreter's options, arguments, folder and environment, the signals that it ignores, whether it has
            a session or a group of its own, and the numbers of `files`.
        files: Standard input, output and error, and further files that are passed on.
    """
    for number, handler in ENDING.items():
        signal.signal(number, handler)
    for number in asked["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    if asked["session"]:
        os.setsid()
    if asked["group"]:
        os.setpgid(0, 0)
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 500) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(high, asked["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    sys.path[:] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *PATH]
    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    if "error" in asked["options"]:
        warnings.simplefilter("error")
    if "faulthandler" in asked["options"]:
        faulthandler.enable()
    beside = "-P" not in asked["options"]
    kind, *arguments = asked["arguments"]
    if kind == "-m":
        sys.path[:0] = [asked["folder"]] * beside
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if kind == "-c":
        code, name, place = arguments.pop(0), "<string>", ""
    else:
        code, name, place = Path(kind).read_text(), kind, str(Path(kind).parent)
        main.__file__ = kind
    sys.path[:0] = [place] * beside
    sys.argv = [kind, *arguments]
    exec(compile(code, name, "exec"), vars(main))


def end(status: object) -> None:
    """End as an interpreter does with this argument of `sys.exit`, except that the libraries' modules are not cleared.

    To clear them takes longer than most programs of tests. Threads are waited for, exit functions run, and what the
    program's own globals and cycles hold is destroyed.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if (names := vars(sys.modules["__main__"])) is not globals():
        names.clear()
    gc.collect()
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    for module in LOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    status: object = None
    try:
        become(*serve_until_asked(socket.socket(fileno=int(sys.argv[1]))))
    except SystemExit as leaving:
        status = leaving.code
    end(status)
