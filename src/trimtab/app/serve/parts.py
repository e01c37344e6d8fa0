"""Functions that the one-process service, the supervising process and its workers share."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

from trimtab.app.features.feature_failures import failure_counts
from trimtab.app.metrics.loop_metrics import LoopMetrics
from trimtab.app.serve.addresses import mount_project, open_access
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.serve.grpc import MakeGrpc
from trimtab.app.serve.telemetry import open_telemetry
from trimtab.app.system import System
from trimtab.core.errors import Unavailable
from trimtab.core.shown import count_of
from trimtab.serving.applier import Applier
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.routes.pushing import WaitApplied
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import GRACE_S
from trimtab.serving.http.server.tls import Tls
from trimtab.serving.http.service import HttpService, ServiceHooks
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.spool import recover_spools
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.shared_status import SharedStatus

FILL_S = 10.0  # at the start, the longest wait until online features are filled

T = TypeVar("T")

_LEFT_S = GRACE_S + 5.0  # workers whose supervisor was killed have released the port after this time

_LOOK_S = 0.05

_MARK = "connections"  # a file that exists while workers may be running; made and removed by `accepting`


def when_port_is_free(folder: Path, take: Callable[[], T]) -> T:
    """Return the result of `take`, which listens at a port.

    If a service was killed, its workers may hold the port for a while, so `take` is called again for up to `_LEFT_S`. A
    file (the mark) says that there may be such workers. It is kept until this service has the port: if this start is
    killed while it waits, the next one finds the mark. Without a mark, `take` is called once.

    Args:
        folder: The folder in which the service's processes keep their files.
        take: Listens at the port, or checks whether that is possible.

    Raises:
        Unavailable: The error of `take`, at once or after the wait.
    """
    end_s = monotonic() + _LEFT_S
    while True:
        try:
            return take()
        except Unavailable as error:
            if not (_is_taken(error) and (folder / _MARK).exists()):
                raise
            if monotonic() >= end_s:
                with suppress(OSError):
                    accepting.end(folder)  # another service has the port, so the next start need not wait
                raise
        sleep(_LOOK_S)


def _is_taken(error: Unavailable) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE


def http_service(
    system: System,
    opened: ExitStack,
    *,
    log: PredictionLog,
    metrics: Metrics,
    host: str,
    workers: int,
    wait_applied: WaitApplied,
    ready: Callable[[], str | None],
    grpc: MakeGrpc | None = None,
) -> HttpService:
    """Return the HTTP service of this process, with endpoints for all deployments.

    Args:
        opened: When this stack is closed, the parts of the service are closed.
        wait_applied: Waits until events are applied to the online features.
        ready: Returns why the service cannot answer yet; None if it can.
    """
    models = [system.served(name) for name in system.definitions.deployments]
    spools, answers = system.state.spools, system.state.predictions
    if isinstance(answers, BufferedLog):  # answers are buffered in a file, which outlives the process
        answers.open()
    else:
        recover_spools(spools, system.predictions)  # move answers from the buffers of a killed service into the log
    status = opened.enter_context(SharedStatus(spools))
    service = HttpService(
        [model.endpoint for model in models],
        log,
        metrics=metrics,
        limits=limits(system),
        push=lambda source, rows: system.ingestor.push(source, rows),
        access=open_access(system, opened, host=host, workers=workers),
        wait_applied=wait_applied,
        hooks=ServiceHooks(ready=ready, failing=status.publish, telemetry=open_telemetry(system, opened)),
    )
    inference = mount_project(system, service, log.find)
    if grpc is not None:
        service.lifecycle.server = grpc(service, inference)
    return service


def print_url(url: str) -> None:
    """Print the service's URL."""
    print(f"trimtab serves on {url} (stop with Ctrl-C)", flush=True)


def print_grpc(address: str) -> None:
    """Print the gRPC address."""
    print(f"trimtab serves gRPC on {address}", flush=True)


def limits(system: System) -> Limits:
    """Return the limits of requests from the settings."""
    settings = system.config.serve
    return Limits(body_bytes=settings.max_body_bytes, bodies_bytes=settings.max_bodies_bytes, rows=settings.max_rows)


def tls_of(system: System) -> Tls | None:
    """Return the certificate that the settings name; None for plain HTTP."""
    settings, folder = system.config.serve, system.config.folder
    if settings.tls_cert is None:
        return None
    key = None if settings.tls_key is None else folder / settings.tls_key
    return Tls(folder / settings.tls_cert, key, settings.tls_min)


def show_engine(system: System, metrics: Metrics, applier: Applier, background: BackgroundTasks) -> None:
    """Register the metrics of the thread that applies events and of the training loops."""
    lag = "trimtab_views_lag_records", "Records of the event log not applied yet."
    metrics.gauge(*lag, (), lambda: {(): applier.lag_records()})
    metrics.counted(
        "trimtab_feature_failures_total",
        "Events for which a feature's value failed, since its view was filled.",
        ("view", "feature"),
        lambda: failure_counts(system),
    )
    background.show(metrics)
    LoopMetrics(system).show(metrics)


def what_hinders(system: System, applier: Applier) -> str | None:
    """Return why events cannot be recorded or applied to online features; None if they can."""
    if (jump := system.state.clock_jump()) is not None:
        return jump
    if applier.failure:
        return f"the applier stopped: {applier.failure}"
    return f"events cannot be applied: {system.views.blocked}" if system.views.blocked else None


def stands_still(system: System, applier: Applier, begun: Mapping[str, int]) -> str | None:
    """Return why online features do not keep up with the log; None if they do.

    Args:
        begun: The log positions at the start of the service. Until they are reached, features are still being filled.

    Raises:
        Corrupt: The features are damaged. The message has the command that repairs them.
    """
    left = system.views.missing(begun)  # counted in the store: another process may have replaced it
    if hindrance := what_hinders(system, applier):
        return hindrance
    return f"online features are being filled: {count_of(left, 'record')} to apply." if left else None
