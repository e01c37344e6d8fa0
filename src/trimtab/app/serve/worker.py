"""A worker process of `trimtab serve`, which only answers requests."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from trimtab.app.features.project_spec import ProjectSpec
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.serve.grpc import GrpcAddress, grpc_server
from trimtab.app.state.definitions import Definitions
from trimtab.app.state.documents import definitions_hash
from trimtab.app.system import System
from trimtab.core.clock import ShiftedClock
from trimtab.core.errors import TrimtabError, Unavailable
from trimtab.core.shown import count_of
from trimtab.serving.workers.channel import BEAT, CHANGED, READY, WAKE, WorkerChannel

_LOAD_S, _RETRY_S = 3.0, 0.5
_OVER_S = 2.0  # after the grace period, the time to close everything
_SILENT_US = 10_000_000  # after this time without a sign of life, the process that applies events counts as stopped


class WorkerTask(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a worker process."""

    slot: int  # the index of the worker, from 1
    count: int  # the number of workers
    project: ProjectSpec
    folder: str  # the folder in which the service's processes keep their files
    ahead_us: int | None  # the project's clock minus the monotonic clock; None for the system's clock
    fill_s: float  # at the start, the longest wait until online features are filled
    grace_s: float  # how long running requests may continue at the end
    definitions: str  # the hash of the definitions with which the service started
    grpc: GrpcAddress | None = None
    start: str = ""  # an id of this start of the service, for its metrics


def main(line_fd: int, listener_fd: int) -> None:
    """Answer requests until the supervisor ends or tells this worker to end."""
    from trimtab.serving.http.requests.threads import exit_now

    line = WorkerChannel(line_fd)
    task = msgspec.msgpack.decode(line.task(), type=WorkerTask)
    line.on_close(lambda: _end_alone(task.grace_s))
    listener = socket.socket(fileno=listener_fd)
    clock = None if task.ahead_us is None else ShiftedClock(time.monotonic_ns() // 1_000 + task.ahead_us)
    definitions = _definitions(task.project.config.project_file)
    if definitions_hash(definitions) != task.definitions:
        line.send(CHANGED)
    with listener, task.project.open(definitions, clock=clock) as system:
        answer(system, task, line, listener)
    exit_now(0)


def _definitions(file: Path) -> Definitions:
    """Return the definitions in the project file as it is now.

    The file was readable when the service started, but may have changed since.

    Raises:
        TrimtabError: The definitions can no longer be read.
    """
    from trimtab.app.state.definitions import load_definitions

    try:
        return load_definitions(file)
    except TrimtabError as error:
        said = "the project file has changed since the service started; correct it and restart the service"
        raise type(error)(f"{said}: {error}") from error


def _end_alone(grace_s: float) -> None:
    """End this worker because its supervisor is gone. Running requests may finish within the grace period. # D92"""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s + _OVER_S)
    os._exit(1)


def answer(system: System, task: WorkerTask, line: WorkerChannel, listener: socket.socket) -> None:
    """Answer requests at `listener` until SIGTERM."""
    from trimtab.app.serve.followed_views import FollowedViews
    from trimtab.app.serve.parts import http_service, tls_of
    from trimtab.serving.http.server.accepting import Connections
    from trimtab.serving.http.server.server import serve
    from trimtab.serving.workers.late_log import LateLog
    from trimtab.serving.workers.states import read_state
    from trimtab.serving.workers.worker_metrics import MetricsWriter, SharedMetrics

    begun = system.state.events.positions()
    views = FollowedViews(system, lambda: line.send(WAKE), lambda: read_state(Path(task.folder)))
    with ExitStack() as opened:
        metrics = SharedMetrics(Path(task.folder), str(task.slot), task.start)
        background = BackgroundTasks(system, keeps=False, worker=task.slot, stands=lambda: _stands(task))
        background.show(metrics)
        service = http_service(
            system,
            opened,
            log=LateLog(system.state.predictions, system.clock),
            metrics=metrics,
            host=listener.getsockname()[0],
            workers=task.count,
            wait_applied=views.wait_applied,
            ready=lambda: missing_here(task, views.missing(begun)),
            grpc=grpc_server(task.grpc, tls_of(system)),
        )
        _load(background)
        opened.enter_context(background.start())
        opened.enter_context(MetricsWriter(metrics))
        with suppress(Unavailable):  # the readiness check shows this; requests get the features that exist
            views.wait_applied(begun, task.fill_s)
        serve(
            service,
            listener=listener,
            connections=Connections(Path(task.folder), task.slot),
            announce=lambda url: line.send(READY),
            beat=lambda: line.send(BEAT),
            tls=tls_of(system),
            grace_s=task.grace_s,
            impatient=False,
        )


def _load(background: BackgroundTasks) -> None:
    """Load all deployed versions. If a load fails, try again for three seconds before this worker is ready."""
    end_s = time.monotonic() + _LOAD_S
    background.follow()
    while background.failures and time.monotonic() < end_s:
        time.sleep(_RETRY_S)
        background.follow()


def missing_here(task: WorkerTask, left: int) -> str | None:
    """Return why online features do not keep up with the log, or None if they do."""
    from trimtab.serving.workers.states import read_state

    state = read_state(Path(task.folder))
    if state is None:
        return "the process that applies events has not reported its state yet."
    silent_us = time.time_ns() // 1_000 - state.at_us
    if silent_us > _SILENT_US:
        return f"the process that applies events has shown no sign of life for {silent_us // 1_000_000} s."
    if state.stands_still is not None:
        return state.stands_still
    return f"online features are being filled: {count_of(left, 'record')} to apply." if left else None


def _stands(task: WorkerTask) -> bool:
    """Return whether the process that applies events has stopped applying them."""
    from trimtab.serving.workers.states import read_state

    state = read_state(Path(task.folder))
    return state is not None and state.stopped


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except TrimtabError as error:
        sys.exit(f"{type(error).__name__}: {error}")
