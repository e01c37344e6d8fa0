"""Run `trimtab serve` in a single process: HTTP, applying events, online learning and training loops."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from time import time_ns

from trimtab.app.plan.applying import apply_first
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.serve.engine import serve_with_workers
from trimtab.app.serve.grpc import check_grpc, grpc_address, grpc_server
from trimtab.app.serve.parts import (
    FILL_S,
    http_service,
    print_grpc,
    print_url,
    show_engine,
    stands_still,
    tls_of,
    when_port_is_free,
)
from trimtab.app.serve.telemetry import check_telemetry
from trimtab.app.state.lost_records import refuse_lost
from trimtab.app.state.service_failures import forget_failures
from trimtab.app.system import System
from trimtab.core.errors import Corrupt, Misuse, Unavailable
from trimtab.serving.access_keys import MARKER
from trimtab.serving.http.predict.service_metrics import show_cached
from trimtab.serving.http.requests.access import is_loopback
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import listen, serve
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.workers.states import FOLDER, ServiceState, remove_state, write_state
from trimtab.serving.workers.worker_metrics import MetricsWriter, SharedMetrics, clear
from trimtab.store.durable_files import make_folder


def serve_project(
    system: System,
    *,
    host: str | None,
    port: int | None,
    ready: Callable[[str], object] | None,
    workers: int | None = None,
    grpc_port: int | None = None,
    grpc_ready: Callable[[str], object] | None = None,
) -> None:
    """Serve a project until the process is told to stop; see `Project.serve`."""
    settings = system.config.serve
    host, port = host or settings.host, settings.port if port is None else port
    count = settings.workers if workers is None else workers
    if count < 1:
        raise Misuse(f"workers={count}: give 1 (one process does everything) or more.")
    check_telemetry(system, count)
    grpc = grpc_address(system, host, grpc_port, count)
    if warning := open_to_all(system, host):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if (damage := system.views.damage()) is not None:
        raise Corrupt(damage)  # D116
    refuse_lost(system.state)
    refuse_lost_keys(system)
    apply_first(system)
    if count > 1:
        serve_with_workers(system, host=host, port=port, count=count, ready=ready, grpc=grpc, grpc_ready=grpc_ready)
        return
    begun = system.state.events.positions()
    with ExitStack() as opened:
        applier = system.views.follow()
        opened.callback(system.views.release)
        forget_failures(system.state.catalog)
        opened.enter_context(applier.start())
        metrics = Metrics()
        background = BackgroundTasks(system, stands=lambda: applier.failure is not None)
        show_engine(system, metrics, applier, background)
        folder = system.state_folder / FOLDER
        when_port_is_free(folder, lambda: check_grpc(grpc, tls_of(system)))
        service = http_service(
            system,
            opened,
            log=system.predictions,
            metrics=metrics,
            host=host,
            workers=1,
            wait_applied=applier.wait_applied,
            ready=lambda: stands_still(system, applier, begun),
            grpc=grpc_server(grpc, tls_of(system), grpc_ready or print_grpc),
        )
        background.follow()
        opened.enter_context(background.start())
        with suppress(Unavailable):  # the readiness check reports this; answers use the features that exist
            applier.wait_applied(begun, FILL_S)
        listener = opened.enter_context(when_port_is_free(folder, lambda: listen(host, port)))
        accepting.end(folder)  # all workers of an earlier service have ended
        _write_cache_metrics(system, opened, folder)
        opened.callback(remove_state, folder)

        def announce(url: str) -> None:
            with suppress(OSError):  # if the disk is full, clients use the address in the settings
                make_folder(folder)
                now_us = time_ns() // 1_000
                write_state(folder, ServiceState(pid=os.getpid(), url=url, at_us=now_us, workers=[]))
            (ready or print_url)(url)

        serve(service, host=host, listener=listener, announce=announce, tls=tls_of(system))


def _write_cache_metrics(system: System, opened: ExitStack, folder: Path) -> None:
    """Write the metrics of score caches to a file, which `trimtab status` reads.

    Only a service of a single process needs this: each of several workers writes all of its metrics to a file anyway.
    """
    cached = [name for name, one in system.definitions.deployments.items() if one.cache is not None]
    with suppress(OSError):  # if the disk is full, `status` shows no score caches
        make_folder(folder)
        clear(folder)  # remove the files of a service that was killed
    if cached:
        metrics = SharedMetrics(folder, "1")
        show_cached(metrics, [system.served(name).endpoint for name in cached])
        opened.enter_context(MetricsWriter(metrics))


def refuse_lost_keys(system: System) -> None:
    """Raise an error if API keys existed and were lost, unless the settings say that no key is needed. # D0096

    Raises:
        Corrupt: The catalogue was lost, or restored from a time before the first key.
    """
    if system.config.serve.require_key is None and system.keys.lost():
        raise Corrupt(
            f"{system.state_folder}: this service needed API keys ({MARKER} says so), but the catalogue has none: it "
            "was lost, or restored from a time before the first key. Make one (trimtab keys add NAME --role ROLE), "
            "bring the catalogue back, or set serve.require_key = false to allow requests without a key."
        )


def open_to_all(system: System, host: str) -> str | None:
    """Return a warning if other machines can reach a service that needs no key; otherwise None."""
    required = system.config.serve.require_key
    closed = system.keys.ever() if required is None else required
    if closed or is_loopback(host):
        return None
    return (
        f"any client that reaches {host} may predict, push and read without a key. Make one (trimtab keys add NAME "
        "--role ROLE), set serve.require_key, or serve on 127.0.0.1."
    )
