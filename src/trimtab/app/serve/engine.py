"""Run `trimtab serve` with several workers. This process supervises them and does everything except answering.

It owns the listening socket, applies events (as the only process that writes online features), teaches learners and
runs the training loops. The workers (`app/serve/worker.py`) give all answers.  # D92
"""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from trimtab.app.features.project_spec import ProjectSpec
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.serve.grpc import GrpcAddress, check_grpc
from trimtab.app.serve.parts import (
    FILL_S,
    limits,
    print_grpc,
    print_url,
    show_engine,
    tls_of,
    what_hinders,
    when_port_is_free,
)
from trimtab.app.serve.worker import WorkerTask
from trimtab.app.state.documents import definitions_hash
from trimtab.app.state.service_failures import forget_failures
from trimtab.app.system import System
from trimtab.core.clock import ShiftedClock, SystemClock
from trimtab.core.errors import Misuse, Unavailable
from trimtab.serving.applier import Applier
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import GRACE_S, listen, url_of
from trimtab.serving.http.server.tls import tls_context
from trimtab.serving.workers.states import FOLDER, ServiceState, remove_state, write_state
from trimtab.serving.workers.supervisor import Patience, SlotState, Supervisor
from trimtab.serving.workers.worker_metrics import SharedMetrics, clear
from trimtab.store.durable_files import make_folder

NAME = "engine"  # this process writes its metrics under this name, next to those of the workers
_WRITE_S = 1.0  # the time between two writes of metrics and state
_logger = logging.getLogger(__name__)


def serve_with_workers(
    system: System,
    *,
    host: str,
    port: int,
    count: int,
    ready: Callable[[str], object] | None,
    grpc: GrpcAddress | None = None,
    grpc_ready: Callable[[str], object] | None = None,
) -> None:
    """Serve a project with `count` workers until SIGTERM, SIGINT or SIGHUP.

    Raises:
        Misuse: A setting is wrong, or the project's clock cannot be given to another process.
        Unavailable: The port is taken, or no worker can be started.
        Conflict: Another process serves the project.
    """
    limits(system)  # raises an error for wrong settings; otherwise, each worker would
    tls = tls_of(system)
    if tls is not None:
        tls_context(tls)
    folder = system.state_folder / FOLDER
    task = msgspec.structs.replace(_task(system, folder), grpc=grpc)
    with ExitStack() as opened:
        applier = system.views.follow()
        opened.callback(system.views.release)
        with suppress(OSError):  # if the folder cannot be written, `_cleared` raises an error that says so
            remove_state(folder)
        forget_failures(system.state.catalog)
        listener = opened.enter_context(when_port_is_free(folder, lambda: listen(host, port)))
        when_port_is_free(folder, lambda: check_grpc(grpc, tls))
        opened.callback(accepting.end, folder)
        _cleared(folder)  # only now, because `when_port_is_free` needs the mark that a killed service left
        opened.enter_context(applier.start())
        background = BackgroundTasks(system, answers=False)
        metrics = SharedMetrics(folder, NAME, task.start)
        show_engine(system, metrics, applier, background)
        engine = _Engine(system, folder, url_of(listener, host, tls=tls is not None), applier, metrics)
        supervisor = Supervisor(
            [sys.executable, "-X", "faulthandler", "-P", "-m", "trimtab.app.serve.worker"],
            lambda slot: msgspec.msgpack.encode(msgspec.structs.replace(task, slot=slot, count=count)),
            listener,
            count,
            patience=Patience(grace_s=GRACE_S),
            wake_requested=applier.wake,
            ended=engine.on_worker_exit,
            each_round=engine.publish,
        )
        engine.watch(supervisor)
        opened.callback(engine.close)
        opened.enter_context(background.start())

        def announce() -> None:
            if grpc is not None:
                (grpc_ready or print_grpc)(f"{grpc.host}:{grpc.port}")
            (ready or print_url)(engine.url)

        supervisor.run(announce)


class _Engine:
    """Writes files with the metrics of the supervising process and with the state of the whole service."""

    def __init__(self, system: System, folder: Path, url: str, applier: Applier, metrics: SharedMetrics) -> None:
        self.url = url
        self._system = system
        self._folder = folder
        self._applier = applier
        self._metrics = metrics
        self._written_s = -_WRITE_S
        self._written_workers: list[SlotState] = []
        self._failed = False

    def watch(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        states = supervisor.states
        self._metrics.counted(
            "trimtab_worker_restarts_total",
            "How often a worker was restarted.",
            ("slot",),
            lambda: {(str(state.slot),): state.restarts for state in states()},
        )
        self._metrics.gauge(
            "trimtab_worker_ready",
            "1 for a worker that answers, 0 while it starts.",
            ("slot",),
            lambda: {(str(state.slot),): int(state.ready) for state in states()},
        )

    def publish(self) -> None:
        """Write metrics and state if they are due, or if a worker has started or ended."""
        now_s, workers = time.monotonic(), self._supervisor.states()
        if now_s - self._written_s < _WRITE_S and workers == self._written_workers:
            return
        self._written_s, self._written_workers = now_s, workers
        try:
            self._metrics.write()
            write_state(
                self._folder,
                ServiceState(
                    pid=os.getpid(),
                    url=self.url,
                    at_us=time.time_ns() // 1_000,
                    workers=workers,
                    stands_still=what_hinders(self._system, self._applier),
                    stopped=self._applier.failure is not None,
                    start=self._metrics.start,
                ),
            )
            self._failed = False
        except Exception as error:  # a full disk or an unreadable log must not end the supervision of workers
            if not self._failed:
                _logger.warning("the state of the service cannot be written: %s", error)
            self._failed = True

    def on_worker_exit(self, slot: int, pid: int) -> None:
        """Remove the metrics and failures of a worker that has ended."""
        try:
            clear(self._folder, str(slot), pid)
            accepting.left(self._folder, slot)
            forget_failures(self._system.state.catalog, slot)
        except Exception as error:  # the next worker overwrites these metrics
            _logger.warning("the files of worker %d, which has ended, cannot be removed: %s", slot, error)

    def close(self) -> None:
        """Remove the files with the metrics and the state at the end of the service."""
        clear(self._folder)
        accepting.end(self._folder)
        remove_state(self._folder)
        forget_failures(self._system.state.catalog)


def _task(system: System, folder: Path) -> WorkerTask:
    ahead_us = None
    if isinstance(system.clock, ShiftedClock):
        ahead_us = system.clock.now_us() - time.monotonic_ns() // 1_000
    elif not isinstance(system.clock, SystemClock):
        raise Misuse(
            f"workers: a {type(system.clock).__name__} cannot be given to other processes. Serve with workers=1, or "
            "open the project with the system's clock."
        )
    return WorkerTask(
        slot=0,
        count=0,
        project=ProjectSpec.of(system.config, system.state_folder),
        folder=str(folder),
        ahead_us=ahead_us,
        fill_s=FILL_S,
        grace_s=GRACE_S,
        definitions=definitions_hash(system.definitions),
        start=uuid.uuid4().hex,  # not a process id, which is 1 in every container
    )


def _cleared(folder: Path) -> None:
    """Remove the files of a killed service's workers, and mark that workers may run from now on."""
    try:
        make_folder(folder)
        clear(folder)
        accepting.begin(folder)
        remove_state(folder)
    except OSError as error:
        raise Unavailable(f"{folder}: cannot be written ({error}). Check space and access.") from error
