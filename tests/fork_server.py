"""A process that has the libraries loaded and forks whatever `forked.py` asks it for: to load them takes seconds."""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import socket
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

LOADED = (  # what a project that serves or trains loads, and no engine that starts threads
    "sklearn.linear_model",
    "skops.io",
    "trimtab.app.engine",
    "trimtab.app.learning",
    "trimtab.app.loop",
    "trimtab.app.project",
    "trimtab.app.service",
    "trimtab.app.status",
    "trimtab.app.wiring",
    "trimtab.cli.group",
    "trimtab.serving.http",
    "trimtab.store.lmdb_kv",
    "trimtab.store.sql_catalog",
    "trimtab.store.sqlite_log",
    "trimtab.training.runtimes.sklearn",
    "uvicorn",
)


def wait_for_request(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork at each request; returns in the children only, with what was asked for and its stdin, stdout and stderr.

    The child's parent ends at once, so that whoever asked for it becomes its parent and can wait for it.
    """
    while True:
        text, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
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


def become(asked: dict[str, Any], files: list[int]) -> None:
    """Be what a new interpreter with these arguments, environment and files would be."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    kind, *arguments = asked["arguments"]
    if kind == "-m":
        sys.path.insert(0, asked["folder"])
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if kind == "-c":
        code, name = arguments.pop(0), "<string>"
        sys.path.insert(0, "")
    else:
        code, name = Path(kind).read_text(), kind
        sys.path.insert(0, str(Path(kind).parent))
        main.__file__ = kind
    sys.argv = [kind, *arguments]
    exec(compile(code, name, "exec"), vars(main))


if __name__ == "__main__":
    del sys.path[0]
    for module in LOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    become(*wait_for_request(socket.socket(fileno=int(sys.argv[1]))))
