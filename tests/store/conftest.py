"""Fixtures that run writers of a store, kill them in the middle of their work, and return what they acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import forked

WRITERS = Path(__file__).parent / "writers.py"

Killed = Callable[[str, Path, int], list[str]]
Run = Callable[[str, str, Path], list[str]]
Start = Callable[[str, str, Path], subprocess.Popen[str]]


@pytest.fixture
def killed(request: pytest.FixtureRequest) -> Killed:
    """Run a writer that begins with a number, kill it at a random time, and return the lines that it acknowledged."""
    rng = random.Random(request.node.name)

    def run(store: str, path: Path, first: int) -> list[str]:
        command = [sys.executable, "-W", "error", str(WRITERS), store, "until-killed", str(path), str(first)]
        with forked.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                lines = [process.stdout.readline()]  # the store is open and has one write
                time.sleep(rng.random() * 0.1)
                os.kill(process.pid, signal.SIGKILL)
                lines += process.stdout.readlines()
            finally:
                process.kill()
        assert process.returncode == -signal.SIGKILL, "the writer ended by itself"
        return [line.decode().strip() for line in lines if line.endswith(b"\n")]

    return run


@pytest.fixture
def run_writer() -> Run:
    """Run a writer to its end, and return the lines that it printed."""

    def run(store: str, how: str, path: Path) -> list[str]:
        command = [sys.executable, "-W", "error", str(WRITERS), store, how, str(path), "1"]
        done = forked.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture
def start_writer() -> Iterator[Start]:
    """Start a writer, which is killed at the end of the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(store: str, how: str, path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", str(WRITERS), store, how, str(path), "1"]
        process = forked.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def in_child() -> Callable[[Callable[[], object]], None]:
    """Call a function in a forked child. The test fails if the function raises."""

    def run(what: Callable[[], object]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks while threads run
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                what()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    return run
