"""One worker of `trimtab serve`: a process that answers, and leaves everything else to the one that watches it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trimtab.app.features.project_spec import ProjectSpec
from trimtab.app.serve.grpc import GrpcAddress, grpc_beside
from trimtab.core.errors import TrimtabError, Unavailable
from trimtab.core.hashing import content_hash
from trimtab.serving.workers.channel import BEAT, CHANGED, READY, WAKE, Line

if TYPE_CHECKING:
    from trimtab.app.serve.background import BackgroundTasks
    from trimtab.app.state.definitions import Definitions
    from trimtab.app.system import System

_LOAD_S, _RETRY_S = 3.0, 0.5
_OVER_S = 2.0  # beyond the grace, to close what is open
_SILENT_US = 10_000_000  # without a word the process that applies events does not get on


class WorkerTask(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told."""

    slot: int  # its number, from 1
    count: int  # how many workers there are
    project: ProjectSpec
    folder: str  # where the processes of the service tell of themselves
    ahead_us: int | None  # of the monotonic clock is the project's; None: it has the system's
    fill_s: float  # how long to wait for the online features
    grace_s: float  # for requests under way at the end
    definitions: str  # the address of what the project file declared when the service began
    grpc: GrpcAddress | None = None
    start: str = ""  # of the service, for its figures


def main(line_fd: int, listener_fd: int) -> None:
    """Answer until the process that watches ends, or says so."""
    from trimtab.core.clock import ShiftedClock
    from trimtab.serving.http.requests.threads import leave

    line = Line(line_fd)
    task = msgspec.msgpack.decode(line.task(), type=WorkerTask)
    line.watch(lambda: _end_alone(task.grace_s))
    listener = socket.socket(fileno=listener_fd)
    clock = None if task.ahead_us is None else ShiftedClock(time.monotonic_ns() // 1_000 + task.ahead_us)
    definitions = _definitions(task.project.config.project_file)
    if definitions_hash(definitions) != task.definitions:
        line.say(CHANGED)
    with listener, task.project.open(definitions, clock=clock) as system:
        answer(system, task, line, listener)
    leave(0)


def definitions_hash(definitions: Definitions) -> str:
    """The content address of all that a project file declares; what it says for people is no part of it."""
    from trimtab.app.state.documents import documents, formats_of

    return content_hash([[key, one.hash, formats_of(one)] for key, one in sorted(documents(definitions).items())])


def _definitions(file: Path) -> Definitions:
    """What the project file declares by now: the service could read it when it began.

    Raises:
        TrimtabError: It cannot be read any more.
    """
    from trimtab.app.state.definitions import load_definitions

    try:
        return load_definitions(file)
    except TrimtabError as error:
        said = "the project file has changed since the service started; put it right and restart the service"
        raise type(error)(f"{said}: {error}") from error


def _end_alone(grace_s: float) -> None:
    """End as if the process that watches had asked for it, and as it would see to: nobody else does any more. # D126"""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s + _OVER_S)
    os._exit(1)


def answer(system: System, task: WorkerTask, line: Line, listener: socket.socket) -> None:
    """Answer what comes in at `listener`, until SIGTERM."""
    from trimtab.app.serve.background import BackgroundTasks
    from trimtab.app.serve.followed_views import FollowedViews
    from trimtab.app.serve.parts import http_service, tls_of
    from trimtab.serving.http.server.accepting import Connections
    from trimtab.serving.http.server.server import serve
    from trimtab.serving.workers.late_log import LateLog
    from trimtab.serving.workers.states import read_state
    from trimtab.serving.workers.worker_metrics import ArmMetricsWriter, SharedMetrics

    begun = system.state.events.positions()
    views = FollowedViews(system, lambda: line.say(WAKE), lambda: read_state(Path(task.folder)))
    with ExitStack() as opened:
        metrics = SharedMetrics(Path(task.folder), str(task.slot), task.start)
        keeper = BackgroundTasks(system, keeps=False, worker=task.slot, stands=lambda: _stands(task))
        keeper.show(metrics)
        service = http_service(
            system,
            opened,
            log=LateLog(system.state.predictions, system.clock),
            metrics=metrics,
            host=listener.getsockname()[0],
            workers=task.count,
            wait_applied=views.wait_applied,
            ready=lambda: missing_here(task, views.missing(begun)),
            beside=grpc_beside(task.grpc, tls_of(system)),
        )
        _load(keeper)
        opened.enter_context(keeper.start())
        opened.enter_context(ArmMetricsWriter(metrics))
        with suppress(Unavailable):  # then readiness says so, and whoever asks all the same gets what is there
            views.wait_applied(begun, task.fill_s)
        serve(
            service,
            listener=listener,
            connections=Connections(Path(task.folder), task.slot),
            announce=lambda url: line.say(READY),
            beat=lambda: line.say(BEAT),
            tls=tls_of(system),
            grace_s=task.grace_s,
            impatient=False,
        )


def _load(keeper: BackgroundTasks) -> None:
    """Load every version in service; one that cannot be is tried for a moment, while other workers answer."""
    end_s = time.monotonic() + _LOAD_S
    keeper.follow()
    while keeper.failures and time.monotonic() < end_s:
        time.sleep(_RETRY_S)
        keeper.follow()


def missing_here(task: WorkerTask, left: int) -> str | None:
    """Why online features do not follow the log, if they do not."""
    from trimtab.serving.workers.states import read_state

    state = read_state(Path(task.folder))
    if state is None:
        return "the process that applies events has not begun."
    silent_us = time.time_ns() // 1_000 - state.at_us
    if silent_us > _SILENT_US:
        return f"the process that applies events has not been heard of for {silent_us // 1_000_000} s."
    if state.stands_still is not None:
        return state.stands_still
    return f"online features are being filled: {left:,} records to apply." if left else None


def _stands(task: WorkerTask) -> bool:
    """True once the process that applies events has stopped doing so."""
    from trimtab.serving.workers.states import read_state

    state = read_state(Path(task.folder))
    return state is not None and state.stopped


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except TrimtabError as error:
        sys.exit(f"{type(error).__name__}: {error}")
