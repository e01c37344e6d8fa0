"""Parts shared by the service, the engine and its workers."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, TypeVar

from trimtab.app.features.feature_failures import failure_counts
from trimtab.app.metrics.loop_metrics import LoopMetrics
from trimtab.app.serve.addresses import mount_project, open_access
from trimtab.app.serve.background import BackgroundTasks
from trimtab.app.serve.grpc import MakeGrpc
from trimtab.app.serve.telemetry import open_telemetry
from trimtab.core.errors import Unavailable
from trimtab.serving.http.requests.limits import Limits
from trimtab.serving.http.server import accepting
from trimtab.serving.http.server.server import GRACE_S
from trimtab.serving.http.server.tls import Tls
from trimtab.serving.http.service import HttpService, ServiceHooks
from trimtab.serving.log.buffered_log import BufferedLog
from trimtab.serving.log.spool import recover_spools
from trimtab.serving.observe.metrics import Metrics
from trimtab.serving.observe.shared_status import SharedStatus

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.serving.applier import Applier
    from trimtab.serving.http.routes.pushing import WaitApplied
    from trimtab.serving.log.prediction_log import PredictionLog


FILL_S = 10.0  # how long a start waits for features to be filled

T = TypeVar("T")

_LEFT_S = GRACE_S + 5.0  # until orphaned workers of a killed supervisor release the port

_LOOK_S = 0.05

_MARK = "connections"  # made by `accepting` before the first worker, removed after the last


def when_port_is_free(folder: Path, take: Callable[[], T]) -> T:
    """The result of `take`, which listens at a port; retried while workers of a killed service may still hold it.

    The mark of such workers stays until the port is taken, so that a start which is killed while waiting leaves it to
    the next one. Without a mark there is no wait.

    Args:
        folder: The folder of the service's processes.
        take: Listens, or checks whether that is possible.

    Raises:
        Unavailable: The error of `take`, at once or after the wait.
    """
    end_s = monotonic() + _LEFT_S
    while True:
        try:
            return take()
        except Unavailable as error:
            if not (_is_taken(error) and _may_be_left(folder)):
                raise
            if monotonic() >= end_s:
                with suppress(OSError):
                    accepting.end(folder)  # another service has it: the next start fails at once
                raise
        sleep(_LOOK_S)


def _is_taken(error: Unavailable) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE


def _may_be_left(folder: Path) -> bool:
    """Whether a service had workers and did not see them end."""
    return (folder / _MARK).exists()


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
    """The HTTP service of this process, over every deployment.

    Args:
        project: What is served.
        opened: Closes its parts.
        log: The prediction log.
        metrics: Gets its metrics.
        host: The address it listens on.
        workers: The number of answering processes.
        wait_applied: Waits for the online features.
        ready: Returns what is missing until it can answer; None: ready.
        grpc: Creates the gRPC server.
    """
    models = [system.served(name) for name in system.definitions.deployments]
    spools, answers = system.state.spools, system.state.predictions
    if isinstance(answers, BufferedLog):  # answers do not wait for the log, yet survive the process
        answers.open()
    else:
        recover_spools(spools, system.predictions)  # it may have been relaxed when it was killed
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
    """The settings-driven request limits."""
    settings = system.config.serve
    return Limits(body_bytes=settings.max_body_bytes, bodies_bytes=settings.max_bodies_bytes, rows=settings.max_rows)


def tls_of(system: System) -> Tls | None:
    """The certificate by the settings; None: plain HTTP."""
    settings, folder = system.config.serve, system.config.folder
    if settings.tls_cert is None:
        return None
    key = None if settings.tls_key is None else folder / settings.tls_key
    return Tls(folder / settings.tls_cert, key, settings.tls_min)


def show_engine(system: System, metrics: Metrics, applier: Applier, background: BackgroundTasks) -> None:
    """Register the metrics of the applier and of the loop."""
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
    """Why events cannot be recorded or applied; None if they can."""
    if (jump := system.state.clock_jump()) is not None:
        return jump
    if applier.failure:
        return f"the applier stopped: {applier.failure}"
    return f"events cannot be applied: {system.views.blocked}" if system.views.blocked else None


def stands_still(system: System, applier: Applier, begun: Mapping[str, int]) -> str | None:
    """Why online features do not follow the log; None if they do.

    Args:
        project: What is served.
        applier: Applies events to the features.
        begun: The log's positions at the start of the service: below them, features are still being filled.

    Raises:
        Corrupt: The features are damaged; the message has the command that repairs them.
    """
    left = system.views.missing(begun)  # from the store, not the applier: it may have been replaced
    if hindrance := what_hinders(system, applier):
        return hindrance
    return f"online features are being filled: {left:,} records to apply." if left else None
